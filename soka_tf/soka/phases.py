"""The joint start and the phases of a cycle, as section 3.4 of the paper tells them.

Each phase has a GradientTape of its own. One pass of the teachers and one of the
student's encoder serve all phases of a cycle: the competition works on the
representation as a constant; the collaboration needs of every task only d L_i / d
representation, pulled through the encoder's tape; the same derivatives, or what they
become at the last shared layer's kernel, are what the rule of balancing sees.

`model` is the `SokaModel`: networks, players, rule, settings. Whatever lasts for one
step only is in `Step` or handed on as an argument.
"""

import dataclasses
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

import tensorflow as tf

from soka_tf.data.targets import Targets
from soka_tf.networks.batch_norm import Collected, apply_collected, statistics
from soka_tf.networks.replicas import mean_over_replicas, replica_count
from soka_tf.soka.adversarial import discriminator_loss
from soka_tf.soka.balancing.rule import Observation
from soka_tf.soka.distillation import soft_target_losses
from soka_tf.soka.ledger import Page
from soka_tf.soka.players import Tensors, scaled, unscaled

Values = Dict[str, tf.Tensor]  # term -> float32 scalar, by the names of ledger.PHASES
Taught = Tuple[tf.Tensor, Targets]  # images and what the teachers say of them


@dataclasses.dataclass(frozen=True)
class Step:
    """What is decided in Python before the graph of a step is traced.

    Attributes:
      stage: "joint", "cycle" or "cycle_gan".
      training: whether BatchNorm normalises by the batch's statistics.
      frozen_training: the same, of a network that rests while another one moves.
      page: where the step is noted.
    """

    stage: str
    training: bool
    frozen_training: bool
    page: Page

    @property
    def adversarial(self) -> bool:
        """Whether the CGAN term takes part."""
        return self.stage == "cycle_gan"


class Encoded(NamedTuple):
    """One pass of the encoder, to be differentiated once more.

    Attributes:
      features: layer -> activations, "representation" among them.
      trunk_tape: of the layers up to the shared one.
      compress_tape: of those from there to the representation; persistent.
      moved: what the pass would make of the moving statistics.
    """

    features: Dict[str, tf.Tensor]
    trunk_tape: tf.GradientTape
    compress_tape: tf.GradientTape
    moved: Collected


class Pulls(NamedTuple):
    """The tasks' losses and how they pull at the representation.

    Attributes:
      losses: L_i, float32 [n], of soft targets alone.
      gradients: n tensors, scale * d L_i / d representation.
      scale: of `Players.loss_scale`.
    """

    losses: tf.Tensor
    gradients: Tensors
    scale: Optional[tf.Tensor]


def joint(model, step: Step, taught: Taught) -> Values:
    """Step 2: encoder and decoders together; then the task weights, if bound."""
    images, targets = taught
    players, rule, mia = model.players, model.balancing, None
    weighting = model.schedule.joint_weighting
    sharing = weighting and rule.shares_encoder
    scale = _scale_of_pulls(model, "encoder", "decoders", weighting=weighting)
    with step.page.phase("joint"):
        with tf.GradientTape(persistent=True) as tape:
            features = model.student.encoder(images, training=step.training)
            shared = features["representation"]
            predictions = model.student.decode(shared, training=step.training)
            each = _soft_losses(model, predictions, targets)
            losses = tf.stack(each)
            total, factor = tf.reduce_sum(rule.task_weights * losses), 1.0
            if model.joint_amalgamation:
                mia = model.amalgamation(targets.features, features)
                # n omega_i: at equal weights that is Eq. 8, which has no omega.
                factor = model.objective.soft_weight * len(model.tasks)
                total = factor * total + mia.transfer
            total = scaled(total, scale)
            # Of the stacked losses, each would be pulled through all decoders.
            each = [scaled(loss, scale) for loss in each]
        if sharing:
            pulls, of_decoders = _gradients_of_each(model, tape, each, shared)
            of_decoders = [factor * gradient for gradient in of_decoders]
        else:
            moving = players.optimized["encoder"], players.optimized["decoders"]
            of_encoder, of_decoders = tape.gradient(total, moving)
            pulls = [tape.gradient(loss, shared) for loss in each] if weighting else []
        if weighting:
            seen = observe(model, tape, shared, Pulls(losses, pulls, scale))
        if sharing:
            shares = rule.encoder_shares(seen)
            factors = tf.unstack(factor / len(pulls) * shares)
            ends, at_ends = [shared], [_weighted_sum(factors, pulls)]
            if mia is not None:
                ends.append(mia.transfer)
                at_ends.append(scaled(tf.ones([]), scale))
            of_encoder = tape.gradient(ends, players.optimized["encoder"], at_ends)
        players.apply("encoder", of_encoder, scale)
        players.apply("decoders", of_decoders, scale)
        if mia is not None:
            own = players.optimized["amalgamation"]
            own_scale = players.loss_scale("amalgamation")
            gradients = tape.gradient(mia.amalgamation, own, own_scale)
            players.apply("amalgamation", gradients, own_scale)
    due = model.step >= model.schedule.initial_losses_step
    rule.record_initial(mean_over_replicas(losses), due)
    values = model.named("loss/soft", losses)
    if weighting:
        values.update(weigh(model, step, seen, scale))
    if sharing:
        values.update(model.named("encoder_share", shares))
    values.update(model.named("task_weight", rule.task_weights))
    if mia is not None:
        values["loss/transfer"] = mia.transfer
        values["loss/amalgamation"] = mia.amalgamation
    return values


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
        seen = observe(model, encoded.compress_tape, representation, pulls)
        values.update(collaborate(model, encoded, collaborating[1], pulls, seen))

    model.balancing.record_initial(seen.losses, tf.constant(True))
    values.update(weigh(model, step, seen, pulls.scale))
    values.update(model.named("loss/soft", seen.losses))
    values.update(model.named("task_weight", model.balancing.task_weights))
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
    values: Values = {}
    with tf.GradientTape() as tape:
        predictions = model.student.decode(representation, training=step.training)
        losses = tf.stack(_soft_losses(model, predictions, targets))
        if step.adversarial:
            generator = _generator_losses(model, step, images, predictions, noise=0)
            losses = model.adversary.mix(losses, generator)
            values.update(model.named("loss/generator", generator))
        scale = model.players.loss_scale("decoders")
        total = scaled(tf.reduce_sum(model.balancing.task_weights * losses), scale)
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
    scale = _scale_of_pulls(model, "encoder", "decoders")
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(representation)
        predictions = model.student.decode(representation, training=step.training)
        soft = _soft_losses(model, predictions, targets)
        losses = soft
        if step.adversarial:
            generator = [
                _generator_losses(
                    model, step, images, {task: predictions[task]}, noise=i
                )[0]
                for i, task in enumerate(model.tasks)
            ]
            losses = [model.adversary.mix(s, g) for s, g in zip(soft, generator)]
            values.update(model.named("loss/generator", generator))
        each = [scaled(loss, scale) for loss in losses]
    values.update(model.named("loss/competition", losses))
    pulls, gradients = _gradients_of_each(model, tape, each, representation)
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
        losses = []
        for i, task in enumerate(model.tasks):
            real = judge(task, targets.maps[task], 100 + i)
            fake = judge(task, tf.stop_gradient(predictions[task]), 200 + i)
            losses.append(discriminator_loss(real, fake))
        scale = model.players.loss_scale("discriminators")
        total = scaled(tf.add_n(losses), scale)
    gradients = tape.gradient(total, model.players.optimized["discriminators"])
    model.players.apply("discriminators", gradients, scale)
    return model.named("loss/discriminator", losses)


def pull(model, step: Step, taught: Taught, representation: tf.Tensor) -> Pulls:
    """L_i with the decoders as they stand now, and d L_i / d representation."""
    images, targets = taught
    representation = tf.stop_gradient(representation)
    scale = _scale_of_pulls(model, "encoder")
    losses, gradients = [], []
    for i, task in enumerate(model.tasks):
        decoder = model.student.decoders[task]
        tape = tf.GradientTape(watch_accessed_variables=False)
        with statistics(decoder, "keep"), tape:
            tape.watch(representation)
            prediction = {task: decoder(representation, training=step.frozen_training)}
            soft = tf.stack(_soft_losses(model, prediction, targets))
            loss = soft
            if step.adversarial:
                generator = _generator_losses(
                    model, step, images, prediction, noise=300 + i
                )
                loss = model.adversary.mix(soft, generator)
            loss = scaled(loss, scale)
        losses.append(soft[0])
        gradients.append(tape.gradient(loss, representation))
    return Pulls(tf.stack(losses), gradients, scale)


def collaborate(
    model, encoded: Encoded, targets: Targets, pulls: Pulls, seen: Observation
) -> Values:
    """Step 4: the encoder minimises alpha * sum_i L_i + L_A (Eq. 8).

    With a rule that shares the encoder, or with `weighted_collaboration`, every L_i
    has a factor of its own.
    """
    alpha = model.objective.soft_weight
    factors: List[Any] = [alpha] * len(pulls.gradients)
    features, values = encoded.features, {}
    if model.balancing.shares_encoder:
        shares = model.balancing.encoder_shares(seen)
        values.update(model.named("encoder_share", shares))
        factors = [alpha * share for share in tf.unstack(shares)]
    elif model.objective.weighted_collaboration:
        weights = tf.unstack(tf.convert_to_tensor(model.balancing.task_weights))
        factors = [
            model.objective.soft_weight * len(weights) * weight for weight in weights
        ]
    gradients = {"representation": _weighted_sum(factors, pulls.gradients)}
    if model.amalgamation is not None:
        found, transfer = amalgamate(model, features, targets, pulls.scale)
        values.update(found)
        for layer, gradient in transfer.items():
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
    return values


def amalgamate(
    model,
    features: Mapping[str, tf.Tensor],
    targets: Targets,
    scale: Optional[tf.Tensor],
) -> Tuple[Values, Dict[str, tf.Tensor]]:
    """L_A's scaled pull on the student's activations; W, C (and V) take a step."""
    mine = {layer: features[layer] for layer in model.amalgamated_layers}
    own = model.players.optimized["amalgamation"]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(mine)
        losses = model.amalgamation(targets.features, mine)
        own_scale = model.players.loss_scale("amalgamation")
        own_loss = scaled(losses.amalgamation, own_scale)
        transfer = scaled(losses.transfer, scale)
    gradients = tape.gradient(transfer, mine)
    model.players.apply("amalgamation", tape.gradient(own_loss, own), own_scale)
    values = {
        "loss/transfer": losses.transfer,
        "loss/amalgamation": losses.amalgamation,
    }
    return values, gradients


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


def observe(
    model, tape: tf.GradientTape, representation: tf.Tensor, pulls: Pulls
) -> Observation:
    """What the rule needs, of the whole batch.

    Args:
      model: the `SokaModel`.
      tape: of the last shared layer.
      representation: its output.
      pulls: of the tasks, at that.
    """
    needs, norms, gram = model.balancing.needs, None, None
    if "norms" in needs:
        norms = gradient_norms(
            model, tape, representation, pulls.gradients, pulls.scale
        )
    if "gram" in needs:
        gram = gram_matrix(pulls.gradients, pulls.scale)
    return Observation(mean_over_replicas(pulls.losses), norms, gram)


def gram_matrix(pulls: Tensors, scale: Optional[tf.Tensor]) -> tf.Tensor:
    """<d L_i, d L_j> at the representation of the whole batch; float32 [n, n]."""
    pulls = unscaled([tf.cast(p, tf.float32) for p in pulls], scale)
    gram = tf.stack([tf.stack([tf.reduce_sum(p * q) for q in pulls]) for p in pulls])
    # Every image is on one replica, whose loss is a share of the whole.
    return mean_over_replicas(gram) / replica_count()


def gradient_norms(
    model,
    tape: tf.GradientTape,
    representation: tf.Tensor,
    pulls: Tensors,
    scale: Optional[tf.Tensor],
) -> tf.Tensor:
    """||d L_i / d kernel|| of the last shared layer, whole batch; float32 [n]."""
    kernel = model.student.encoder.last_shared_kernel
    gradients = [
        tape.gradient(representation, kernel, output_gradients=pull) for pull in pulls
    ]
    gradients = unscaled([tf.cast(g, tf.float32) for g in gradients], scale)
    # The norm of a replica's gradient is not the norm of the batch's.
    return tf.stack([tf.norm(g) for g in mean_over_replicas(gradients)])


def _scale_of_pulls(
    model, *players: str, weighting: bool = True
) -> Optional[tf.Tensor]:
    """The loss scale of a pass backward that may also serve the weighting."""
    # Norms that overflow lower the scale, too, if weights are learnt from them.
    learns = weighting and model.balancing.learns and bool(model.balancing.needs)
    return model.players.loss_scale(*players, *["task_weights"] * learns)


def _gradients_of_each(
    model, tape: tf.GradientTape, losses: Tensors, representation: tf.Tensor
) -> Tuple[Tensors, Tensors]:
    """Every loss's pull at the representation, and its decoder's weighted gradient."""
    pulls: Tensors = []
    gradients: Tensors = []
    weights = tf.unstack(tf.convert_to_tensor(model.balancing.task_weights))
    for loss, weight, decoder in zip(losses, weights, model.student.ordered_decoders):
        at_representation, *own = tape.gradient(
            loss, [representation, *decoder.trainable_variables]
        )
        pulls.append(at_representation)
        gradients += [weight * gradient for gradient in own]
    return pulls, gradients


def _weighted_sum(factors: List[Any], pulls: Tensors) -> tf.Tensor:
    return tf.add_n([tf.cast(f, p.dtype) * p for f, p in zip(factors, pulls)])


def _soft_losses(
    model, predictions: Mapping[str, tf.Tensor], targets: Targets
) -> Tensors:
    kinds = {task: model.objective.loss_of(task) for task in predictions}
    losses = soft_target_losses(predictions, targets.maps, kinds, targets.weights)
    return list(losses.values())


def _generator_losses(
    model,
    step: Step,
    images: tf.Tensor,
    predictions: Mapping[str, tf.Tensor],
    noise: int,
) -> tf.Tensor:
    return model.adversary.generator_losses(
        images, predictions, model.step, noise, step.frozen_training
    )
