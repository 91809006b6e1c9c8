"""What a run warns of at its start: settings without effect, and too few images.

TensorFlow is not imported.
"""

from typing import Any, List, Mapping

from soka_tf.errors import counted
from soka_tf.runs.declared import followed
from soka_tf.runs.gin_text import LAST_STEP
from soka_tf.soka.schedule import first_of_last

FEW_IMAGES = 100  # to train on
FEW_COMPARED = 30  # of teachers; their RDMs have 435 pairs of so many images
_SHARES = {  # of the last steps -> what does not happen without any
    "schedule.settle_share": "BatchNorm never settles",
    "schedule.tail_share": "the decoders never go on alone",
}


def of_steps(bound: Mapping[str, Any]) -> List[str]:
    """Names what is bound and never takes place within the run's steps.

    Args:
      bound: all bindings, of `soka_tf.runs.config.bound_values`. What is not bound, or
        is no number, is not judged.

    Returns:
      A sentence or two for each.
    """
    last = _number("run.max_steps", bound)
    joint = _number("schedule.joint_steps", bound)
    if last is None or joint is None:
        return []
    found = []
    of_run = followed("schedule.joint_steps", bound["schedule.joint_steps"], bound)[0]
    if joint >= last and of_run not in LAST_STEP:
        found.append(
            f"schedule.joint_steps = {joint} leaves no step for competition and "
            f"collaboration: max_steps = {last}. Bind fewer joint steps, or "
            "schedule.joint_steps = %max_steps if that is meant."
        )
    for judge in (_of_last_steps, _of_gan, _of_gradnorm):
        found += judge(bound, joint, last)
    return found


def of_images(count: int, batch_size: int) -> List[str]:
    """Says that there are few images to train on.

    Args:
      count: images to train on.
      batch_size: images of a step.
    """
    if count >= max(batch_size, FEW_IMAGES):
        return []
    repeated = (
        f", fewer than a batch: batch_size = {batch_size} shows some more than once a "
        "step"
        if count < batch_size
        else ""
    )
    return [
        f"Images to train on: {count}{repeated}. The student may learn so few by heart "
        "and fail on others. Give hundreds (docs/images.md)."
    ]


def of_comparison(count: int) -> List[str]:
    """Says that teachers are compared on few images.

    Args:
      count: images to compare on.
    """
    if count >= FEW_COMPARED:
        return []
    return [
        f"The auxiliary teacher is chosen on {counted(count, 'image')}: with so few "
        f"chance decides. Give {FEW_COMPARED} or more, or name it, "
        "auxiliary = ['normal']."
    ]


def _of_last_steps(bound: Mapping[str, Any], joint: int, last: int) -> List[str]:
    found = []
    for name, effect in _SHARES.items():
        share = _number(name, bound)
        if share and first_of_last(share, last) >= last:
            found.append(
                f"{name} = {share} is less than a step of max_steps = {last}: "
                f"{effect}. Bind 0, or a larger share."
            )
    share = _number("schedule.tail_share", bound) or 0.0
    first = first_of_last(share, last)
    if 0 < first <= joint < last:  # 0: a frozen encoder is meant
        found.append(
            f"schedule.tail_share = {share} leaves no step for competition and "
            f"collaboration: the tail begins at step {first}, the joint start has "
            f"{joint}. Bind a smaller share, or fewer joint steps."
        )
    return found


def _of_gan(bound: Mapping[str, Any], joint: int, last: int) -> List[str]:
    start = _number("Adversary.start_step", bound)
    if not _value("build_adversary.enabled", bound) or start is None:
        return []
    # Joint steps have no CGAN term.
    name, first = max(
        ("Adversary.start_step", start),
        ("schedule.joint_steps", joint),
        key=lambda item: item[1],
    )
    if first < last:
        return []
    return [
        f"build_adversary.enabled = True has no effect: {name} = {first}, and "
        f"max_steps = {last}. Bind an earlier {name}, or enabled = False."
    ]


def _of_gradnorm(bound: Mapping[str, Any], joint: int, last: int) -> List[str]:
    initial = _number("schedule.initial_losses_step", bound)
    rule = _value("build_balancing.rule", bound)
    adaptive = _value("GradNorm.adaptive", bound)
    if initial is None or rule != "@GradNorm" or not adaptive:
        return []
    if joint >= last:
        if initial < last or not _value("schedule.joint_weighting", bound):
            return []
        effect = f"of max_steps = {last}: the task weights are never learnt"
    elif 0 < joint <= initial:
        effect = f"of the {joint} joint ones: L_i(0) is that of the cycle's first step"
    else:
        return []
    return [
        f"schedule.initial_losses_step = {initial} is no step {effect}. Bind an "
        "earlier one."
    ]


def _value(name: str, bound: Mapping[str, Any]) -> Any:
    """What is bound at last; None where nothing is."""
    return followed(name, bound.get(name), bound)[1]


def _number(name: str, bound: Mapping[str, Any]) -> Any:
    value = _value(name, bound)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number else None
