"""Batch normalisation whose moving statistics are updated only on request.

A network that is merely passed through (to reach the gradient of another one, or a
second time in one step) must normalise as in training and yet leave no trace. Keras
ties both to `training=True`; `statistics` separates them.
"""

import contextlib
import dataclasses
import threading
from typing import (
    Any,
    Dict,
    FrozenSet,
    Iterator,
    List,
    Optional,
    Sequence,
    Tuple,
    Union,
)

import tensorflow as tf

from soka_tf.networks.replicas import mean_over_replicas, replica_count

MODES = ("update", "keep", "collect")

Collected = List[Tuple["BatchNorm", tf.Tensor, tf.Tensor]]


@dataclasses.dataclass(frozen=True)
class _Scope:
    """One open `statistics` block."""

    mode: str
    layers: FrozenSet["BatchNorm"]
    collected: Collected


class _OpenScopes(threading.local):
    """The open blocks of one thread, innermost last.

    Replicas of a distribution strategy are traced in one thread each and hand over
    to one another in the middle of a step, so a mode kept on the layer would leak
    from one replica to the next.
    """

    def __init__(self):
        self.stack: List[_Scope] = []


_open_scopes = _OpenScopes()


@tf.keras.utils.register_keras_serializable(package="soka_tf")
class BatchNorm(tf.keras.layers.BatchNormalization):
    """Keras' batch normalisation with the original's constants and three modes.

    Momentum 0.9, epsilon 1e-5, scale and centre; the moving variance takes the
    unbiased batch variance. Outside of any `statistics` block, and in mode "update",
    it is Keras' layer bit for bit, unless it is synchronized over several replicas.

    Args:
      momentum: share of the old value in a moving statistic's update.
      epsilon: added to the variance.
      synchronized: whether, among replicas, the batch is the global one. Nothing
        changes where there is one replica.
      name: name of the layer.
      **kwargs: as `tf.keras.layers.BatchNormalization`.
    """

    def __init__(
        self,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        synchronized: bool = False,
        name: Optional[str] = None,
        **kwargs,
    ):
        super().__init__(momentum=momentum, epsilon=epsilon, name=name, **kwargs)
        # Keras' argument would give up its fused kernel on one replica, too.
        self.synchronized = synchronized

    def get_config(self) -> Dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "synchronized": self.synchronized}

    def call(self, inputs, training=None, mask=None):
        """Normalises the inputs.

        Args:
          inputs: float [B, H, W, C].
          training: whether to normalise by the batch's statistics. A layer that is
            not trainable uses its moving statistics all the same, as in Keras.
          mask: passed on to Keras, which ignores it.

        Returns:
          float [B, H, W, C] of the layer's compute dtype.
        """
        scope = _innermost_scope(self)
        mode = "update" if scope is None else scope.mode
        over_replicas = self.synchronized and replica_count() > 1
        if not self.trainable or (mode == "update" and not over_replicas):
            return super().call(inputs, training=training, mask=mask)
        if tf.is_tensor(training):
            raise ValueError(
                f"{self.name}: in mode {mode!r} training must be known while "
                f"tracing. Received: training={training}. Allowed: True or False."
            )
        if not training:
            return super().call(inputs, training=training, mask=mask)
        # The moving statistics become what they would, after what earlier passes
        # inside the block have made of them.
        before = (self.moving_mean, self.moving_variance)
        for layer, *noted in scope.collected if scope else ():
            before = noted if layer is self else before
        inputs = tf.cast(inputs, self.compute_dtype)
        if over_replicas:
            outputs, mean, variance = self._normalize_global_batch(inputs, *before)
        else:
            outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
                inputs,
                self.gamma,
                self.beta,
                *before,
                epsilon=self.epsilon,
                is_training=True,
                data_format="NHWC",
                exponential_avg_factor=1.0 - self.momentum,
            )
        if mode == "collect":
            scope.collected.append((self, mean, variance))
        elif mode == "update":
            self.moving_mean.assign(mean)
            self.moving_variance.assign(variance)
        return outputs

    def _normalize_global_batch(
        self, inputs: tf.Tensor, moving_mean: tf.Tensor, moving_variance: tf.Tensor
    ) -> Tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """What the fused kernel computes, by the statistics of all replicas' inputs.

        Returns:
          The outputs [B, H, W, C] and what the moving statistics become, float32 [C].
        """
        x = tf.cast(inputs, tf.float32)
        # Mean and variance by one message. Seen from the moving mean, which all
        # replicas share, the square of the mean is small and its subtraction exact.
        shift = tf.stop_gradient(tf.convert_to_tensor(moving_mean))
        shifted = x - shift
        moments = [shifted, tf.square(shifted)]
        moments = tf.stack([tf.reduce_mean(m, axis=(0, 1, 2)) for m in moments])
        first, second = tf.unstack(mean_over_replicas(moments))
        mean = shift + first
        variance = tf.maximum(second - tf.square(first), 0.0)
        scale = self.gamma * tf.math.rsqrt(variance + self.epsilon)
        outputs = (shifted - first) * scale + self.beta

        count = tf.cast(tf.reduce_prod(tf.shape(x)[:-1]) * replica_count(), tf.float32)
        unbiased = variance * count / tf.maximum(count - 1.0, 1.0)
        new = 1.0 - self.momentum
        return (
            tf.cast(outputs, inputs.dtype),
            moving_mean + new * (mean - moving_mean),
            moving_variance + new * (unbiased - moving_variance),
        )


def synchronize(network: tf.keras.Model, synchronized: bool) -> None:
    """Says of all BatchNorm layers of a network whether they are synchronized."""
    for layer in _batch_norms(network):
        layer.synchronized = synchronized


def _innermost_scope(layer: BatchNorm) -> Optional[_Scope]:
    for scope in reversed(_open_scopes.stack):
        if layer in scope.layers:
            return scope
    return None


def _batch_norms(networks) -> FrozenSet[BatchNorm]:
    if isinstance(networks, tf.Module):
        networks = (networks,)
    layers = [
        layer
        for network in networks
        for layer in (network, *network.submodules)
        if isinstance(layer, tf.keras.layers.BatchNormalization)
    ]
    for layer in layers:
        if not isinstance(layer, BatchNorm):
            raise ValueError(
                "statistics() rules soka_tf's BatchNorm layers only. Received: "
                f"{layer.name!r}, a {type(layer).__name__}. Build the network with "
                "soka_tf.networks.batch_norm.BatchNorm."
            )
    return frozenset(layers)


@contextlib.contextmanager
def statistics(
    networks: Union[tf.Module, Sequence[tf.Module]], mode: str
) -> Iterator[Collected]:
    """Says what `training=True` does to the moving statistics inside the block.

    In every mode the layers normalise by the statistics of the batch, and gradients
    flow through these. The mode is a fact of tracing: a graph traced inside the block
    keeps it. It holds for the thread that opened it, so open it inside the
    function that the replicas of a distribution strategy run. Blocks nest, the
    innermost one that names a layer rules it.

    Args:
      networks: a layer or model, or several; all `BatchNorm` layers in them.
      mode: "update" moves the moving statistics, as Keras does; "keep" leaves them
        alone; "collect" leaves them alone, too, but notes what they would become
        for `apply_collected`.

    Yields:
      The notes of mode "collect", in the order of the calls; empty in other modes.

    Raises:
      ValueError: if the mode is unknown or a network holds plain Keras
        BatchNormalization, which would not obey.
    """
    if mode not in MODES:
        raise ValueError(
            f"Unknown mode of batch statistics. Received: {mode!r}. "
            f"Allowed: {', '.join(MODES)}."
        )
    scope = _Scope(mode, _batch_norms(networks), [])
    _open_scopes.stack.append(scope)
    try:
        yield scope.collected
    finally:
        _open_scopes.stack.pop()


def apply_collected(collected: Collected) -> None:
    """Moves the moving statistics as mode "update" would have done, and forgets.

    Call it in the graph (or eagerly) where the notes were taken.

    Args:
      collected: what `statistics(networks, "collect")` yielded; empty afterwards.
    """
    for layer, mean, variance in collected:
        layer.moving_mean.assign(mean)
        layer.moving_variance.assign(variance)
    collected.clear()
