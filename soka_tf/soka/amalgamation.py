"""MIA: the teachers' activations amalgamated into the student's target (Eqs. 1-4)."""

import dataclasses
import types
from typing import (
    Annotated,
    Any,
    Dict,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Union,
)

import numpy as np
import tensorflow as tf

from soka_tf.kinds import NonNegative, check_arguments, one_of
from soka_tf.soka.linear import Adapter, per_position
from soka_tf.soka.transfer import Transfer
from soka_tf.soka.variants import AmalgamationLosses, Variant, find_variant
from soka_tf.teachers.feature_statistics import Statistics

MIXINGS = ("matrix", "diagonal")


class LayerAmalgamation(tf.keras.layers.Layer):
    """sigma = C (.) sum_i W_i (x) A_i at one layer of the encoders (Eq. 2)."""

    def __init__(
        self,
        teacher_channels: Sequence[int],
        channels: int,
        mixing: str = "matrix",
        reconstruct: bool = False,
        standardized: bool = False,
        mixes: bool = True,
        **kwargs,
    ):
        """Creates W_i, C and, to reconstruct, the linear heads V_i.

        Args:
          teacher_channels: channels c_i of every teacher's activation.
          channels: channels c of the student's activation, hence of sigma.
          mixing: "matrix" (W_i is [c_i, c], a 1x1 convolution) or "diagonal" (W_i
            is one weight a channel; needs c_i = c).
          reconstruct: whether V_i [c, c_i] are needed.
          standardized: whether the activations come in one scale.
          mixes: whether there is a sigma; without, there are no W_i and C.
          **kwargs: of the Keras layer.
        """
        super().__init__(autocast=False, **kwargs)
        self.teacher_channels = tuple(teacher_channels)
        self.channels = channels
        self.mixing = mixing
        self.reconstruct = reconstruct
        self.standardized = standardized
        self.mixes = mixes
        if mixing == "diagonal" and set(teacher_channels) != {channels}:
            raise ValueError(
                "mixing='diagonal' needs teachers as wide as the student. Received: "
                f"teachers {list(teacher_channels)}, student {channels}."
            )
        self.mixing_weights: List[tf.Variable] = []
        if mixes:
            self._add_mixing()
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

    def _add_mixing(self) -> None:
        # sigma starts as the mean of the teachers, where the widths allow it.
        share, channels = 1.0 / len(self.teacher_channels), self.channels
        for i, width in enumerate(self.teacher_channels):
            if self.mixing == "diagonal":
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

    def get_config(self) -> Dict:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "teacher_channels": list(self.teacher_channels),
            "channels": self.channels,
            "mixing": self.mixing,
            "reconstruct": self.reconstruct,
            "standardized": self.standardized,
            "mixes": self.mixes,
        }

    def call(
        self, activations: Sequence[tf.Tensor], presence: Optional[tf.Tensor] = None
    ) -> tf.Tensor:
        """Amalgamates activations [B, h, w, c_i] into sigma [B, h, w, c].

        Args:
          activations: of every teacher.
          presence: of `Transfer.presence`; None where all count alike.
        """
        mixed = [
            activation * tf.cast(weight, tf.float32)
            if self.mixing == "diagonal"
            else per_position(activation, weight)
            for activation, weight in zip(activations, self.mixing_weights)
        ]
        if presence is not None:
            present = tf.unstack(presence[:, :, None, None, None], axis=1)
            mixed = [part * share for part, share in zip(mixed, present)]
        return tf.cast(self.gate, tf.float32) * tf.add_n(mixed)

    def reconstruct_teachers(self, sigma: tf.Tensor) -> List[tf.Tensor]:
        """Reads every teacher's activation back out of sigma: V_i sigma."""
        return [per_position(sigma, head) for head in self.heads]


class Amalgamation(tf.keras.layers.Layer):
    """Multi-modal Incorporated Amalgamation over a set of layers (Eqs. 1-4)."""

    def __init__(
        self,
        teacher_channels: Mapping[str, Sequence[int]],
        channels: Mapping[str, int],
        variant: Union[str, Variant],
        mixing: Annotated[str, one_of(MIXINGS)] = "matrix",
        auxiliaries: int = 0,
        auxiliary_weight: NonNegative = 0.1,
        teacher_layers: Optional[Mapping[str, Sequence[Optional[str]]]] = None,
        standardized: bool = False,
        transfer: Union[None, Transfer, Mapping[str, Any]] = None,
        **kwargs,
    ):
        """Creates the module.

        Args:
          teacher_channels: the student's layer -> channels of what every teacher that
            takes part gives there, targets first, auxiliaries last.
          channels: layer -> channels of the student there.
          variant: of `find_variant`: how the student is drawn to sigma, and what
            trains W and C.
          mixing: one of `MIXINGS`, the form of W.
          auxiliaries: how many of the teachers, the last ones, are auxiliary.
          auxiliary_weight: weight of an auxiliary's reconstruction error, those of
            the targets' teachers being 1. Of the variants reconstruction and hints.
          teacher_layers: layer -> what that activation is called in every teacher of
            the pool, None for one that takes no part; None where it is called as in the
            student.
          standardized: whether the teachers' activations are brought to one scale by
            what `standardize` is given.
          transfer: how L_A is put together, or its attributes; None for the defaults.
          **kwargs: of the Keras layer.
        """
        super().__init__(autocast=False, **{"name": "amalgamation", **kwargs})
        check_arguments(Amalgamation.__init__, mixing=mixing)
        if not channels or set(channels) != set(teacher_channels):
            raise ValueError(
                "Amalgamation needs the same layers of teachers and student. Received: "
                f"{sorted(teacher_channels)} and {sorted(channels)}."
            )
        if not isinstance(transfer, Transfer):
            transfer = Transfer(**(transfer or {}))
        self.variant, self._variant = variant, find_variant(variant)
        transfer.check(list(channels), self._variant.compares_directions)
        self.transfer = transfer
        self.mixing = mixing
        self.auxiliaries = auxiliaries
        self.auxiliary_weight = auxiliary_weight
        self.layer_names = tuple(channels)
        # Layer -> that of every teacher, what a pool is asked for; a dict Keras tracks.
        self.teacher_layers = types.MappingProxyType(
            {
                layer: tuple(
                    (teacher_layers or {}).get(layer)
                    or [layer] * len(teacher_channels[layer])
                )
                for layer in channels
            }
        )
        self.standardized = standardized
        self._moments: Mapping[str, Sequence[Tuple[np.ndarray, np.float32]]] = (
            types.MappingProxyType({})
        )
        self._add_parts(teacher_channels, channels)

    def _add_parts(
        self,
        teacher_channels: Mapping[str, Sequence[int]],
        channels: Mapping[str, int],
    ) -> None:
        self.amalgamations = {
            layer: LayerAmalgamation(
                teacher_channels[layer],
                channels[layer],
                self.mixing,
                reconstruct=self._variant.reconstructs,
                standardized=self.standardized,
                mixes=self._variant.mixes,
                name=f"{self.name}_{layer}",
            )
            for layer in channels
        }
        # Not a dict where there are none: a checkpoint of before has no such object.
        self.adapters: Mapping[str, Adapter] = types.MappingProxyType({})
        if self.transfer.adapter:
            self.adapters = {
                layer: Adapter(width, name=f"{self.name}_adapter_{layer}")
                for layer, width in channels.items()
            }

    @property
    def adapter_variables(self) -> List[tf.Variable]:
        """Those of the adapters, which move with the student's encoder."""
        return [v for part in self.adapters.values() for v in part.trainable_variables]

    @property
    def own_variables(self) -> List[tf.Variable]:
        """W, C and V, which minimise the amalgamation's own loss."""
        others = {id(v) for v in self.adapter_variables}
        return [v for v in self.trainable_variables if id(v) not in others]

    def standardize(self, statistics: Statistics) -> None:
        """Takes the statistics; graphs that are traced before do not see them.

        Args:
          statistics: layer -> moments of every teacher that takes part.

        Raises:
          ValueError: if they are of other layers or channels.
        """
        found = {k: tuple(len(m.mean) for m in of) for k, of in statistics.items()}
        wanted = {k: part.teacher_channels for k, part in self.amalgamations.items()}
        if found != wanted:
            raise ValueError(
                f"statistics of the teachers' features must be of {wanted} channels. "
                f"Received: {found}."
            )
        self._moments = types.MappingProxyType(
            {
                layer: tuple((np.float32(m.mean), np.float32(m.deviation)) for m in of)
                for layer, of in statistics.items()
            }
        )

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
            "teacher_layers": {k: list(v) for k, v in self.teacher_layers.items()},
            "standardized": self.standardized,
            "transfer": dataclasses.asdict(self.transfer),
        }

    def presence(
        self, student: Mapping[str, tf.Tensor], step: tf.Tensor
    ) -> Optional[tf.Tensor]:
        """What each teacher counts for each image of a step, see `Transfer.presence`.

        Args:
          student: layer -> the student's activation.
          step: int64 scalar.
        """
        layer = self.layer_names[0]
        count = len(self.amalgamations[layer].teacher_channels)
        return self.transfer.presence(count, tf.shape(student[layer])[0], step)

    def call(
        self,
        teachers: Mapping[str, Sequence[tf.Tensor]],
        student: Mapping[str, tf.Tensor],
        presence: Optional[tf.Tensor] = None,
    ) -> AmalgamationLosses:
        """Compares the student's activations with the amalgamated ones.

        Args:
          teachers: layer -> activations A_T [B, h_i, w_i, c_i] of every teacher.
          student: layer -> the student's activation A_S [B, h, w, c].
          presence: float32 [B, m], what each teacher counts for each image in sigma;
            None where all count alike.

        Returns:
          The losses, summed over the layers (Eq. 4).
        """
        losses, further = [], () if presence is None else (presence,)
        factors = self._factors(student)
        for layer in self.layer_names:
            given = self._standardized(layer, teachers[layer])
            # Norms and means lose too much in half precision; the products of
            # activations and W or V are computed in the layer's.
            mine = tf.cast(student[layer], tf.float32)
            if self.adapters:
                mine = self.adapters[layer](mine)
            activations = [resized(tf.stop_gradient(a), mine) for a in given]
            targets = len(activations) - self.auxiliaries
            weights = [1.0] * targets + [self.auxiliary_weight] * self.auxiliaries
            part = self.amalgamations[layer]
            found = self._variant.losses(part, activations, mine, weights, *further)
            losses.append(_times(found, factors[layer]))
        return AmalgamationLosses(*map(tf.add_n, zip(*losses)))

    def _factors(self, student: Mapping[str, tf.Tensor]) -> Dict[str, Any]:
        elements = {k: self._variant.elements(student[k]) for k in self.layer_names}
        channels = {k: part.channels for k, part in self.amalgamations.items()}
        return self.transfer.factors(channels, elements)

    def _standardized(
        self, layer: str, activations: Sequence[tf.Tensor]
    ) -> List[tf.Tensor]:
        """A layer's activations in float32, as they are or of one scale."""
        activations = [tf.cast(a, tf.float32) for a in activations]
        if not self.standardized:
            return activations
        if not self._moments:
            raise ValueError(
                "Amalgamation: no statistics to standardise by were given."
            )
        moments = self._moments[layer]
        return [(a - mean) / scale for a, (mean, scale) in zip(activations, moments)]


def _times(losses: AmalgamationLosses, factor: Any) -> AmalgamationLosses:
    """A layer's losses with L_A's factor, of what is L_A; None for 1."""
    if factor is None:
        return losses
    transfer = factor * losses.transfer
    is_transfer = losses.amalgamation is losses.transfer
    return AmalgamationLosses(transfer, transfer if is_transfer else losses[1])


def resized(activation: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Brings a teacher's activation to the size of the student's.

    Where it is larger by whole factors, to the means of what falls together; else
    bilinearly, with a wider filter where it shrinks.

    Args:
      activation: float32 [B, h_i, w_i, c_i], h_i and w_i known.
      like: [B, h, w, c], h and w known.

    Returns:
      float32 [B, h, w, c_i]; the argument itself where the sizes are equal.
    """
    size, wanted = activation.shape[1:3].as_list(), like.shape[1:3].as_list()
    if size == wanted:
        return activation
    factors = [a // b for a, b in zip(size, wanted)]
    if [b * factor for b, factor in zip(wanted, factors)] == size:
        # Unlike tf.image.resize, on all devices and compiled by XLA.
        return tf.nn.avg_pool2d(activation, factors, factors, "VALID")
    shrinks = any(a > b for a, b in zip(size, wanted))
    return tf.image.resize(activation, wanted, antialias=shrinks)
