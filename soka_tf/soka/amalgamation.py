"""MIA: the teachers' activations amalgamated into the student's target (Eqs. 1-4)."""

from typing import Dict, List, Mapping, NamedTuple, Sequence

import tensorflow as tf

from soka_tf.networks.replicas import (
    gather_replicas,
    mean_over_replicas,
    replica_count,
)

VARIANTS = ("literal", "normalized", "outer_product", "reconstruction")
MIXINGS = ("matrix", "diagonal")
_EPSILON = 1e-12


class AmalgamationLosses(NamedTuple):
    """The two losses of a step, float32 scalars.

    Attributes:
      transfer: L_A of Eq. 4, what the student's encoder minimises.
      amalgamation: what W, C (and V) minimise: L_A itself in the variants that
        follow the paper's text, the reconstruction error in `reconstruction`.
    """

    transfer: tf.Tensor
    amalgamation: tf.Tensor


class LayerAmalgamation(tf.keras.layers.Layer):
    """sigma = C (.) sum_i W_i (x) A_i at one layer of the encoders (Eq. 2)."""

    def __init__(
        self,
        teacher_channels: Sequence[int],
        channels: int,
        mixing: str = "matrix",
        reconstruct: bool = False,
        **kwargs,
    ):
        """Creates W_i, C and, to reconstruct, the linear heads V_i.

        Args:
          teacher_channels: channels c_i of every teacher's activation.
          channels: channels c of the student's activation, hence of sigma.
          mixing: "matrix" (W_i is [c_i, c], a 1x1 convolution) or "diagonal" (W_i
            is one weight a channel; needs c_i = c).
          reconstruct: whether V_i [c, c_i] are needed.
          **kwargs: of the Keras layer.
        """
        super().__init__(autocast=False, **kwargs)
        self.teacher_channels = tuple(teacher_channels)
        self.channels = channels
        self.mixing = mixing
        self.reconstruct = reconstruct
        if mixing == "diagonal" and set(teacher_channels) != {channels}:
            raise ValueError(
                "mixing='diagonal' needs teachers as wide as the student. Received: "
                f"teachers {list(teacher_channels)}, student {channels}."
            )
        # sigma starts as the mean of the teachers, where the widths allow it.
        share = 1.0 / len(self.teacher_channels)
        self.mixing_weights = []
        for i, width in enumerate(self.teacher_channels):
            if mixing == "diagonal":
                shape, initializer = [channels], tf.keras.initializers.Constant(share)
            elif width == channels:
                shape = [width, channels]
                initializer = tf.keras.initializers.Identity(gain=share)
            else:
                shape, initializer = [width, channels], "glorot_uniform"
            self.mixing_weights.append(
                self.add_weight(name=f"W{i + 1}", shape=shape, initializer=initializer)
            )
        self.gate = self.add_weight(name="C", shape=[channels], initializer="ones")
        self.heads = []
        if reconstruct:
            for i, width in enumerate(self.teacher_channels):
                same = width == channels
                self.heads.append(
                    self.add_weight(
                        name=f"V{i + 1}",
                        shape=[channels, width],
                        initializer="identity" if same else "glorot_uniform",
                    )
                )

    def get_config(self) -> Dict:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "teacher_channels": list(self.teacher_channels),
            "channels": self.channels,
            "mixing": self.mixing,
            "reconstruct": self.reconstruct,
        }

    def call(self, activations: Sequence[tf.Tensor]) -> tf.Tensor:
        """Amalgamates activations [B, h, w, c_i] into sigma [B, h, w, c]."""
        mixed = [
            activation * tf.cast(weight, tf.float32)
            if self.mixing == "diagonal"
            else _per_position(activation, weight)
            for activation, weight in zip(activations, self.mixing_weights)
        ]
        return tf.cast(self.gate, tf.float32) * tf.add_n(mixed)

    def reconstruct_teachers(self, sigma: tf.Tensor) -> List[tf.Tensor]:
        """Reads every teacher's activation back out of sigma: V_i sigma."""
        return [_per_position(sigma, head) for head in self.heads]


class Amalgamation(tf.keras.layers.Layer):
    """Multi-modal Incorporated Amalgamation over a set of layers (Eqs. 1-4).

    Variants (how the student is drawn to sigma, and what trains W and C):
      (docs/deviations.md says why there are four.)
      literal: Eq. 3 as printed, mean-reduced; W and C minimise L_A with the student.
        It collapses: all three shrink together.
      normalized: Eq. 3 on activations L2-normalised at every position.
      outer_product: the sentence before Eq. 3: the batch's outer products
        A A^T, rows L2-normalised (similarity-preserving, Tung and Mori 2019).
      reconstruction: W, C and linear heads V_i minimise ||V_i sigma - A_i||^2 on
        activations of unit standard deviation, so that sigma keeps what every
        teacher knows; the student sees sigma as a constant, as in `normalized`.
    """

    def __init__(
        self,
        teacher_channels: Mapping[str, Sequence[int]],
        channels: Mapping[str, int],
        variant: str = "reconstruction",
        mixing: str = "matrix",
        auxiliaries: int = 0,
        auxiliary_weight: float = 0.1,
        name: str = "amalgamation",
        **kwargs,
    ):
        """Creates the module.

        Args:
          teacher_channels: layer -> channels of every teacher there, targets first,
            auxiliaries last.
          channels: layer -> channels of the student there.
          variant: one of `VARIANTS`.
          mixing: one of `MIXINGS`, the form of W.
          auxiliaries: how many of the teachers, the last ones, are auxiliary.
          auxiliary_weight: weight of an auxiliary's reconstruction error, those of
            the targets' teachers being 1. Used by `reconstruction` only.
          name: the Keras name.
          **kwargs: of the Keras layer.
        """
        super().__init__(name=name, autocast=False, **kwargs)
        if variant not in VARIANTS:
            raise ValueError(
                f"variant must be one of {VARIANTS}. Received: {variant!r}."
            )
        if mixing not in MIXINGS:
            raise ValueError(f"mixing must be one of {MIXINGS}. Received: {mixing!r}.")
        if not channels or set(channels) != set(teacher_channels):
            raise ValueError(
                "Amalgamation needs the same layers of teachers and student. Received: "
                f"{sorted(teacher_channels)} and {sorted(channels)}."
            )
        self.variant = variant
        self.mixing = mixing
        self.auxiliaries = auxiliaries
        self.auxiliary_weight = auxiliary_weight
        self.layer_names = tuple(channels)
        self.amalgamations = {
            layer: LayerAmalgamation(
                teacher_channels[layer],
                channels[layer],
                mixing,
                reconstruct=variant == "reconstruction",
                name=f"{name}_{layer}",
            )
            for layer in channels
        }

    def get_config(self) -> Dict:
        """The constructor's arguments."""
        parts = self.amalgamations
        return {
            **super().get_config(),
            "teacher_channels": {k: list(p.teacher_channels) for k, p in parts.items()},
            "channels": {k: p.channels for k, p in parts.items()},
            "variant": self.variant,
            "mixing": self.mixing,
            "auxiliaries": self.auxiliaries,
            "auxiliary_weight": self.auxiliary_weight,
        }

    def call(
        self,
        teachers: Mapping[str, Sequence[tf.Tensor]],
        student: Mapping[str, tf.Tensor],
    ) -> AmalgamationLosses:
        """Compares the student's activations with the amalgamated ones.

        Args:
          teachers: layer -> activations A_T [B, h, w, c_i] of every teacher.
          student: layer -> the student's activation A_S [B, h, w, c].

        Returns:
          The losses, summed over the layers (Eq. 4).
        """
        transfer, own = [], []
        for layer in self.layer_names:
            # Norms and means lose too much in half precision; the products of
            # activations and W or V are computed in the layer's.
            activations = [
                tf.stop_gradient(tf.cast(a, tf.float32)) for a in teachers[layer]
            ]
            mine = tf.cast(student[layer], tf.float32)
            part = self.amalgamations[layer]
            if self.variant == "reconstruction":
                activations = _unit_deviation(activations)
                sigma = part(activations)
                own.append(self._reconstruction_error(part, sigma, activations))
                sigma = tf.stop_gradient(sigma)
            else:
                sigma = part(activations)
            transfer.append(transfer_loss(mine, sigma, self.variant))
        transfer_total = tf.add_n(transfer)
        return AmalgamationLosses(
            transfer_total, tf.add_n(own) if own else transfer_total
        )

    def _reconstruction_error(
        self,
        part: LayerAmalgamation,
        sigma: tf.Tensor,
        activations: Sequence[tf.Tensor],
    ) -> tf.Tensor:
        targets = len(activations) - self.auxiliaries
        errors = []
        for i, (read, activation) in enumerate(
            zip(part.reconstruct_teachers(sigma), activations)
        ):
            weight = 1.0 if i < targets else self.auxiliary_weight
            errors.append(weight * tf.reduce_mean(tf.square(read - activation)))
        return tf.add_n(errors)


def transfer_loss(student: tf.Tensor, sigma: tf.Tensor, variant: str) -> tf.Tensor:
    """L_A of one layer (Eq. 3), a float32 scalar.

    Args:
      student: A_S, float32 [B, h, w, c].
      sigma: the amalgamated target, float32 [B, h, w, c].
      variant: one of `VARIANTS`; `reconstruction` compares as `normalized` does.
    """
    if variant == "literal":
        return tf.reduce_mean(tf.square(student - sigma))
    if variant == "outer_product":
        # A replica's rows of the global batch's products; the mean over the replicas
        # of what it returns is the loss of the global batch.
        difference = _outer_product(student) - _outer_product(sigma)
        size = tf.cast(tf.size(difference), difference.dtype)
        return tf.reduce_sum(tf.square(difference)) / size
    # A mean over channels, too: a layer of unit vectors weighs as 1 / channels.
    difference = _unit_length(student) - _unit_length(sigma)
    return tf.reduce_mean(tf.square(difference))


def _per_position(activation: tf.Tensor, weight: tf.Variable) -> tf.Tensor:
    """A 1x1 convolution; as a matrix product, whose gradients are faster."""
    # Inside a layer's call a variable reads as the layer's compute dtype.
    weight = tf.convert_to_tensor(weight)
    shape = tf.concat([tf.shape(activation)[:-1], tf.shape(weight)[1:]], 0)
    flat = tf.reshape(activation, [-1, weight.shape[0]])
    product = tf.matmul(tf.cast(flat, weight.dtype), weight)
    return tf.cast(tf.reshape(product, shape), tf.float32)


def _unit_deviation(activations: Sequence[tf.Tensor]) -> List[tf.Tensor]:
    """Divides by the standard deviation over the batch, one scalar a teacher."""
    if replica_count() == 1:
        deviations = [tf.math.reduce_std(a) for a in activations]
    else:
        means = mean_over_replicas([tf.reduce_mean(a) for a in activations])
        variances = mean_over_replicas(
            [tf.reduce_mean(tf.square(a - m)) for a, m in zip(activations, means)]
        )
        deviations = [tf.sqrt(variance) for variance in variances]
    return [a / (deviation + 1e-6) for a, deviation in zip(activations, deviations)]


def _unit_length(activation: tf.Tensor) -> tf.Tensor:
    return tf.math.l2_normalize(activation, axis=-1, epsilon=_EPSILON)


def _outer_product(activation: tf.Tensor) -> tf.Tensor:
    """Row-normalised similarities [B, B] of the batch's flattened activations.

    Among replicas [B, R * B], the rows of a replica's images.
    """
    flat = tf.reshape(activation, [tf.shape(activation)[0], -1])
    product = tf.matmul(flat, gather_replicas(flat), transpose_b=True)
    return tf.math.l2_normalize(product, axis=1, epsilon=_EPSILON)
