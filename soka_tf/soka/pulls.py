"""How the tasks pull at the representation, and what a rule of balancing sees of it."""

from typing import Any, List, Mapping, Optional, Tuple

import tensorflow as tf

from soka_tf.networks.batch_norm import statistics
from soka_tf.networks.replicas import mean_over_replicas, replica_count
from soka_tf.soka.balancing.rule import Observation
from soka_tf.soka.losses import generator_losses, soft_losses
from soka_tf.soka.players import Tensors, scaled, unscaled
from soka_tf.soka.step import Pulls, Step, Taught


def pull(model, step: Step, taught: Taught, representation: tf.Tensor) -> Pulls:
    """L_i with the decoders as they stand now, and d L_i / d representation."""
    images, targets = taught
    representation = tf.stop_gradient(representation)
    scale = scale_of_pulls(model, "encoder")
    losses, gradients = [], []
    for i, task in enumerate(model.tasks):
        decoder = model.student.decoders[task]
        tape = tf.GradientTape(watch_accessed_variables=False)
        with statistics(decoder, "keep"), tape:
            tape.watch(representation)
            prediction = {task: decoder(representation, training=step.frozen_training)}
            soft = tf.stack(soft_losses(model, prediction, targets))
            loss = soft
            if step.adversarial:
                generator = generator_losses(
                    model, step, images, prediction, noise=300 + i
                )
                loss = model.adversary.mix(soft, generator)
            loss = scaled(loss, scale)
        losses.append(soft[0])
        gradients.append(tape.gradient(loss, representation))
    return Pulls(tf.stack(losses), gradients, scale)


def with_transfer(
    model, pulls: Pulls, loss: tf.Tensor, gradient: Optional[tf.Tensor], alpha: Any
) -> Pulls:
    """The pulls with L_A's as the last, in the sizes in which the encoder has them.

    Args:
      model: the `SokaModel`.
      pulls: of the n tasks.
      loss: L_A.
      gradient: of L_A at the representation, scaled as the pulls; None for none.
      alpha: the tasks' factor beside L_A.
    """
    gradients = [tf.cast(alpha, p.dtype) * p for p in pulls.gradients]
    gradients.append(tf.zeros_like(gradients[0]) if gradient is None else gradient)
    return Pulls(tf.concat([pulls.losses, [loss]], 0), gradients, pulls.scale)


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


def cosines(model, pulls: Pulls, transfer: Optional[tf.Tensor]) -> Mapping[str, Any]:
    """Cosines of the angles between the pulls at the representation, a pair each.

    Args:
      model: the `SokaModel`.
      pulls: of the n tasks.
      transfer: of L_A there, scaled as the pulls; None where it has none.

    Returns:
      The names of `SokaModel.conflict_names` -> float32 scalars of the whole batch;
      0 where a pull is 0.
    """
    own = [*pulls.gradients] + [transfer] * (transfer is not None)
    gram = gram_matrix(own, pulls.scale)
    norms = tf.sqrt(tf.linalg.diag_part(gram))
    found = tf.math.divide_no_nan(gram, norms[:, None] * norms[None, :])
    names = [*model.tasks, "transfer"]
    return {
        f"cosine/{names[i]}:{names[j]}": found[i, j]
        for i in range(len(own))
        for j in range(i + 1, len(own))
    }


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


def scale_of_pulls(model, *players: str, weighting: bool = True) -> Optional[tf.Tensor]:
    """The loss scale of a pass backward that may also serve the weighting."""
    # Norms that overflow lower the scale, too, if weights are learnt from them.
    learns = weighting and model.balancing.learns and bool(model.balancing.needs)
    further = ["task_weights"] * learns + ["adapter"] * model.has_adapter
    return model.players.loss_scale(*players, *further)


def gradients_of_each(
    model, tape: tf.GradientTape, losses: Tensors, representation: tf.Tensor
) -> Tuple[Tensors, Tensors]:
    """Every loss's pull at the representation, and its decoder's weighted gradient."""
    pulls: Tensors = []
    gradients: Tensors = []
    weights = tf.unstack(tf.convert_to_tensor(model.task_weights))
    for loss, weight, decoder in zip(losses, weights, model.student.ordered_decoders):
        at_representation, *own = tape.gradient(
            loss, [representation, *decoder.trainable_variables]
        )
        pulls.append(at_representation)
        gradients += [weight * gradient for gradient in own]
    return pulls, gradients


def weighted_sum(factors: List[Any], pulls: Tensors) -> tf.Tensor:
    """The sum of pulls with a factor each, in their dtype."""
    return tf.add_n([tf.cast(f, p.dtype) * p for f, p in zip(factors, pulls)])
