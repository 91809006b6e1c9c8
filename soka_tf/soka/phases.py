"""The joint start and the phases of a cycle, as section 3.4 of the paper tells them.

Each phase has a GradientTape of its own. One pass of the teachers and one of the
student's encoder serve all phases of a cycle: the competition works on the
representation as a constant; the collaboration needs of every task only d L_i / d
representation, pulled through the encoder's tape; the same derivatives, or what they
become at the last shared layer's kernel, are what the rule of balancing sees.

`game` is the `SokaModel`: networks, players, rule, settings. Whatever lasts for one
step only is in `Step` or handed on as an argument.
"""

import dataclasses
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

import tensorflow as tf

from soka_tf.networks.batch_norm import Collected, apply_collected, statistics
from soka_tf.networks.replicas import mean_over_replicas, replica_count
from soka_tf.soka.adversarial import discriminator_loss
from soka_tf.soka.balancing.rule import Seen
from soka_tf.soka.distillation import soft_target_losses
from soka_tf.soka.ledger import Page
from soka_tf.soka.players import Tensors, scaled, unscaled
from soka_tf.teachers.pool import TeacherOutputs

Values = Dict[str, tf.Tensor]  # term -> float32 scalar, by the names of ledger.PHASES
Taught = Tuple[tf.Tensor, TeacherOutputs]  # images and what the teachers say of them


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


def joint(game, step: Step, taught: Taught) -> Values:
    """Step 2: encoder and decoders together; then the task weights, if bound."""
    images, targets = taught
    players, rule, mia = game.players, game.balancing, None
    weighting = game.schedule.joint_weighting
    sharing = weighting and rule.shares_encoder
    scale = _scale_of_pulls(game, "encoder", "decoders", weighting=weighting)
    with step.page.phase("joint"):
        with tf.GradientTape(persistent=True) as tape:
            features = game.student.encoder(images, training=step.training)
            shared = features["representation"]
            predictions = game.student.decode(shared, training=step.training)
            each = _soft_losses(game, predictions, targets)
            losses = tf.stack(each)
            total, factor = tf.reduce_sum(rule.task_weights * losses), 1.0
            if game.joint_amalgamation:
                mia = game.amalgamation(targets.features, features)
                # n omega_i: at equal weights that is Eq. 8, which has no omega.
                factor = game.objective.soft_weight * len(game.tasks)
                total = factor * total + mia.transfer
            total = scaled(total, scale)
            # Of the stacked losses, each would be pulled through all decoders.
            each = [scaled(loss, scale) for loss in each]
        if sharing:
            pulls, of_decoders = _gradients_of_each(game, tape, each, shared)
            of_decoders = [factor * gradient for gradient in of_decoders]
        else:
            moving = players.optimized["encoder"], players.optimized["decoders"]
            of_encoder, of_decoders = tape.gradient(total, moving)
            pulls = [tape.gradient(loss, shared) for loss in each] if weighting else []
        if weighting:
            seen = see(game, tape, shared, Pulls(losses, pulls, scale))
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
    due = game.step >= game.schedule.initial_losses_step
    rule.record_initial(mean_over_replicas(losses), due)
    values = game.named("loss/soft", losses)
    if weighting:
        values.update(weigh(game, step, seen, scale))
    if sharing:
        values.update(game.named("encoder_share", shares))
    values.update(game.named("task_weight", rule.task_weights))
    if mia is not None:
        values["loss/transfer"] = mia.transfer
        values["loss/amalgamation"] = mia.amalgamation
    return values


def cycle(game, step: Step, competing: Taught, collaborating: Taught) -> Values:
    """Steps 3, 4 and 5, with one encoder pass where all see the same of it.

    Args:
      game: the model.
      step: this one.
      competing: images and targets of the competition.
      collaborating: those of the other phases, or the same object.
    """
    encoded = encode(game, step, collaborating[0])
    representation = encoded.features["representation"]
    shown = representation
    if competing is not collaborating or step.frozen_training != step.training:
        with statistics(game.student.encoder, "keep"):
            outputs = game.student.encoder(competing[0], training=step.frozen_training)
        shown = outputs["representation"]

    simultaneous = game.schedule.order == "simultaneous"
    with step.page.phase("competition"):
        if simultaneous:
            values, pulls = compete_and_pull(game, step, competing, shown)
        else:
            values = compete(game, step, competing, shown)

    # The encoder has not moved yet: its first pass is that of the next phases.
    with step.page.phase("collaboration"):
        apply_collected(encoded.moved)
        if not simultaneous:
            pulls = pull(game, step, collaborating, representation)
        seen = see(game, encoded.compress_tape, representation, pulls)
        values.update(collaborate(game, encoded, collaborating[1], pulls, seen))

    game.balancing.record_initial(seen.losses, tf.constant(True))
    values.update(weigh(game, step, seen, pulls.scale))
    values.update(game.named("loss/soft", seen.losses))
    values.update(game.named("task_weight", game.balancing.task_weights))
    return values


def encode(game, step: Step, images: tf.Tensor) -> Encoded:
    """The encoder's pass of a cycle; its moving statistics stay for now."""
    encoder = game.student.encoder
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


def compete(game, step: Step, taught: Taught, representation: tf.Tensor) -> Values:
    """Step 3: the decoders minimise their weighted losses; the encoder rests."""
    images, targets = taught
    representation = tf.stop_gradient(representation)
    values: Values = {}
    with tf.GradientTape() as tape:
        predictions = game.student.decode(representation, training=step.training)
        losses = tf.stack(_soft_losses(game, predictions, targets))
        if step.adversarial:
            deceits = _deceits(game, step, images, predictions, noise=0)
            losses = game.adversary.mix(losses, deceits)
            values.update(game.named("loss/generator", deceits))
        scale = game.players.loss_scale("decoders")
        total = scaled(tf.reduce_sum(game.balancing.task_weights * losses), scale)
    values.update(game.named("loss/competition", losses))
    gradients = tape.gradient(total, game.players.optimized["decoders"])
    game.players.apply("decoders", gradients, scale)
    if step.adversarial:
        values.update(discriminate(game, step, images, predictions, targets))
    return values


def compete_and_pull(
    game, step: Step, taught: Taught, representation: tf.Tensor
) -> Tuple[Values, Pulls]:
    """Step 3 in the simultaneous order: the same pass backward pulls at the encoder.

    The decoders move as in `compete`; every L_i is of the decoders before that.
    """
    images, targets = taught
    representation = tf.stop_gradient(representation)
    values: Values = {}
    scale = _scale_of_pulls(game, "encoder", "decoders")
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(representation)
        predictions = game.student.decode(representation, training=step.training)
        soft = _soft_losses(game, predictions, targets)
        losses = soft
        if step.adversarial:
            deceits = [
                _deceits(game, step, images, {task: predictions[task]}, noise=i)[0]
                for i, task in enumerate(game.tasks)
            ]
            losses = [game.adversary.mix(s, d) for s, d in zip(soft, deceits)]
            values.update(game.named("loss/generator", deceits))
        each = [scaled(loss, scale) for loss in losses]
    values.update(game.named("loss/competition", losses))
    pulls, gradients = _gradients_of_each(game, tape, each, representation)
    del tape
    game.players.apply("decoders", gradients, scale)
    if step.adversarial:
        values.update(discriminate(game, step, images, predictions, targets))
    return values, Pulls(tf.stack(soft), pulls, scale)


def discriminate(
    game,
    step: Step,
    images: tf.Tensor,
    predictions: Mapping[str, tf.Tensor],
    targets: TeacherOutputs,
) -> Values:
    """The discriminators' step, on the predictions the decoders competed with."""

    def judge(task, maps, noise):
        return game.adversary.judge(images, task, maps, game.step, noise, step.training)

    with tf.GradientTape() as tape:
        losses = []
        for i, task in enumerate(game.tasks):
            real = judge(task, targets.predictions[task], 100 + i)
            fake = judge(task, tf.stop_gradient(predictions[task]), 200 + i)
            losses.append(discriminator_loss(real, fake))
        scale = game.players.loss_scale("discriminators")
        total = scaled(tf.add_n(losses), scale)
    gradients = tape.gradient(total, game.players.optimized["discriminators"])
    game.players.apply("discriminators", gradients, scale)
    return game.named("loss/discriminator", losses)


def pull(game, step: Step, taught: Taught, representation: tf.Tensor) -> Pulls:
    """L_i with the decoders as they stand now, and d L_i / d representation."""
    images, targets = taught
    representation = tf.stop_gradient(representation)
    scale = _scale_of_pulls(game, "encoder")
    losses, gradients = [], []
    for i, task in enumerate(game.tasks):
        decoder = game.student.decoders[task]
        tape = tf.GradientTape(watch_accessed_variables=False)
        with statistics(decoder, "keep"), tape:
            tape.watch(representation)
            prediction = {task: decoder(representation, training=step.frozen_training)}
            soft = tf.stack(_soft_losses(game, prediction, targets))
            loss = soft
            if step.adversarial:
                deceit = _deceits(game, step, images, prediction, noise=300 + i)
                loss = game.adversary.mix(soft, deceit)
            loss = scaled(loss, scale)
        losses.append(soft[0])
        gradients.append(tape.gradient(loss, representation))
    return Pulls(tf.stack(losses), gradients, scale)


def collaborate(
    game, encoded: Encoded, targets: TeacherOutputs, pulls: Pulls, seen: Seen
) -> Values:
    """Step 4: the encoder minimises alpha * sum_i L_i + L_A (Eq. 8).

    With a rule that shares the encoder, or with `weighted_collaboration`, every L_i
    has a factor of its own.
    """
    alpha = game.objective.soft_weight
    factors: List[Any] = [alpha] * len(pulls.gradients)
    features, values = encoded.features, {}
    if game.balancing.shares_encoder:
        shares = game.balancing.encoder_shares(seen)
        values.update(game.named("encoder_share", shares))
        factors = [alpha * share for share in tf.unstack(shares)]
    elif game.objective.weighted_collaboration:
        weights = tf.unstack(tf.convert_to_tensor(game.balancing.task_weights))
        factors = [
            game.objective.soft_weight * len(weights) * weight for weight in weights
        ]
    gradients = {"representation": _weighted_sum(factors, pulls.gradients)}
    if game.amalgamation is not None:
        found, transfer = amalgamate(game, features, targets, pulls.scale)
        values.update(found)
        for layer, gradient in transfer.items():
            gradients[layer] = gradients.get(layer, 0.0) + gradient

    encoder = game.student.encoder
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
    if game.objective.train_compress:
        encoder_gradients = encoder_gradients + pulled[1:]
    game.players.apply("encoder", encoder_gradients, pulls.scale)
    return values


def amalgamate(
    game,
    features: Mapping[str, tf.Tensor],
    targets: TeacherOutputs,
    scale: Optional[tf.Tensor],
) -> Tuple[Values, Dict[str, tf.Tensor]]:
    """L_A's scaled pull on the student's activations; W, C (and V) take a step."""
    mine = {layer: features[layer] for layer in game.amalgamated_layers}
    own = game.players.optimized["amalgamation"]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(mine)
        losses = game.amalgamation(targets.features, mine)
        own_scale = game.players.loss_scale("amalgamation")
        own_loss = scaled(losses.amalgamation, own_scale)
        transfer = scaled(losses.transfer, scale)
    gradients = tape.gradient(transfer, mine)
    game.players.apply("amalgamation", tape.gradient(own_loss, own), own_scale)
    values = {
        "loss/transfer": losses.transfer,
        "loss/amalgamation": losses.amalgamation,
    }
    return values, gradients


def weigh(
    game,
    step: Step,
    seen: Seen,
    scale: Optional[tf.Tensor],
) -> Values:
    """Step 5: the rule moves its task weights; everybody else rests.

    Args:
      game: the model.
      step: this one.
      seen: what the rule sees.
      scale: what the gradients were multiplied by that it is of, or None.
    """
    rule = game.balancing
    with step.page.phase("weighting"):
        optimizer = game.players.optimizers.get("task_weights")
        loss = rule.step(seen, optimizer, replica_count())
    values = {rule.loss_name: loss} if rule.loss_name else {}
    if not rule.needs:
        return values
    norms = seen.pull_norms if seen.norms is None else seen.norms
    if scale is not None:
        finite = tf.reduce_all(tf.math.is_finite(norms))
        step.page.overflow = (scale > 1.0) & ~finite
    return {**values, **game.named("gradient_norm", norms)}


def see(game, tape: tf.GradientTape, representation: tf.Tensor, pulls: Pulls) -> Seen:
    """What the rule needs, of the whole batch.

    Args:
      game: the model.
      tape: of the last shared layer.
      representation: its output.
      pulls: of the tasks, at that.
    """
    needs, norms, gram = game.balancing.needs, None, None
    if "norms" in needs:
        norms = gradient_norms(game, tape, representation, pulls.gradients, pulls.scale)
    if "gram" in needs:
        gram = gram_matrix(pulls.gradients, pulls.scale)
    return Seen(mean_over_replicas(pulls.losses), norms, gram)


def gram_matrix(pulls: Tensors, scale: Optional[tf.Tensor]) -> tf.Tensor:
    """<d L_i, d L_j> at the representation of the whole batch; float32 [n, n]."""
    pulls = unscaled([tf.cast(p, tf.float32) for p in pulls], scale)
    gram = tf.stack([tf.stack([tf.reduce_sum(p * q) for q in pulls]) for p in pulls])
    # Every image is on one replica, whose loss is a share of the whole.
    return mean_over_replicas(gram) / replica_count()


def gradient_norms(
    game,
    tape: tf.GradientTape,
    representation: tf.Tensor,
    pulls: Tensors,
    scale: Optional[tf.Tensor],
) -> tf.Tensor:
    """||d L_i / d kernel|| of the last shared layer, whole batch; float32 [n]."""
    kernel = game.student.encoder.last_shared_kernel
    gradients = [
        tape.gradient(representation, kernel, output_gradients=pull) for pull in pulls
    ]
    gradients = unscaled([tf.cast(g, tf.float32) for g in gradients], scale)
    # The norm of a replica's gradient is not the norm of the batch's.
    return tf.stack([tf.norm(g) for g in mean_over_replicas(gradients)])


def _scale_of_pulls(game, *players: str, weighting: bool = True) -> Optional[tf.Tensor]:
    """The loss scale of a pass backward that may also serve the weighting."""
    # Norms that overflow lower the scale, too, if weights are learnt from them.
    learns = weighting and game.balancing.learns and bool(game.balancing.needs)
    return game.players.loss_scale(*players, *["task_weights"] * learns)


def _gradients_of_each(
    game, tape: tf.GradientTape, losses: Tensors, representation: tf.Tensor
) -> Tuple[Tensors, Tensors]:
    """Every loss's pull at the representation, and its decoder's weighted gradient."""
    pulls: Tensors = []
    gradients: Tensors = []
    weights = tf.unstack(tf.convert_to_tensor(game.balancing.task_weights))
    for loss, weight, decoder in zip(losses, weights, game.student.ordered_decoders):
        at_representation, *own = tape.gradient(
            loss, [representation, *decoder.trainable_variables]
        )
        pulls.append(at_representation)
        gradients += [weight * gradient for gradient in own]
    return pulls, gradients


def _weighted_sum(factors: List[Any], pulls: Tensors) -> tf.Tensor:
    return tf.add_n([tf.cast(f, p.dtype) * p for f, p in zip(factors, pulls)])


def _soft_losses(
    game, predictions: Mapping[str, tf.Tensor], targets: TeacherOutputs
) -> Tensors:
    losses = soft_target_losses(
        predictions, targets.predictions, game.objective.soft_loss, targets.weights
    )
    return list(losses.values())


def _deceits(
    game,
    step: Step,
    images: tf.Tensor,
    predictions: Mapping[str, tf.Tensor],
    noise: int,
) -> tf.Tensor:
    return game.adversary.deceit_losses(
        images, predictions, game.step, noise, step.frozen_training
    )
