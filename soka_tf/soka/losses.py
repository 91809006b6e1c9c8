"""The losses of a model's predictions: soft targets (Eq. 5) and the CGAN term."""

from typing import Mapping

import tensorflow as tf

from soka_tf.data.targets import Targets
from soka_tf.soka.distillation import soft_target_losses
from soka_tf.soka.players import Tensors
from soka_tf.soka.step import Step


def soft_losses(
    model, predictions: Mapping[str, tf.Tensor], targets: Targets
) -> Tensors:
    """L_i of every task predicted, in their order."""
    objective = model.objective
    kinds = {task: objective.loss_of(task) for task in predictions}
    losses = soft_target_losses(
        predictions, targets.maps, kinds, targets.weights, objective.soft_reduction
    )
    return list(losses.values())


def generator_losses(
    model,
    step: Step,
    images: tf.Tensor,
    predictions: Mapping[str, tf.Tensor],
    noise: int,
) -> tf.Tensor:
    """The generator's losses; `noise` tells the pass from others of the step."""
    return model.adversary.generator_losses(
        images, predictions, model.step, noise, step.frozen_training
    )
