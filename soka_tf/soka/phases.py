"""The phases of a cycle, as section 3.4 of the paper tells them.

The joint start is `soka_tf.soka.joint`. Each phase has a GradientTape of its own. One
pass of the teachers and one of the student's encoder serve all phases of a cycle: the
competition works on the representation as a constant; the collaboration needs of every
task only d L_i / d representation, pulled through the encoder's tape; the same
derivatives, or what they become at the last shared layer's kernel, are what the rule of
balancing sees.

`model` is the `SokaModel`: networks, players, rule, settings. Whatever lasts for one
step only is in `Step` or handed on as an argument.
"""

from typing import Any, List, Mapping, Optional, Tuple

import tensorflow as tf

from soka_tf.data.targets import Targets
from soka_tf.networks.batch_norm import apply_collected, statistics
from soka_tf.networks.replicas import replica_count
from soka_tf.soka.adversarial import discriminator_accuracy, discriminator_loss
from soka_tf.soka.balancing.rule import Observation
from soka_tf.soka.losses import generator_losses, soft_losses
from soka_tf.soka.players import scaled
from soka_tf.soka.pulls import (
    cosines,
    gradients_of_each,
    observe,
    pull,
    scale_of_pulls,
    weighted_sum,
    with_transfer,
)
from soka_tf.soka.step import Encoded, Pulls, Step, Taught, Transferred, Values


def cycle(model, step: Step, competing: Taught, collaborating: Taught) -> Values:
    """Steps 3, 4 and 5, with one encoder pass where all see the same of it.

    Args:
      model: the `SokaModel`.
      step: this one.
      competing: images and targets of the competition.
      collaborating: those of the other phases, or the same object.
    """
    encoded = encode(model, step, collaborating[0])
    representation = encoded.features["representation"]
    shown = representation
    if competing is not collaborating or step.frozen_training != step.training:
        with statistics(model.student.encoder, "keep"):
            outputs = model.student.encoder(competing[0], training=step.frozen_training)
        shown = outputs["representation"]

    simultaneous = model.schedule.order == "simultaneous"
    with step.page.phase("competition"):
        if simultaneous:
            values, pulls = compete_and_pull(model, step, competing, shown)
        else:
            values = compete(model, step, competing, shown)

    # The encoder has not moved yet: its first pass is that of the next phases.
    with step.page.phase("collaboration"):
        apply_collected(encoded.moved)
        if not simultaneous:
            pulls = pull(model, step, collaborating, representation)
        transferred = None
        if model.amalgamation is not None:
            found, transferred = amalgamate(
                model, encoded.features, collaborating[1], pulls.scale
            )
            values.update(found)
        if step.measures_conflict:
            step.page.cosines = cosines(model, pulls, of_representation(transferred))
        seen = see(model, encoded, pulls, transferred)
        values.update(collaborate(model, encoded, pulls, transferred, seen))

    model.balancing.record_initial(seen.losses, tf.constant(True))
    values.update(weigh(model, step, seen, pulls.scale))
    values.update(model.named("loss/soft", seen.losses[: len(model.tasks)]))
    values.update(model.named("task_weight", model.task_weights))
    return values


def tail(model, step: Step, taught: Taught) -> Values:
    """Competition alone: the decoders go on, whatever else there is rests."""
    with statistics(model.student.encoder, "keep"):
        features = model.student.encoder(taught[0], training=step.frozen_training)
    with step.page.phase("competition"):
        values = compete(model, step, taught, features["representation"])
    values.update(model.named("task_weight", model.task_weights))
    return values


def encode(model, step: Step, images: tf.Tensor) -> Encoded:
    """The encoder's pass of a cycle; its moving statistics stay for now."""
    encoder = model.student.encoder
    with statistics(encoder, "collect") as moved:
        with tf.GradientTape() as trunk_tape:
            features = dict(encoder.trunk(images, training=step.training))
        with tf.GradientTape(persistent=True) as compress_tape:
            shared = features[encoder.shared_layer]
            compress_tape.watch(shared)
            features["representation"] = encoder.compress(
                shared, training=step.training
            )
    return Encoded(features, trunk_tape, compress_tape, moved)


def compete(model, step: Step, taught: Taught, representation: tf.Tensor) -> Values:
    """Step 3: the decoders minimise their weighted losses; the encoder rests."""
    images, targets = taught
    representation = tf.stop_gradient(representation)
    with tf.GradientTape() as tape:
        predictions = model.student.decode(representation, training=step.training)
        losses = tf.stack(soft_losses(model, predictions, targets))
        values = model.named("loss/soft", losses)
        if step.adversarial:
            generator = generator_losses(model, step, images, predictions, noise=0)
            losses = model.adversary.mix(losses, generator)
            values.update(model.named("loss/generator", generator))
        scale = model.players.loss_scale("decoders")
        total = scaled(tf.reduce_sum(model.task_weights * losses), scale)
    values.update(model.named("loss/competition", losses))
    gradients = tape.gradient(total, model.players.optimized["decoders"])
    model.players.apply("decoders", gradients, scale)
    if step.adversarial:
        values.update(discriminate(model, step, images, predictions, targets))
    return values


def compete_and_pull(
    model, step: Step, taught: Taught, representation: tf.Tensor
) -> Tuple[Values, Pulls]:
    """Step 3 in the simultaneous order: the same pass backward pulls at the encoder.

    The decoders move as in `compete`; every L_i is of the decoders before that.
    """
    images, targets = taught
    representation = tf.stop_gradient(representation)
    values: Values = {}
    scale = scale_of_pulls(model, "encoder", "decoders")
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(representation)
        predictions = model.student.decode(representation, training=step.training)
        soft = soft_losses(model, predictions, targets)
        losses = soft
        if step.adversarial:
            generator = [
                generator_losses(
                    model, step, images, {task: predictions[task]}, noise=i
                )[0]
                for i, task in enumerate(model.tasks)
            ]
            losses = [model.adversary.mix(s, g) for s, g in zip(soft, generator)]
            values.update(model.named("loss/generator", generator))
        each = [scaled(loss, scale) for loss in losses]
    values.update(model.named("loss/competition", losses))
    pulls, gradients = gradients_of_each(model, tape, each, representation)
    del tape
    model.players.apply("decoders", gradients, scale)
    if step.adversarial:
        values.update(discriminate(model, step, images, predictions, targets))
    return values, Pulls(tf.stack(soft), pulls, scale)


def discriminate(
    model,
    step: Step,
    images: tf.Tensor,
    predictions: Mapping[str, tf.Tensor],
    targets: Targets,
) -> Values:
    """The discriminators' step, on the predictions the decoders competed with."""

    def judge(task, maps, noise):
        return model.adversary.judge(
            images, task, maps, model.step, noise, step.training
        )

    with tf.GradientTape() as tape:
        losses, accuracies = [], []
        for i, task in enumerate(model.tasks):
            real = judge(task, targets.maps[task], 100 + i)
            fake = judge(task, tf.stop_gradient(predictions[task]), 200 + i)
            losses.append(discriminator_loss(real, fake))
            accuracies.append(discriminator_accuracy(real, fake))
        scale = model.players.loss_scale("discriminators")
        total = scaled(tf.add_n(losses), scale)
    gradients = tape.gradient(total, model.players.optimized["discriminators"])
    model.players.apply("discriminators", gradients, scale)
    return {
        **model.named("loss/discriminator", losses),
        **model.named("accuracy/discriminator", accuracies),
    }


def of_representation(transferred: Optional[Transferred]) -> Optional[tf.Tensor]:
    """L_A's pull at the representation; None where it has none."""
    return transferred.gradients.get("representation") if transferred else None


def see(
    model, encoded: Encoded, pulls: Pulls, transferred: Optional[Transferred]
) -> Observation:
    """What the rule sees of the collaboration: the tasks, L_A among them if bound."""
    if model.objective.transfer_as_task and transferred is not None:
        alpha = model.objective.soft_weight_at(model.step)
        own = of_representation(transferred)
        pulls = with_transfer(model, pulls, transferred.loss, own, alpha)
    representation = encoded.features["representation"]
    return observe(model, encoded.compress_tape, representation, pulls)


def collaborate(
    model,
    encoded: Encoded,
    pulls: Pulls,
    transferred: Optional[Transferred],
    seen: Observation,
) -> Values:
    """Step 4: the encoder minimises alpha * sum_i L_i + L_A (Eq. 8).

    With a rule that shares the encoder, with `weighted_collaboration`, or with L_A as
    one of the tasks, every term has a factor of its own. The adapters move with the
    encoder, for they minimise its L_A.
    """
    factors, of_transfer, values = encoder_factors(model, seen)
    features = encoded.features
    gradients = {"representation": weighted_sum(factors, pulls.gradients)}
    if transferred is not None:
        for layer, gradient in transferred.gradients.items():
            if of_transfer is not None:
                gradient = tf.cast(of_transfer, gradient.dtype) * gradient
            gradients[layer] = gradients.get(layer, 0.0) + gradient

    encoder = model.student.encoder
    shared = encoder.shared_layer
    pulled = encoded.compress_tape.gradient(
        features["representation"],
        [features[shared], *encoder.compress.trainable_variables],
        output_gradients=gradients.pop("representation"),
    )
    gradients[shared] = gradients.get(shared, 0.0) + pulled[0]
    encoder_gradients = encoded.trunk_tape.gradient(
        [features[layer] for layer in gradients],
        encoder.trunk.trainable_variables,
        output_gradients=list(gradients.values()),
    )
    if model.objective.train_compress:
        encoder_gradients = encoder_gradients + pulled[1:]
    model.players.apply("encoder", encoder_gradients, pulls.scale)
    if transferred is not None and transferred.of_adapter:
        own = transferred.of_adapter
        if of_transfer is not None:
            own = [of_transfer * gradient for gradient in own]
        model.players.apply("adapter", own, pulls.scale)
    return values


def encoder_factors(
    model, seen: Observation
) -> Tuple[List[Any], Optional[tf.Tensor], Values]:
    """The factors of L_i and of L_A in Eq. 8 (None for 1), and what is logged."""
    rule, count, values = model.balancing, len(model.tasks), {}
    alpha = model.objective.soft_weight_at(model.step)
    if model.objective.grows:
        values["soft_weight"] = alpha
    factors: List[Any] = [alpha] * count
    shares = None
    if rule.shares_encoder:
        shares = rule.encoder_shares(seen)
    elif model.objective.transfer_as_task:
        shares = (count + 1.0) * tf.convert_to_tensor(rule.task_weights)
    elif model.objective.weighted_collaboration:
        weights = tf.unstack(tf.convert_to_tensor(rule.task_weights))
        factors = [alpha * count * weight for weight in weights]
    if shares is None:
        return factors, None, values
    values.update(model.named("encoder_share", shares))
    each = tf.unstack(shares)
    factors = [alpha * share for share in each[:count]]
    return factors, each[count] if len(each) > count else None, values


def amalgamate(
    model,
    features: Mapping[str, tf.Tensor],
    targets: Targets,
    scale: Optional[tf.Tensor],
) -> Tuple[Values, Transferred]:
    """L_A and its pulls on the student's activations; W, C (and V) take a step."""
    mine = {layer: features[layer] for layer in model.amalgamated_layers}
    own = model.players.optimized["amalgamation"]
    adapters = model.players.optimized.get("adapter", [])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(mine)
        losses = model.amalgamated(targets, mine)
        own_scale = model.players.loss_scale("amalgamation")
        own_loss = scaled(losses.amalgamation, own_scale)
        transfer = scaled(losses.transfer, scale)
    gradients, of_adapter = tape.gradient(transfer, [mine, adapters])
    model.players.apply("amalgamation", tape.gradient(own_loss, own), own_scale)
    values = {
        "loss/transfer": losses.transfer,
        "loss/amalgamation": losses.amalgamation,
    }
    return values, Transferred(losses.transfer, gradients, of_adapter)


def weigh(
    model,
    step: Step,
    seen: Observation,
    scale: Optional[tf.Tensor],
) -> Values:
    """Step 5: the rule moves its task weights; everybody else rests.

    Args:
      model: the `SokaModel`.
      step: this one.
      seen: what the rule sees.
      scale: what the gradients were multiplied by that it is of, or None.
    """
    rule = model.balancing
    with step.page.phase("weighting"):
        optimizer = model.players.optimizers.get("task_weights")
        loss = rule.step(seen, optimizer, replica_count())
    values = {rule.loss_name: loss} if rule.loss_name else {}
    if not rule.needs:
        return values
    norms = seen.pull_norms if seen.norms is None else seen.norms
    if scale is not None:
        finite = tf.reduce_all(tf.math.is_finite(norms))
        step.page.overflow = (scale > 1.0) & ~finite
    return {**values, **model.named("gradient_norm", norms)}
