"""The student's networks, built from the bindings, and where they start."""

import functools
from typing import Annotated, Any, Callable, Mapping, Sequence, Union

import gin
import tensorflow as tf

from soka_tf.errors import UserError
from soka_tf.kinds import Flag, Path, configurable, either, one_of, whole
from soka_tf.networks.applications import APPLICATIONS, Application
from soka_tf.networks.backbone import Backbone
from soka_tf.networks.decoder import OUTPUT_STRIDES, Decoder
from soka_tf.networks.encoder import Encoder
from soka_tf.networks.named_variables import assign_variables, named_variables
from soka_tf.runs.config import made_by, or_user_error
from soka_tf.soka.student import Student
from soka_tf.tasks import Lenders, TaskName, get_targets, get_task
from soka_tf.teachers.finding import load_teachers
from soka_tf.teachers.pool import TeacherPool
from soka_tf.teachers.taskonomy.network import TaskonomyTeacher
from soka_tf.teachers.variable_matching import leading_part, shapes_of

bound_encoder = gin.external_configurable(
    Encoder, allowlist=["units", "width", "strides"]
)
bound_decoder = gin.external_configurable(Decoder, allowlist=["width", "min_filters"])
bound_application = gin.external_configurable(
    Application, allowlist=["width", "output_stride"]
)

TASKONOMY = "taskonomy"
_BACKBONE = either(
    one_of((TASKONOMY, *APPLICATIONS)), configurable("a reference, @YourBackbone")
)


@gin.configurable
def build_student(
    tasks: Sequence[str],
    backbone: Annotated[Union[str, Callable[..., Backbone]], _BACKBONE] = TASKONOMY,
    representation_channels: Annotated[int, whole(1, 65536)] = 8,
    synchronized_batch_norm: Flag = True,
    seed: int = 0,
) -> Student:
    """Builds the student, randomly initialised (Step 1).

    Args:
      tasks: its tasks.
      backbone: "taskonomy", the bound `Encoder`; a network of
        `soka_tf.networks.applications`; or what makes another backbone of the keywords
        representation_channels and synchronized.
      representation_channels: of the shared representation.
      synchronized_batch_norm: whether BatchNorm is by the batch of all replicas.
      seed: of the initial values.

    Raises:
      UserError: if `backbone` makes no backbone, refuses its bindings, or has an output
        stride that no decoder undoes.
    """
    tf.keras.utils.set_random_seed(seed)
    encoder = _make_encoder(
        backbone,
        representation_channels=representation_channels,
        synchronized=synchronized_batch_norm,
    )
    decoders = {
        task.name: made_by(
            "Decoder",
            bound_decoder,
            task.channels,
            upsamplings=OUTPUT_STRIDES.index(encoder.output_stride),
            representation_channels=encoder.representation_channels,
            synchronized=synchronized_batch_norm,
            name=f"decoder_{task.name}",
            activation=task.activation,
        )
        for task in get_targets(tasks)
    }
    return Student(encoder, decoders)


def _make_encoder(backbone: Any, **arguments: Any) -> Backbone:
    if backbone in APPLICATIONS:
        backbone = functools.partial(bound_application, backbone)
    elif backbone == TASKONOMY:
        backbone = bound_encoder
    made, reason = backbone, ""
    try:
        made = made_by("Application", backbone, **arguments)
    except TypeError as error:  # other arguments: a configurable of another kind
        reason = f": {error}"
    if not isinstance(made, Backbone):
        raise UserError(
            f"build_student.backbone must be {_BACKBONE.words} that makes a "
            f"{Backbone.__module__}.Backbone of the keywords {', '.join(arguments)}. "
            f"Received: {made!r}{reason}"
        )
    if made.output_stride not in OUTPUT_STRIDES:
        raise UserError(
            "build_student.backbone must have an output stride that decoders undo, one "
            f"of {OUTPUT_STRIDES}. Received: {made.output_stride}, of "
            f"{getattr(backbone, '__name__', 'build_student')}."
        )
    return made


@gin.configurable
def initialize_student(
    student: Student,
    teachers: TeacherPool,
    encoder: TaskName = None,
    decoders: Lenders = False,
    leading: Flag = False,
    teachers_dir: Path = None,
    encoder_weights: Path = None,
) -> None:
    """Starts parts of the student from trained ones; random by default (Step 1).

    Args:
      student: the student, changed in place.
      teachers: its teachers.
      encoder: the task whose teacher lends the encoder its weights; None for none.
      decoders: True for each decoder from its own teacher; or the student's tasks ->
        the tasks whose teachers lend their decoders' weights.
      leading: whether a smaller network takes the first channels of every layer and
        the first units of every block; BatchNorm with the batch's statistics makes up
        for the channels that fail.
      teachers_dir: where teachers are that are none of the run's; see `find_teachers`.
      encoder_weights: a local file of the weights that Keras publishes, for a backbone
        of `soka_tf.networks.applications`; None for none. Nothing is downloaded.

    Raises:
      UserError: if there is no such teacher or file, or the networks differ in size.
    """
    if encoder_weights is not None:
        _read_encoder_weights(student.encoder, encoder_weights, encoder)
    if isinstance(decoders, Mapping):
        lenders = {get_task(k).name: get_task(v).name for k, v in decoders.items()}
    else:
        lenders = {name: name for name in student.tasks} if decoders else {}
    unknown = [name for name in lenders if name not in student.tasks]
    if unknown:
        raise UserError(
            f"initialize_student.decoders: {', '.join(unknown)} is none of the "
            f"student's tasks, {', '.join(student.tasks)}."
        )
    first = None if encoder is None else get_task(encoder).name
    known = {**teachers.targets, **teachers.auxiliaries}
    wanted = {name for name in (first, *lenders.values()) if name not in (None, *known)}
    known.update(load_teachers(sorted(wanted), teachers_dir))

    lent = [] if first is None else [(student.encoder, first, "encoder")]
    for name, lender in lenders.items():
        lent.append((student.decoders[name], lender, "decoder"))
    for network, lender, part in lent:
        source = getattr(known[lender], part, None)
        if not isinstance(known[lender], TaskonomyTeacher) or source is None:
            raise UserError(
                f"initialize_student: the teacher of {lender!r} has no {part} to lend; "
                "teachers of <task>.safetensors files have."
            )
        values = {path: v.numpy() for path, v in named_variables(source).items()}
        if leading:
            values = leading_part(values, shapes_of(named_variables(network)))
        or_user_error(
            f"initialize_student, from the teacher of {lender!r}: ",
            functools.partial(assign_variables, network, values),
        )


def _read_encoder_weights(encoder: Backbone, path: str, lender: Any) -> None:
    if lender is not None or not isinstance(encoder, Application):
        of_class = f"an encoder of class {type(encoder).__name__}"
        other = f"initialize_student.encoder = {lender!r}" if lender else of_class
        raise UserError(
            "initialize_student.encoder_weights is for an encoder of "
            f"{', '.join(APPLICATIONS)} that starts from no teacher. Received: {path}, "
            f"and {other}. Bind None."
        )
    encoder.read_weights(path)


def count_trainable(network: Any) -> int:
    """Trainable scalars of a network."""
    return sum(v.shape.num_elements() for v in network.trainable_variables)
