"""A trained network without BatchNorm, for inference.

At inference BatchNorm is a scale and a shift of every channel, which the convolution
before it can do itself; and a transposed convolution is an ordinary one whose channels
are spread over pixels, which the fused kernels support.

Weights stay variables. Constants would spare the kernels an arrangement of the weights
at every call, but TensorFlow copies them so often that a full-size export would take
several times the memory.
"""

from typing import Dict, Tuple

import numpy as np
import tensorflow as tf

from soka_tf.networks.batch_norm import BatchNorm

PRECISIONS = ("float32", "bfloat16")
# "auto" is bfloat16 where the processor has AMX.
EXPORT_PRECISIONS = (*PRECISIONS, "auto")
_CONVOLUTIONS = (
    tf.keras.layers.Conv2D,
    tf.keras.layers.Conv2DTranspose,
    tf.keras.layers.DepthwiseConv2D,
)


def fold(network: tf.keras.Model, precision: str = "float32") -> tf.keras.Model:
    """Returns the same function with BatchNorm folded into the convolutions.

    Args:
      network: a backbone or a decoder, built; its weights are copied. A BatchNorm that
        cannot be folded, as what follows no plain convolution, is kept.
      precision: "float32", equal but for rounding; or "bfloat16", in which weights are
        stored and all layers but those at an output compute.

    Returns:
      A model of the same inputs and float32 outputs; none of its variables, which are
      its own, is trainable.

    Raises:
      ValueError: if the precision is unknown.
    """
    if precision not in PRECISIONS:
        raise ValueError(
            f"fold: precision must be one of {PRECISIONS}. Received: {precision!r}."
        )
    layers = {layer.name: layer for layer in network.layers}
    behind = _layers_behind_convolutions(network)
    absorbed = {layer.name for found in behind.values() for layer in found if layer}
    kept = []

    def dtype_of(layer: tf.keras.layers.Layer) -> str:
        return "float32" if layer.name in network.output_names else precision

    def fold(layer: tf.keras.layers.Layer) -> tf.keras.layers.Layer:
        if isinstance(layer, tf.keras.layers.InputLayer):
            return layer
        dtype = dtype_of(layer)
        if layer.name in behind:
            return _convolution(layer, *behind[layer.name], dtype)
        if layer.name in absorbed:
            return tf.keras.layers.Activation("linear", dtype=dtype, name=layer.name)
        kept.append(type(layer).from_config({**layer.get_config(), "dtype": dtype}))
        return kept[-1]

    folded = tf.keras.models.clone_model(network, clone_function=fold)
    for layer in kept:
        layer.trainable = False
        layer.set_weights(layers[layer.name].get_weights())
    return folded


def _layers_behind_convolutions(network: tf.keras.Model) -> Dict[str, Tuple]:
    """What convolutions take over: name -> (BatchNorm or None, LeakyReLU or None).

    Only those that `_Convolution` can compute are in it. An activation is taken over by
    transposed ones alone, before their channels are spread over pixels.
    """
    layers = {layer.name: layer for layer in network.layers}
    readers = {name: [] for name in (*layers, *network.output_names)}
    for nodes in network._nodes_by_depth.values():
        for node in nodes:
            for parent in node.parent_nodes:
                readers[parent.layer.name].append(node.layer.name)
    for name in network.output_names:
        readers[name].append("")

    def only_reader(layer, kind):
        name = readers[layer.name][0]
        reader = layers.get(name)
        sources = [source for source, names in readers.items() if name in names]
        alone = readers[layer.name] == [name] and sources == [layer.name]
        return reader if isinstance(reader, kind) and alone else None

    behind = {}
    for name, layer in layers.items():
        if _is_plain(layer):
            norm = only_reader(layer, BatchNorm)
            last, activation = norm or layer, None
            if _is_transposed(layer):
                kind = tf.keras.layers.LeakyReLU
                activation = only_reader(last, kind)
            behind[name] = norm, activation
    return behind


def _is_plain(layer: tf.keras.layers.Layer) -> bool:
    """Whether `_Convolution` computes what the layer does."""
    if type(layer) not in _CONVOLUTIONS:
        return False
    fits = not _is_transposed(layer) or (
        layer.padding == "same"
        and layer.output_padding is None
        and len({*layer.strides}) == 1
    )
    return (
        fits
        and layer.activation is tf.keras.activations.linear
        and {*layer.dilation_rate, layer.groups} == {1}
        and layer.data_format == "channels_last"
    )


def _is_transposed(layer: tf.keras.layers.Layer) -> bool:
    return isinstance(layer, tf.keras.layers.Conv2DTranspose)


def _is_depthwise(layer: tf.keras.layers.Layer) -> bool:
    return isinstance(layer, tf.keras.layers.DepthwiseConv2D)


def _convolution(layer, norm, activation, dtype: str) -> "_Convolution":
    """The folded form of a convolution of any kind and of what is behind it."""
    kernel = layer.depthwise_kernel if _is_depthwise(layer) else layer.kernel
    kernel = kernel.numpy().astype(np.float64)
    if _is_transposed(layer):
        kernel = kernel.swapaxes(2, 3)  # [h, w, in, out] as everywhere else
    of_each_output = kernel.shape[2:] if _is_depthwise(layer) else kernel.shape[3:]
    bias = layer.bias.numpy().astype(np.float64) if layer.use_bias else 0.0
    if norm is not None:
        scale = norm.gamma.numpy() / np.sqrt(
            norm.moving_variance.numpy().astype(np.float64) + norm.epsilon
        )
        kernel = kernel * scale.reshape(of_each_output)
        bias = norm.beta.numpy() + (bias - norm.moving_mean.numpy()) * scale
    bias = np.broadcast_to(bias, [np.prod(of_each_output)])
    if not _is_transposed(layer):
        padding = layer.padding.upper()
        kind = _DepthwiseConvolution if _is_depthwise(layer) else _Convolution
        return kind(layer.name, dtype, kernel, bias, layer.strides, padding)
    factor = layer.strides[0]
    kernel, padding = sub_pixel_kernel(kernel, factor)
    return _Convolution(
        layer.name,
        dtype,
        kernel,
        np.tile(bias, factor**2),
        (1, 1),
        padding,
        slope=None if activation is None else float(activation.alpha),
        factor=factor,
    )


def sub_pixel_kernel(kernel: np.ndarray, factor: int) -> Tuple[np.ndarray, Tuple]:
    """Writes a transposed convolution as an ordinary one of more channels.

    Every pixel of the input becomes factor x factor of the output; each of these is
    an ordinary convolution of the input by some of the kernel's taps.

    Args:
      kernel: [k, k, in, out] of a transposed convolution with padding "same".
      factor: its stride.

    Returns:
      The kernel [t, t, in, factor * factor * out], of which `depth_to_space` makes the
      output, and the padding its convolution needs.
    """
    size, _, inputs, outputs = kernel.shape
    before = max(size - factor, 0) // 2
    # Tap a carries input i to output factor * i + a - before = factor * q + phase.
    taps = [divmod(a - before, factor) for a in range(size)]  # (q - i, phase)
    low = min(0, *(-shift for shift, _ in taps))
    high = max(0, *(-shift for shift, _ in taps))
    length = high - low + 1
    result = np.zeros((length, length, inputs, factor, factor, outputs), kernel.dtype)
    for y, (shift_y, phase_y) in enumerate(taps):
        for x, (shift_x, phase_x) in enumerate(taps):
            place = (-shift_y - low, -shift_x - low, slice(None), phase_y, phase_x)
            result[place] += kernel[y, x]
    shape = (length, length, inputs, factor * factor * outputs)
    return result.reshape(shape), ((0, 0), (-low, high), (-low, high), (0, 0))


class _Convolution(tf.keras.layers.Layer):
    """A convolution, and what can be fused with it.

    Args:
      name: name of the layer.
      dtype: of the weights and the computation.
      kernel: [h, w, in, out].
      bias: [out].
      strides: of both axes.
      padding: "SAME", "VALID" or zeros before and after, as for `tf.pad`.
      slope: of a leaky ReLU behind it, None for none.
      factor: into how many pixels along an axis the channels are then spread.
    """

    def __init__(
        self, name, dtype, kernel, bias, strides, padding, slope=None, factor=1
    ):
        super().__init__(name=name, dtype=dtype, trainable=False)
        self.kernel = tf.Variable(kernel, trainable=False, name="kernel", dtype=dtype)
        self.bias = tf.Variable(bias, trainable=False, name="bias", dtype=dtype)
        self._strides = strides
        self._padding = padding
        self._slope = slope
        self._factor = factor

    def call(self, inputs):
        padding = self._padding
        if not isinstance(padding, str):
            # Not by conv2d's explicit padding, which the fused kernels lack.
            inputs = tf.pad(inputs, padding)
            padding = "VALID"
        x = tf.nn.bias_add(self._convolve(inputs, padding), self.bias)
        if self._slope is not None:
            x = tf.nn.leaky_relu(x, self._slope)
        return tf.nn.depth_to_space(x, self._factor) if self._factor > 1 else x

    def _convolve(self, inputs, padding):
        return tf.nn.conv2d(inputs, self.kernel, self._strides, padding)


class _DepthwiseConvolution(_Convolution):
    """The same of each channel by itself; the kernel is [h, w, in, multiplier]."""

    def _convolve(self, inputs, padding):
        strides = (1, *self._strides, 1)
        return tf.nn.depthwise_conv2d(inputs, self.kernel, strides, padding)
