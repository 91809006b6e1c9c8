"""From bindings to the parts of a run. Every function here is plain, and gin's.

Values are bound in gin/base.gin, with their units and their place in the paper.
"""

import inspect
from typing import (
    Annotated,
    Any,
    Callable,
    Dict,
    List,
    Optional,
    Sequence,
    Tuple,
    Union,
)

import gin
import tensorflow as tf
from absl import logging

from soka_tf.errors import UserError
from soka_tf.kinds import (
    TEXT,
    Count,
    Flag,
    NonNegative,
    configurable,
    either,
    list_of,
    number,
    one_of,
)
from soka_tf.networks.discriminator import Discriminator
from soka_tf.runs.config import made_by, or_user_error
from soka_tf.runs.optimizers import OPTIMIZERS, WeightDecay, make_optimizer
from soka_tf.runs.schedules import Settling, poly_schedule
from soka_tf.soka.adversarial import Adversary
from soka_tf.soka.amalgamation import Amalgamation
from soka_tf.soka.balancing.fixed import Fixed
from soka_tf.soka.balancing.gradnorm import GradNorm
from soka_tf.soka.balancing.rule import Rule
from soka_tf.soka.balancing.uncertainty import Uncertainty
from soka_tf.soka.balancing.upgrad import UPGrad
from soka_tf.soka.objective import Objective
from soka_tf.soka.schedule import Schedule
from soka_tf.soka.student import Student
from soka_tf.soka.transfer import Transfer
from soka_tf.soka.variants import VARIANTS, Variant, find_variant
from soka_tf.tasks import get_targets
from soka_tf.teachers import finding
from soka_tf.teachers.feature_statistics import Statistics
from soka_tf.teachers.pool import TeacherPool, Wanted

Optimizer = tf.keras.optimizers.Optimizer
LearningRateSchedule = tf.keras.optimizers.schedules.LearningRateSchedule

find_teachers = gin.external_configurable(finding.find_teachers, "find_teachers")
load_pool = gin.external_configurable(
    finding.load_pool, "load_pool", denylist=["found"]
)
schedule = gin.external_configurable(Schedule, "schedule", denylist=["max_steps"])
transfer = gin.external_configurable(Transfer, "transfer", denylist=["seed"])
objective = gin.external_configurable(Objective, "objective", denylist=["weight_decay"])
decay = gin.external_configurable(WeightDecay, "decay")
bound_discriminator = gin.external_configurable(
    Discriminator, allowlist=["width", "strides", "synchronized"]
)
bound_amalgamation = gin.external_configurable(
    Amalgamation, allowlist=["mixing", "auxiliary_weight"]
)
bound_adversary = gin.external_configurable(
    Adversary, allowlist=["start_step", "weight", "weight_decay"]
)
bound_gradnorm = gin.external_configurable(
    GradNorm, denylist=["tasks", "initial_weights"]
)
gin.external_configurable(Fixed, denylist=["tasks"])
gin.external_configurable(Uncertainty, denylist=["tasks"])
gin.external_configurable(UPGrad, denylist=["tasks"])

_RULE = configurable(
    "a reference to a rule: @GradNorm, @Fixed, @Uncertainty, @UPGrad or @YourRule"
)
LAYERS = ("block3", "representation")
_VARIANT = either(one_of(VARIANTS), configurable("a reference, @YourVariant,"))
_LAYERS = list_of(
    either(TEXT, list_of(TEXT, "a pair", 2)),
    "a list of one or more layers, or of pairs (teachers' layer, student's layer)",
)


@gin.configurable
def build_amalgamation(
    student: Student,
    teachers: TeacherPool,
    measure: Optional[Callable[[Wanted, int], Statistics]] = None,
    variant: Annotated[
        Union[None, str, Callable[[], Variant]], _VARIANT
    ] = "reconstruction",
    layers: Annotated[Sequence[Union[str, Tuple[str, str]]], _LAYERS] = LAYERS,
    standardize: Flag = False,
    standardize_images: Count = 200,
    seed: int = 0,
) -> Optional[Amalgamation]:
    """Builds MIA for these networks, or nothing where `variant` is None.

    Teachers without layers take no part; where none has any, nothing is built.

    Args:
      student: the student.
      teachers: its teachers.
      measure: the teachers' layers, a number of images -> statistics of the features;
        None where no step will be taken.
      variant: a name of `soka_tf.soka.variants`, or what makes another `Variant`.
      layers: a name that teachers and student share, or a pair (teachers' layer,
        student's layer). Of several pairs to one layer of the student a teacher
        takes the first that it has.
      standardize: whether the teachers' features are brought to one scale by fixed
        statistics, see `soka_tf.teachers.feature_statistics`.
      standardize_images: how many images to train on these are measured on.
      seed: of the bound `transfer.teacher_dropping`.

    Raises:
      UserError: if a layer is missing, an auxiliary teacher has none, or a value is
        refused.
    """
    if variant is None or not _lend_layers(teachers):
        return None
    chosen = _chosen_layers(layers, student, teachers)
    made = variant() if callable(variant) else variant
    how = or_user_error("transfer.", lambda: transfer(seed=seed))
    _check_variant(made, how)
    amalgamation = _between(
        student, teachers, chosen, variant=made, standardized=standardize, transfer=how
    )
    if standardize and measure is not None:
        lent = amalgamation.teacher_layers
        amalgamation.standardize(measure(lent, standardize_images))
    return amalgamation


def _lend_layers(teachers: TeacherPool) -> bool:
    """Whether any teacher has layers to amalgamate.

    Raises:
      UserError: if an auxiliary one has none, for it has nothing else.
    """
    for name, teacher in teachers.auxiliaries.items():
        if not teacher.layers:
            raise UserError(
                f"The auxiliary teacher of {name!r} has no layers, and nothing else to "
                "lend. Bind auxiliary = 'none' or others."
            )
    if any(teacher.layers for teacher in teachers.teachers):
        return True
    logging.info(
        "No teacher has layers to amalgamate: the student learns from soft targets "
        "alone."
    )
    return False


def _chosen_layers(
    layers: Sequence[Union[str, Tuple[str, str]]],
    student: Student,
    teachers: TeacherPool,
) -> Dict[str, List[Optional[str]]]:
    """Layer of the student -> what each teacher lends to it, see `_layers_for`."""
    pairs = [(pair, pair) if isinstance(pair, str) else pair for pair in layers]
    own_layers = student.encoder.feature_layers
    sane = [isinstance(p, (list, tuple)) and len(p) == 2 for p in pairs]
    if not pairs or not all(sane) or any(own not in own_layers for _, own in pairs):
        raise UserError(
            f"build_amalgamation.layers must be some of {sorted(own_layers)}, or pairs "
            f"(teachers' layer, one of these). Received: {list(layers)}."
        )
    return {own: _layers_for(own, pairs, teachers) for _, own in pairs}


def _between(
    student: Student,
    teachers: TeacherPool,
    chosen: Dict[str, List[Optional[str]]],
    **how: Any,
) -> Amalgamation:
    """MIA of the chosen layers of these networks."""
    lent = {
        own: [t.layers[name][0] for t, name in zip(teachers.teachers, names) if name]
        for own, names in chosen.items()
    }
    own_layers = student.encoder.feature_layers
    taken = {layer: own_layers[layer].channels for layer in chosen}
    auxiliaries = len(teachers.auxiliaries)
    return or_user_error(
        "Amalgamation: ",
        lambda: bound_amalgamation(
            lent, taken, auxiliaries=auxiliaries, teacher_layers=chosen, **how
        ),
    )


def _check_variant(made: Union[str, Variant], how: Transfer) -> None:
    """Refuses what is no variant, and one that cannot leave teachers out."""
    found = or_user_error("build_amalgamation: ", lambda: find_variant(made))
    if not how.teacher_dropping:
        return
    if "presence" not in inspect.signature(found.losses).parameters:
        raise UserError(
            f"transfer.teacher_dropping = {how.teacher_dropping} needs a variant whose "
            f"losses take `presence`. Received: {type(found).__name__}. Bind 0.0."
        )


def _layers_for(
    layer: str, pairs: Sequence[Tuple[str, str]], teachers: TeacherPool
) -> List[Optional[str]]:
    """What each teacher lends to a layer of the student; None of one without layers."""
    wanted = [theirs for theirs, own in pairs if own == layer]
    chosen: List[Optional[str]] = []
    for teacher in teachers.teachers:
        if not teacher.layers:
            chosen.append(None)
            continue
        names = [name for name in wanted if name in teacher.layers]
        if not names:
            raise UserError(
                f"build_amalgamation.layers: the teacher of {teacher.task.name!r} has "
                f"no layer {' or '.join(wanted)} for the student's {layer}. It has "
                f"{', '.join(teacher.layers)}: add a pair (one of these, {layer!r})."
            )
        chosen.append(names[0])
    return chosen


@gin.configurable
def build_balancing(
    tasks: Sequence[str],
    rule: Annotated[Callable[[int], Rule], _RULE] = bound_gradnorm,
    transfer_as_task: bool = False,
) -> Rule:
    """Builds the rule that balances the tasks.

    Args:
      tasks: the student's tasks.
      rule: makes it of the number of tasks: a class of `soka_tf.soka.balancing`, or
        any other that gin knows.
      transfer_as_task: whether L_A is one more, the last.

    Raises:
      UserError: if that makes no rule, or refuses its bindings.
    """
    made = made_by("rule", rule, len(tasks) + transfer_as_task)
    if not isinstance(made, Rule):
        raise UserError(
            "build_balancing.rule must be a reference to a rule: @GradNorm, @Fixed, "
            "@Uncertainty, @UPGrad or a gin configurable that makes a "
            f"soka_tf.soka.balancing.rule.Rule. Received: {made!r}."
        )
    return made


@gin.configurable
def build_adversary(
    tasks: Sequence[str],
    enabled: Flag = False,
    noise_sigma: NonNegative = 0.1,
    depth_noise_sigma: NonNegative = 0.03,
    seed: int = 0,
) -> Optional[Adversary]:
    """Builds the CGAN term, or nothing where it is not enabled.

    Args:
      tasks: the student's tasks; each gets a discriminator.
      enabled: whether there is one.
      noise_sigma: standard deviation of the instance noise at step 0.
      depth_noise_sigma: the same for depth tasks.
      seed: of the noise.
    """
    if not enabled:
        return None
    targets = get_targets(tasks)
    return bound_adversary(
        {
            task.name: made_by(
                "Discriminator",
                bound_discriminator,
                task.channels,
                name=f"discriminator_{task.name}",
            )
            for task in targets
        },
        noise={
            task.name: depth_noise_sigma
            if task.encoding.kind == "log_depth"
            else noise_sigma
            for task in targets
        },
        seed=seed,
    )


@gin.configurable
def build_optimizers(
    schedule: Schedule,
    optimizer: Annotated[str, one_of(OPTIMIZERS)] = "adam",
    momentum: Annotated[float, number(0.0, 1.0, below=True)] = 0.0,
    learning_rate: NonNegative = 1e-3,
    power: Annotated[float, number(0.0, 100.0)] = 0.9,
    settle_rate: Annotated[float, number(0.0, 1.0)] = 1.0,
    amalgamation_rate: NonNegative = 1e-3,
    task_weights_optimizer: Annotated[str, one_of(OPTIMIZERS)] = "adam",
    task_weights_rate: NonNegative = 1e-4,
    discriminator_optimizer: Annotated[str, one_of(OPTIMIZERS)] = "sgd",
    discriminator_rate: NonNegative = 1e-5,
) -> Tuple[Dict[str, Optimizer], LearningRateSchedule]:
    """Builds an optimizer for every player; the weights decay by the bound `decay`.

    Args:
      schedule: of the run, with `max_steps`; the rates of encoder and decoders reach 0
        there. Players that start with the cycle end a little above.
      optimizer: "adam" or "sgd", of encoder, decoders, adapters and amalgamation.
      momentum: of "sgd"; 0 for plain.
      learning_rate: of encoder and decoders at step 0 (paper: 0.001).
      power: of the poly policy (paper: 0.9).
      settle_rate: factor of all rates that follow the policy from the schedule's
        `settle_step` on: fixed statistics bound nothing that a batch's own would.
      amalgamation_rate: of W, C and V at step 0.
      task_weights_optimizer: "adam" or "sgd".
      task_weights_rate: of the task weights at step 0 (paper, Fig. 5: 1e-3, 1e-4).
      discriminator_optimizer: "sgd", plain as the original's, or "adam".
      discriminator_rate: of the discriminators (the original: 1e-5).

    Returns:
      Player -> its optimizer, and the learning rate of encoder and decoders.
    """

    def poly(rate: float):
        falling = poly_schedule(rate, schedule.max_steps, power)
        if schedule.settle_step is None or settle_rate == 1.0:
            return falling
        return Settling(falling, schedule.settle_step, settle_rate)

    # Decay that the optimizer applies by itself fades with the learning rate.
    of_weights = decay()
    rate = poly(of_weights.rate) if of_weights.kind == "tfa" else of_weights.rate
    learning = poly(learning_rate)
    own = (optimizer, learning, rate, of_weights.kind, momentum)
    optimizers = {
        "encoder": make_optimizer(*own),
        "decoders": make_optimizer(*own),
        "adapter": make_optimizer(*own),  # moves with the encoder
        "amalgamation": make_optimizer(
            optimizer, poly(amalgamation_rate), momentum=momentum
        ),
        "task_weights": make_optimizer(task_weights_optimizer, poly(task_weights_rate)),
        "discriminators": make_optimizer(discriminator_optimizer, discriminator_rate),
    }
    return optimizers, learning
