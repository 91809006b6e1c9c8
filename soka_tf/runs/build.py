"""From bindings to the parts of a run. Every function here is plain, and gin's.

Values are bound in gin/base.gin, with their units and their place in the paper.
"""

import functools
import os
from typing import (
    Any,
    Callable,
    Dict,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Union,
)

import gin
import tensorflow as tf

from soka_tf.data.reading import RGB
from soka_tf.data.samples import (
    MASK_DOMAIN,
    Data,
    Sample,
    drop_damaged,
    split_samples,
)
from soka_tf.data.sources import folder, records, taskonomy
from soka_tf.data.sources import rooms as room_source
from soka_tf.errors import UserError
from soka_tf.networks.backbone import Backbone
from soka_tf.networks.decoder import OUTPUT_STRIDES, Decoder
from soka_tf.networks.discriminator import Discriminator
from soka_tf.networks.encoder import Encoder
from soka_tf.networks.weights import assign_variables, named_variables
from soka_tf.runs.optimizers import make_optimizer
from soka_tf.runs.schedules import poly_schedule
from soka_tf.soka.adversarial import Adversary
from soka_tf.soka.amalgamation import Amalgamation
from soka_tf.soka.balancing.fixed import Fixed
from soka_tf.soka.balancing.gradnorm import GradNorm
from soka_tf.soka.balancing.rule import Rule
from soka_tf.soka.balancing.uncertainty import Uncertainty
from soka_tf.soka.balancing.upgrad import UPGrad
from soka_tf.soka.model import SokaModel
from soka_tf.soka.student import Student
from soka_tf.soka.variants import Variant
from soka_tf.tasks import Task, get_targets, get_task
from soka_tf.teachers import pool
from soka_tf.teachers.pool import TeacherPool
from soka_tf.teachers.taskonomy.network import TaskonomyTeacher

find_teachers = gin.external_configurable(pool.find_teachers, "find_teachers")
load_pool = gin.external_configurable(pool.load_pool, "load_pool", denylist=["found"])
gin.external_configurable(Fixed, denylist=["tasks"])
gin.external_configurable(Uncertainty, denylist=["tasks"])
gin.external_configurable(UPGrad, denylist=["tasks"])


class Players(NamedTuple):
    """Who moves the players.

    Attributes:
      optimizers: player -> its optimizer.
      learning_rate: the schedule of encoder and decoders.
    """

    optimizers: Dict[str, tf.keras.optimizers.Optimizer]
    learning_rate: tf.keras.optimizers.schedules.LearningRateSchedule


@gin.configurable
def build_data(
    tasks: Sequence[str],
    image_size: int,
    split_file: Optional[str] = None,
    draw: bool = True,
    train_labels: bool = False,
    source: Optional[Callable[[List[str]], Union[List[Sample], Data]]] = None,
    images_dir: Optional[str] = None,
    taskonomy_dir: Optional[str] = None,
    buildings: Optional[Sequence[str]] = None,
    records_dir: Optional[str] = None,
    rooms_dir: Optional[str] = None,
    rooms_seed: int = 2,
    rooms: int = 100,
    train_views: int = 20,
    validation_views: int = 4,
    validation_fraction: float = 0.18,
    split_by: str = "point",
    split_seed: int = 0,
    check_files: bool = True,
) -> Data:
    """Finds the images: a source's, packed ones, a folder's, Taskonomy's, else rooms.

    Args:
      tasks: the student's tasks, for the labels of the validation images.
      image_size: side in pixels; rooms are drawn at this size.
      split_file: where a folder's split is kept; None to keep it nowhere.
      draw: whether missing rooms are drawn; False only looks what is there.
      train_labels: whether the images to train on must have labels, too.
      source: finds samples with labels of the domains it is given, beside rgb: a list
        to be checked and split, or a `Data`. Used before all others.
      images_dir: any folder of images; trains without labels.
      taskonomy_dir: root of a Taskonomy folder (docs: three layouts).
      buildings: of Taskonomy; None for all that are there.
      records_dir: shards that hold the files of either; used before both.
      rooms_dir: where rooms are kept; $SOKA_TF_CACHE or ~/.cache/soka_tf unless told.
      rooms_seed: of the rooms; the shipped teachers saw other seeds.
      rooms: number of rooms.
      train_views: views of each room to train on.
      validation_views: further views of the same rooms, to validate on.
      validation_fraction: share of all samples but rooms to validate on.
      split_by: "random" or "point"; views of one point overlap, a random split leaks.
      split_seed: of the split.
      check_files: whether every image is opened once beforehand; not those of rooms.

    Raises:
      UserError: if there are no images, or no labels where they are needed.
    """
    domains = [MASK_DOMAIN, *(task.name for task in get_targets(tasks))]
    if source is not None:
        found, name = _call_source(source, domains)
    elif records_dir:
        found = records.find(records_dir, domains, buildings)
        name = f"records in {records_dir}"
    elif images_dir:
        found, name = folder.find(images_dir), f"images of {images_dir}"
    elif taskonomy_dir:
        found = taskonomy.find(taskonomy_dir, domains, buildings)
        name = f"Taskonomy folder {taskonomy_dir}"
    else:
        return room_source.find(
            rooms_dir or default_cache_dir(),
            domains,
            image_size,
            rooms_seed,
            rooms,
            train_views,
            validation_views,
            draw,
            train_labels,
        )
    if not isinstance(found, Data):
        samples = drop_damaged(found, [RGB])[0] if check_files else found
        split = validation_fraction, split_by, split_seed, split_file
        found = Data(*_split(samples, name, *split), name)
    if train_labels:
        _check_labels(found.train, domains[1:], found.source)
    return found


def _call_source(source: Any, domains: List[str]) -> Tuple[Any, str]:
    """What a source from outside finds, looked over, and its name."""
    name = getattr(source, "__name__", repr(source))
    found = _made_by(name, source, list(dict.fromkeys(domains)))
    for samples in found[:2] if isinstance(found, Data) else [found]:
        if not isinstance(samples, list) or not all(
            isinstance(sample, Sample) and RGB in sample.files for sample in samples
        ):
            raise UserError(
                "build_data.source must be a reference to a source: a gin configurable "
                "that takes the names of domains and returns a list of "
                "soka_tf.data.samples.Sample, all with an rgb file, or a Data of such. "
                f"Received: {name}, which is {type(found).__name__}."
            )
    return found, f"source @{name}"


def _split(
    samples: List[Sample],
    source: str,
    validation_fraction: float,
    by: str,
    seed: int,
    path: Optional[str],
) -> Tuple[List[Sample], List[Sample]]:
    if len(samples) < 2:
        raise UserError(
            f"{source}: {len(samples)} readable image; at least 2 are needed, one "
            "to train on and one to validate on; damaged ones are left out."
        )
    train, validation = split_samples(samples, validation_fraction, by, seed, path)
    if not validation:
        raise UserError(
            "build_data.validation_fraction must leave an image to validate on. "
            f"Received: {validation_fraction} of {len(samples)} images."
        )
    return train, validation


def _check_labels(samples: List[Sample], domains: List[str], source: str) -> None:
    missing = [d for d in domains if not any(d in sample.files for sample in samples)]
    if missing:
        raise UserError(
            f"run.supervision = 'labels' needs labels of {', '.join(missing)}: "
            f"{source}, to train on, have none. Bind taskonomy_dir or records_dir to "
            "images with labels (and images_dir = None), bind none of them for drawn "
            "rooms, or bind run.supervision = 'teachers'."
        )


def default_cache_dir() -> str:
    """Where generated images are kept: $SOKA_TF_CACHE, else ~/.cache/soka_tf."""
    return os.environ.get("SOKA_TF_CACHE") or os.path.expanduser("~/.cache/soka_tf")


@gin.configurable
def build_student(
    tasks: Sequence[str],
    backbone: Optional[Callable[..., Backbone]] = None,
    units: Sequence[int] = (3, 4, 6, 3),
    width: float = 1.0,
    strides: Sequence[int] = (2, 2, 2, 2),
    representation_channels: int = 8,
    decoder_width: float = 1.0,
    decoder_min_filters: int = 1,
    synchronized_batch_norm: bool = True,
    seed: int = 0,
) -> Student:
    """Builds the student, randomly initialised (Step 1).

    Args:
      tasks: its tasks.
      backbone: makes the encoder of the keywords representation_channels and
        synchronized: any that gin knows; None for the ResNet of the next three.
      units: residual units of the encoder's blocks; (3, 4, 6, 3) is ResNet-50.
      width: of the encoder, 1 is the paper's.
      strides: of the encoder's conv1, pool1, block1, block2.
      representation_channels: of the shared representation.
      decoder_width: of the decoders, 1 is the paper's.
      decoder_min_filters: least filters of a decoder's layer.
      synchronized_batch_norm: whether BatchNorm is by the batch of all replicas.
      seed: of the initial values.

    Raises:
      UserError: if `backbone` makes no backbone, refuses its bindings, or has an output
        stride that no decoder undoes.
    """
    tf.keras.utils.set_random_seed(seed)
    if backbone is None:
        backbone = functools.partial(Encoder, units, width, strides)
    encoder = _make_encoder(
        backbone,
        representation_channels=representation_channels,
        synchronized=synchronized_batch_norm,
    )
    decoders = {
        task.name: Decoder(
            task.channels,
            width=decoder_width,
            upsamplings=OUTPUT_STRIDES.index(encoder.output_stride),
            min_filters=decoder_min_filters,
            representation_channels=encoder.representation_channels,
            synchronized=synchronized_batch_norm,
            name=f"decoder_{task.name}",
        )
        for task in get_targets(tasks)
    }
    return Student(encoder, decoders)


def _make_encoder(backbone: Any, **arguments: Any) -> Backbone:
    made, reason = backbone, ""
    try:
        made = _made_by("build_student", backbone, **arguments)
    except TypeError as error:  # other arguments: a configurable of another kind
        reason = f": {error}"
    if not isinstance(made, Backbone):
        raise UserError(
            "build_student.backbone must be None, for the ResNet, or a reference to a "
            f"gin configurable that makes a {Backbone.__module__}.Backbone of the "
            f"keywords {', '.join(arguments)}. Received: {made!r}{reason}"
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
    encoder: Optional[str] = None,
    decoders: Union[bool, Mapping[str, str]] = False,
    teachers_dir: Optional[str] = None,
) -> None:
    """Starts parts of the student from teachers; random by default (Step 1).

    Args:
      student: the student, changed in place.
      teachers: its teachers.
      encoder: the task whose teacher lends the encoder its weights; None for none.
      decoders: True for each decoder from its own teacher; or the student's tasks ->
        the tasks whose teachers lend their decoders' weights.
      teachers_dir: where teachers are that are none of the run's; see `find_teachers`.

    Raises:
      UserError: if there is no such teacher or the networks differ in size.
    """
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
    known.update(pool.load_teachers(sorted(wanted), teachers_dir))

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
        _or_user_error(
            f"initialize_student, from the teacher of {lender!r}",
            functools.partial(assign_variables, network, values),
        )


@gin.configurable
def build_amalgamation(
    student: Student,
    teachers: TeacherPool,
    variant: Union[None, str, Callable[[], Variant]] = "reconstruction",
    mixing: str = "matrix",
    layers: Sequence[Union[str, Tuple[str, str]]] = ("block3", "representation"),
    auxiliary_weight: float = 0.1,
) -> Optional[Amalgamation]:
    """Builds MIA for these networks, or nothing where `variant` is None.

    Args:
      student: the student.
      teachers: its teachers.
      variant: a name of `soka_tf.soka.variants`, or what makes another `Variant`.
      mixing: see `Amalgamation`.
      layers: a name that teachers and student share, or a pair (teachers' layer,
        student's layer). Of several pairs to one layer of the student a teacher
        takes the first that it has.
      auxiliary_weight: see `Amalgamation`.

    Raises:
      UserError: if a layer is missing, or a value is refused.
    """
    if variant is None:
        return None
    pairs = [(pair, pair) if isinstance(pair, str) else pair for pair in layers]
    own_layers = student.encoder.feature_layers
    sane = [isinstance(p, (list, tuple)) and len(p) == 2 for p in pairs]
    if not pairs or not all(sane) or any(own not in own_layers for _, own in pairs):
        raise UserError(
            f"build_amalgamation.layers must be some of {sorted(own_layers)}, or pairs "
            f"(teachers' layer, one of these). Received: {list(layers)}."
        )
    chosen = {own: _layers_for(own, pairs, teachers) for _, own in pairs}
    return _or_user_error(
        "build_amalgamation",
        lambda: Amalgamation(
            {
                own: [t.layers[k][0] for t, k in zip(teachers.teachers, names)]
                for own, names in chosen.items()
            },
            {layer: own_layers[layer].channels for layer in chosen},
            variant() if callable(variant) else variant,
            mixing,
            auxiliaries=len(teachers.auxiliaries),
            auxiliary_weight=auxiliary_weight,
            teacher_layers=chosen,
        ),
    )


def _layers_for(
    layer: str, pairs: Sequence[Tuple[str, str]], teachers: TeacherPool
) -> List[str]:
    """What each teacher lends to a layer of the student."""
    wanted = [theirs for theirs, own in pairs if own == layer]
    chosen = []
    for teacher in teachers.teachers:
        names = [name for name in wanted if name in teacher.layers]
        if not names:
            raise UserError(
                f"build_amalgamation.layers: the teacher of {teacher.task.name!r} has "
                f"no layer {' or '.join(wanted)} for the student's {layer}. It has "
                f"{', '.join(teacher.layers)}: add a pair (one of these, {layer!r})."
            )
        chosen.append(names[0])
    return chosen


@gin.configurable(denylist=["tasks"])
def build_gradnorm(
    tasks: int,
    alpha: float = 1.5,
    floor: float = 0.02,
    norm: str = "l2",
    adaptive: bool = True,
    layer: str = "compress",
) -> GradNorm:
    """Builds the rule of the paper; `adaptive=False` keeps the weights at 1 / n."""
    return _or_user_error(
        "build_gradnorm",
        lambda: GradNorm(
            tasks, alpha, floor, norm, trainable_weights=adaptive, layer=layer
        ),
    )


@gin.configurable
def build_balancing(
    tasks: Sequence[str], rule: Callable[[int], Rule] = build_gradnorm
) -> Rule:
    """Builds the rule that balances the tasks.

    Args:
      tasks: the student's tasks.
      rule: makes it of the number of tasks: a class of `soka_tf.soka.balancing`,
        `build_gradnorm`, or any other that gin knows.

    Raises:
      UserError: if that makes no rule, or refuses its bindings.
    """
    made = _made_by("rule", rule, len(tasks))
    if not isinstance(made, Rule):
        raise UserError(
            "build_balancing.rule must be a reference to a rule: @build_gradnorm, "
            "@Fixed, @Uncertainty, @UPGrad or a gin configurable that makes a "
            f"soka_tf.soka.balancing.rule.Rule. Received: {made!r}."
        )
    return made


@gin.configurable
def build_adversary(
    tasks: Sequence[str],
    enabled: bool = False,
    start_step: int = 25000,
    weight: float = 0.004,
    width: float = 1.0,
    strides: Sequence[int] = (4, 4, 4),
    noise_sigma: float = 0.1,
    depth_noise_sigma: float = 0.03,
    weight_decay: float = 1e-5,
    synchronized_batch_norm: bool = True,
) -> Optional[Adversary]:
    """Builds the CGAN term, or nothing where it is not enabled.

    Args:
      tasks: the student's tasks; each gets a discriminator.
      enabled: whether there is one.
      start_step: first step with it (supplement: 25 000).
      weight: of the adversarial loss (supplement: 0.004 beside 0.996).
      width: of the discriminators, 1 is the original's.
      strides: of their first three convolutions.
      noise_sigma: standard deviation of the instance noise at step 0.
      depth_noise_sigma: the same for depth tasks.
      weight_decay: L2 coefficient, ten times the student's.
      synchronized_batch_norm: whether BatchNorm is by the batch of all replicas.
    """
    if not enabled:
        return None
    targets = get_targets(tasks)
    return Adversary(
        {
            task.name: Discriminator(
                task.channels,
                width=width,
                strides=strides,
                synchronized=synchronized_batch_norm,
                name=f"discriminator_{task.name}",
            )
            for task in targets
        },
        start_step,
        weight,
        {
            task.name: depth_noise_sigma if _is_depth(task) else noise_sigma
            for task in targets
        },
        weight_decay,
    )


@gin.configurable
def build_model(
    student: Student,
    teachers: TeacherPool,
    balancing: Rule,
    amalgamation: Optional[Amalgamation],
    adversary: Optional[Adversary],
    max_steps: int,
    joint_steps: int = 1000,
    joint_amalgamation: bool = True,
    joint_weighting: bool = False,
    initial_losses_step: int = 10,
    soft_weight: float = 0.05,
    soft_loss: str = "l1",
    weighted_collaboration: bool = False,
    train_compress: bool = True,
    settle_share: float = 0.0,
    weight_decay: float = 1e-6,
    weight_decay_kind: str = "l2_loss",
    seed: int = 0,
    new_batch_in_collaboration: bool = False,
    frozen_statistics: str = "batch",
    order: str = "alternating",
) -> SokaModel:
    """Joins the parts; see `soka_tf.soka.model.SokaModel` for the arguments.

    Its `settle_step` follows from `settle_share`, the share of the last steps of
    `max_steps` that run with the moving statistics of BatchNorm (0 for none), and its
    `weight_decay` is that of the kind "l2_loss" only.
    """
    if not 0.0 <= settle_share <= 1.0:
        raise UserError(
            f"build_model.settle_share must be in [0, 1]. Received: {settle_share}."
        )
    settle_step = round(max_steps * (1.0 - settle_share)) if settle_share else None
    return _or_user_error(
        "build_model",
        lambda: SokaModel(
            student,
            teachers,
            balancing,
            amalgamation,
            adversary,
            joint_steps,
            joint_amalgamation,
            joint_weighting,
            initial_losses_step,
            soft_weight,
            soft_loss,
            weighted_collaboration,
            train_compress,
            settle_step,
            weight_decay if weight_decay_kind == "l2_loss" else 0.0,
            seed,
            new_batch_in_collaboration,
            frozen_statistics,
            order,
        ),
    )


@gin.configurable
def build_optimizers(
    max_steps: int,
    optimizer: str = "adam",
    learning_rate: float = 1e-3,
    power: float = 0.9,
    amalgamation_rate: float = 1e-3,
    task_weights_optimizer: str = "adam",
    task_weights_rate: float = 1e-4,
    discriminator_rate: float = 1e-5,
    weight_decay: float = 1e-6,
    weight_decay_kind: str = "l2_loss",
) -> Players:
    """Builds an optimizer for every player.

    Args:
      max_steps: length of the run; the rates of encoder and decoders reach 0 there.
        Players that start with the cycle end a little above.
      optimizer: "adam" or "sgd", of encoder, decoders and amalgamation.
      learning_rate: of encoder and decoders at step 0 (paper: 0.001).
      power: of the poly policy (paper: 0.9).
      amalgamation_rate: of W, C and V at step 0.
      task_weights_optimizer: "adam" or "sgd".
      task_weights_rate: of the task weights at step 0 (paper, Fig. 5: 1e-3, 1e-4).
      discriminator_rate: of the discriminators' plain SGD (the original: 1e-5).
      weight_decay: of encoder and decoders (paper: 1e-6).
      weight_decay_kind: see `soka_tf.runs.optimizers`.
    """

    def poly(rate: float):
        return poly_schedule(rate, max_steps, power)

    # Decay that the optimizer applies by itself fades with the learning rate.
    decay = poly(weight_decay) if weight_decay_kind == "tfa" else weight_decay
    schedule = poly(learning_rate)
    own = (optimizer, schedule, decay, weight_decay_kind)
    optimizers = {
        "encoder": make_optimizer(*own),
        "decoders": make_optimizer(*own),
        "amalgamation": make_optimizer(optimizer, poly(amalgamation_rate)),
        "task_weights": make_optimizer(task_weights_optimizer, poly(task_weights_rate)),
        "discriminators": make_optimizer("sgd", discriminator_rate),
    }
    return Players(optimizers, schedule)


def count_trainable(network: Any) -> int:
    """Trainable scalars of a network."""
    return sum(v.shape.num_elements() for v in network.trainable_variables)


def _is_depth(task: Task) -> bool:
    return task.encoding.kind == "log_depth"


def _made_by(binding: str, reference: Any, *arguments: Any, **keywords: Any) -> Any:
    """What a bound configurable makes; what is bound itself where it is none.

    Args:
      binding: names it in errors where it has no name of its own.
      reference: what is bound.
      *arguments: of the call.
      **keywords: of the call.
    """
    if not callable(reference):
        return reference
    name = getattr(reference, "__name__", binding)
    return _or_user_error(name, lambda: reference(*arguments, **keywords))


def _or_user_error(binding: str, build: Any) -> Any:
    """What a constructor refuses came from a binding: the user's to mend."""
    try:
        return build()
    except ValueError as error:
        raise UserError(f"{binding}: {error}") from error
