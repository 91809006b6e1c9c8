"""The joint start (Step 2 of section 3.4): encoder and decoders move together."""

from typing import Any, List, NamedTuple, Optional, Tuple

import tensorflow as tf

from soka_tf.networks.replicas import mean_over_replicas
from soka_tf.soka.balancing.rule import Observation
from soka_tf.soka.losses import soft_losses
from soka_tf.soka.phases import weigh
from soka_tf.soka.players import Tensors, scaled
from soka_tf.soka.pulls import (
    cosines,
    gradients_of_each,
    observe,
    scale_of_pulls,
    weighted_sum,
    with_transfer,
)
from soka_tf.soka.step import Pulls, Step, Taught, Values
from soka_tf.soka.variants import AmalgamationLosses


class Passed(NamedTuple):
    """One pass of the student, and its losses.

    Attributes:
      tape: of all of it; persistent.
      shared: the representation.
      losses: L_i, float32 [n].
      each: the same, one by one, scaled.
      mia: the amalgamation's; None where it takes no part.
      total: what all minimise, where they minimise one loss; scaled.
      factor: of sum omega_i L_i in the encoder's.
      scale: of `Players.loss_scale`.
    """

    tape: tf.GradientTape
    shared: tf.Tensor
    losses: tf.Tensor
    each: Tensors
    mia: Optional[AmalgamationLosses]
    total: tf.Tensor
    factor: Any
    scale: Optional[tf.Tensor]


def joint(model, step: Step, taught: Taught) -> Values:
    """Step 2: encoder and decoders together; then the task weights, if bound."""
    players, rule = model.players, model.balancing
    weighting = model.schedule.joint_weighting
    seen = shares = None
    with step.page.phase("joint"):
        passed = _forward(model, step, taught)
        pulls, of_decoders = _pulls(model, step, passed)
        if weighting:
            seen = observe(
                model, passed.tape, passed.shared, _seen_pulls(model, passed, pulls)
            )
        if step.measures_conflict:
            of_transfer = _pull_of_transfer(passed)
            step.page.cosines = cosines(model, pulls, of_transfer)
        if of_decoders is None:
            of_encoder, of_decoders, of_adapter = _gradients_of_total(model, passed)
        else:
            shares = _shares(model, seen)
            of_encoder, of_adapter = _gradients_of_encoder(model, passed, pulls, shares)
        players.apply("encoder", of_encoder, passed.scale)
        players.apply("decoders", of_decoders, passed.scale)
        if passed.mia is not None:
            if of_adapter:
                players.apply("adapter", of_adapter, passed.scale)
            own = players.optimized["amalgamation"]
            own_scale = players.loss_scale("amalgamation")
            gradients = passed.tape.gradient(passed.mia.amalgamation, own, own_scale)
            players.apply("amalgamation", gradients, own_scale)
    due = model.step >= model.schedule.initial_losses_step
    rule.record_initial(mean_over_replicas(_all_losses(model, passed)), due)
    return _values(model, step, passed, seen, shares)


def _forward(model, step: Step, taught: Taught) -> Passed:
    images, targets = taught
    mia = None
    weighting = model.schedule.joint_weighting
    scale = scale_of_pulls(model, "encoder", "decoders", weighting=weighting)
    with tf.GradientTape(persistent=True) as tape:
        features = model.student.encoder(images, training=step.training)
        shared = features["representation"]
        predictions = model.student.decode(shared, training=step.training)
        each = soft_losses(model, predictions, targets)
        losses = tf.stack(each)
        total, factor = tf.reduce_sum(model.task_weights * losses), 1.0
        if model.joint_amalgamation or model.schedule.joint_loss == "of_cycle":
            # n omega_i: at equal weights that is Eq. 8, which has no omega.
            factor = model.objective.soft_weight_at(model.step) * len(model.tasks)
        if model.joint_amalgamation:
            mia = model.amalgamated(targets, features)
            total = factor * total + mia.transfer
        total = scaled(total, scale)
        # Of the stacked losses, each would be pulled through all decoders.
        each = [scaled(loss, scale) for loss in each]
    return Passed(tape, shared, losses, each, mia, total, factor, scale)


def _pulls(model, step: Step, passed: Passed) -> Tuple[Pulls, Optional[Tensors]]:
    """The tasks' pulls, where they are asked for; the decoders' gradients.

    The latter are None where encoder and decoders minimise one loss.
    """
    weighting, of_decoders = model.schedule.joint_weighting, None
    gradients: Tensors = []
    if (
        (weighting and model.balancing.shares_encoder)
        or model.objective.transfer_as_task
        or model.schedule.joint_loss == "of_cycle"
    ):
        gradients, of_decoders = gradients_of_each(
            model, passed.tape, passed.each, passed.shared
        )
        if model.schedule.joint_loss != "of_cycle":
            of_decoders = [passed.factor * gradient for gradient in of_decoders]
    elif weighting or step.measures_conflict:
        gradients = [passed.tape.gradient(loss, passed.shared) for loss in passed.each]
    return Pulls(passed.losses, gradients, passed.scale), of_decoders


def _pull_of_transfer(passed: Passed) -> Optional[tf.Tensor]:
    """L_A's pull at the representation; None where it has none."""
    if passed.mia is None:
        return None
    at = scaled(tf.ones([]), passed.scale)
    return passed.tape.gradient(passed.mia.transfer, passed.shared, at)


def _all_losses(model, passed: Passed) -> tf.Tensor:
    """The losses that the rule balances; L_A is 0, not yet known, without MIA."""
    if not model.objective.transfer_as_task:
        return passed.losses
    transfer = tf.zeros([]) if passed.mia is None else passed.mia.transfer
    return tf.concat([passed.losses, [transfer]], 0)


def _seen_pulls(model, passed: Passed, pulls: Pulls) -> Pulls:
    if not model.objective.transfer_as_task:
        return pulls
    transfer, of_transfer = _all_losses(model, passed)[-1], _pull_of_transfer(passed)
    alpha = passed.factor / len(model.tasks)
    return with_transfer(model, pulls, transfer, of_transfer, alpha)


def _shares(model, seen: Optional[Observation]) -> tf.Tensor:
    """The encoder's factors of mean 1, of n losses, or n + 1 with L_A among them."""
    rule = model.balancing
    if seen is not None and rule.shares_encoder:
        return rule.encoder_shares(seen)
    weights = tf.convert_to_tensor(rule.task_weights)
    return float(weights.shape[0]) * weights


def _gradients_of_total(
    model, passed: Passed
) -> Tuple[Tensors, Tensors, Optional[Tensors]]:
    """Of the one loss that encoder, decoders and adapters minimise."""
    optimized = model.players.optimized
    moving = [optimized["encoder"], optimized["decoders"]]
    if model.has_adapter and passed.mia is not None:
        return passed.tape.gradient(passed.total, [*moving, optimized["adapter"]])
    return (*passed.tape.gradient(passed.total, moving), None)


def _gradients_of_encoder(
    model, passed: Passed, pulls: Pulls, shares: tf.Tensor
) -> Tuple[Tensors, Optional[Tensors]]:
    """Of the encoder's own loss, whose terms have the shares for factors."""
    count, optimized = len(model.tasks), model.players.optimized
    factors: List[Any] = tf.unstack(passed.factor / count * shares)
    ends = [passed.shared]
    at_ends = [weighted_sum(factors[:count], pulls.gradients)]
    if passed.mia is not None:
        ends.append(passed.mia.transfer)
        at_end = tf.ones([])
        if model.objective.transfer_as_task:
            at_end = tf.unstack(shares)[count]
        at_ends.append(scaled(at_end, passed.scale))
    if model.has_adapter and passed.mia is not None:
        moving = [optimized["encoder"], optimized["adapter"]]
        return passed.tape.gradient(ends, moving, at_ends)
    return passed.tape.gradient(ends, optimized["encoder"], at_ends), None


def _values(
    model,
    step: Step,
    passed: Passed,
    seen: Optional[Observation],
    shares: Optional[tf.Tensor],
) -> Values:
    """The step's terms, after the task weights' own step."""
    values = model.named("loss/soft", passed.losses)
    if seen is not None:
        values.update(weigh(model, step, seen, passed.scale))
    if shares is not None and model.logs_shares:
        values.update(model.named("encoder_share", shares))
    values.update(model.named("task_weight", model.task_weights))
    if passed.mia is not None:
        values["loss/transfer"] = passed.mia.transfer
        values["loss/amalgamation"] = passed.mia.amalgamation
    if model.objective.grows:
        values["soft_weight"] = model.objective.soft_weight_at(model.step)
    return values
