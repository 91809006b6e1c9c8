"""The players: their variables, their optimizers, and what moves the networks.

A rule of balancing moves its own variables (`soka_tf.soka.balancing.rule`).
"""

import functools
from typing import Dict, List, Mapping, Optional, Sequence

import tensorflow as tf

from soka_tf.networks.precision import computes_in_float16
from soka_tf.networks.replicas import replica_count
from soka_tf.soka.adversarial import Adversary
from soka_tf.soka.amalgamation import Amalgamation
from soka_tf.soka.balancing.rule import Rule
from soka_tf.soka.objective import Objective
from soka_tf.soka.student import Student

Tensors = List[tf.Tensor]
Optimizer = tf.keras.optimizers.Optimizer


class Players:
    """Who there is, what belongs to whom, and an optimizer step of each.

    Attributes:
      optimizers: player -> its optimizer; empty before `compile`.
      scales_losses: whether losses are scaled, because networks compute in float16.
    """

    def __init__(
        self,
        student: Student,
        balancing: Rule,
        amalgamation: Optional[Amalgamation],
        adversary: Optional[Adversary],
        objective: Objective,
    ):
        """Seats the players.

        Args:
          student: Omega and the Theta_i.
          balancing: the rule that has the task weights omega.
          amalgamation: MIA, or None.
          adversary: the CGAN term, or None.
          objective: whether what is behind the encoder's shared layer is trained, and
            the L2 coefficient of encoder and decoders, added to the gradient.
        """
        self._student = student
        self._balancing = balancing
        self._amalgamation = amalgamation
        self._adversary = adversary
        self._objective = objective
        self.optimizers: Dict[str, Optimizer] = {}
        self.scales_losses = False

    @property
    def variables(self) -> Dict[str, List[tf.Variable]]:
        """Every variable of the model, by the one player it belongs to."""
        players = {"encoder": list(self._student.encoder.variables)}
        for task in self._student.tasks:
            players[f"decoder/{task}"] = list(self._student.decoders[task].variables)
        if self._amalgamation is not None:
            players["amalgamation"] = self._amalgamation.own_variables
            if self._amalgamation.adapters:
                players["adapter"] = self._amalgamation.adapter_variables
        if self._balancing.optimized:
            players["task_weights"] = self._balancing.optimized
        for task, discriminator in self._discriminators.items():
            players[f"discriminator/{task}"] = list(discriminator.variables)
        return players

    @property
    def optimized(self) -> Dict[str, List[tf.Variable]]:
        """Optimizer's name -> the variables it moves, networks in the tasks' order."""
        encoder, last = self._student.encoder, []
        if self._objective.train_compress:
            last = encoder.compress.trainable_variables
        variables = {
            # The trunk first, then what makes the representation.
            "encoder": encoder.trunk.trainable_variables + last,
            "decoders": [
                v
                for decoder in self._student.ordered_decoders
                for v in decoder.trainable_variables
            ],
        }
        if self._balancing.optimized:
            variables["task_weights"] = self._balancing.optimized
        if self._amalgamation is not None:
            variables["amalgamation"] = self._amalgamation.own_variables
            if self._amalgamation.adapters:
                variables["adapter"] = self._amalgamation.adapter_variables
        if self._adversary is not None:
            variables["discriminators"] = [
                v
                for task in self._student.tasks
                if task in self._discriminators
                for v in self._discriminators[task].trainable_variables
            ]
        return variables

    def compile(
        self, optimizers: Mapping[str, Optimizer], strategy: tf.distribute.Strategy
    ) -> None:
        """Takes the optimizers and makes their slots, in the strategy's scope.

        Args:
          optimizers: of every player of `optimized`; others are passed over. Where
            networks compute in float16, those that are no LossScaleOptimizer become
            one.
          strategy: of the model.

        Raises:
          ValueError: if a player has none.
        """
        wanted = self.optimized
        missing = sorted(set(wanted) - set(optimizers))
        if missing:
            raise ValueError(
                f"compile needs an optimizer for each of {sorted(wanted)}. "
                f"Missing: {missing}."
            )
        self.scales_losses = computes_in_float16(
            self._student, *self._discriminators.values()
        )
        own = {player: optimizers[player] for player in wanted}
        with strategy.scope():
            for player, variables in wanted.items():
                _create_slots(_unwrapped(own[player]), variables)
            if self.scales_losses:
                own = {player: _with_loss_scale(o) for player, o in own.items()}
        self.optimizers = own

    def loss_scale(self, *players: str) -> Optional[tf.Tensor]:
        """What a loss is multiplied by whose gradients overflow in float16; or None.

        A pass backward that serves several players takes the least of their scales.
        """
        if not self.scales_losses:
            return None
        scales = [self.optimizers[player].loss_scale for player in players]
        return tf.reduce_min(tf.stack(scales))

    def apply(
        self, player: str, gradients: Tensors, scale: Optional[tf.Tensor]
    ) -> None:
        """One optimizer step of a network; here its gradients are divided by replicas.

        Args:
          player: whose optimizer and variables.
          gradients: of a loss that was multiplied by `scale`; where they are not
            finite a LossScaleOptimizer leaves the step out.
          scale: of `loss_scale`.
        """
        gradients = unscaled(gradients, scale)
        variables = self.optimized[player]
        decay = 0.0
        if player in ("encoder", "decoders", "adapter"):
            decay = self._objective.weight_decay
        elif player == "discriminators":
            decay = self._adversary.weight_decay
        if decay:
            gradients = with_weight_penalty(gradients, variables, decay)
        if replica_count() > 1:
            gradients = [g / replica_count() for g in gradients]
        self.optimizers[player].apply_gradients(zip(gradients, variables))

    @property
    def _discriminators(self) -> Mapping[str, tf.keras.Model]:
        return self._adversary.discriminators if self._adversary is not None else {}


def scaled(loss: tf.Tensor, scale: Optional[tf.Tensor]) -> tf.Tensor:
    """A loss times the scale of `Players.loss_scale`."""
    return loss if scale is None else loss * scale


def unscaled(gradients: Tensors, scale: Optional[tf.Tensor]) -> Tensors:
    """The gradients of the loss before `scaled`."""
    return gradients if scale is None else [g / scale for g in gradients]


def with_weight_penalty(
    gradients: Tensors, variables: Sequence[tf.Variable], decay: float
) -> Tensors:
    """Adds d/dw of decay * |w|^2 / 2, over kernels only, as the original's penalty.

    Args:
      gradients: one a variable.
      variables: of whoever moves; biases, gammas and betas are passed over.
      decay: the penalty's coefficient.
    """
    return [
        g + decay * v if v.shape.rank > 1 else g for g, v in zip(gradients, variables)
    ]


def _with_loss_scale(optimizer: Optimizer) -> Optimizer:
    """Wraps an optimizer, unless it is, to scale its loss and skip an overflow."""
    if _unwrapped(optimizer) is optimizer:
        optimizer = tf.keras.mixed_precision.LossScaleOptimizer(optimizer)
    # It warns of whoever does not call these; a scale that several share is read here.
    optimizer.get_unscaled_gradients([optimizer.get_scaled_loss(tf.ones([]))])
    return optimizer


def _unwrapped(optimizer: Optimizer) -> Optimizer:
    return getattr(optimizer, "inner_optimizer", optimizer)


def _create_slots(optimizer: Optimizer, variables: List[tf.Variable]) -> None:
    """Makes an optimizer's counters and slots, so that a checkpoint finds them.

    Keras' legacy family, TFA's among it, makes them at the first step only, which
    would also trace the first graph twice: a step without gradients is made and undone.
    """
    if hasattr(optimizer, "build"):
        optimizer.build(variables)
        return
    values = [variable.numpy() for variable in variables]

    def apply_nothing():
        optimizer.apply_gradients([(tf.zeros_like(v), v) for v in variables])

    strategy = tf.distribute.get_strategy()
    run = functools.partial(strategy.run, apply_nothing)
    if strategy.num_replicas_in_sync > 1:  # messages of an eager run are slow
        run = tf.function(run, autograph=False)
    run()
    for variable, value in zip(variables, values):  # weight decay needs no gradient
        variable.assign(value)
    optimizer.iterations.assign(0)
