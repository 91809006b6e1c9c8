"""Batch normalisation whose moving statistics move only when somebody says so.

A network that is merely passed through (to reach the gradient of another one, or a
second time in one step) must normalise as in training and yet leave no trace. Keras
ties both to `training=True`; `statistics` separates them.
"""

import contextlib
import dataclasses
import threading
from typing import FrozenSet, Iterator, List, Optional, Sequence, Tuple, Union

import tensorflow as tf

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
    it is Keras' layer bit for bit.

    Args:
      momentum: share of the old value in a moving statistic's update.
      epsilon: added to the variance.
      name: name of the layer.
      **kwargs: as `tf.keras.layers.BatchNormalization`.
    """

    def __init__(
        self,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        name: Optional[str] = None,
        **kwargs,
    ):
        super().__init__(momentum=momentum, epsilon=epsilon, name=name, **kwargs)

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
        if scope is None or scope.mode == "update" or not self.trainable:
            return super().call(inputs, training=training, mask=mask)
        if tf.is_tensor(training):
            raise ValueError(
                f"{self.name}: in mode {scope.mode!r} training must be known while "
                f"tracing. Received: training={training}. Allowed: True or False."
            )
        if not training:
            return super().call(inputs, training=training, mask=mask)
        # Keras' own kernel; it returns the moving statistics as they would become,
        # after what earlier passes inside the block have made of them.
        before = (self.moving_mean, self.moving_variance)
        for layer, *noted in scope.collected:
            before = noted if layer is self else before
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            tf.cast(inputs, self.compute_dtype),
            self.gamma,
            self.beta,
            *before,
            epsilon=self.epsilon,
            is_training=True,
            data_format="NHWC",
            exponential_avg_factor=1.0 - self.momentum,
        )
        if scope.mode == "collect":
            scope.collected.append((self, mean, variance))
        return outputs


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
