"""3x3 convolution with fewer multiplications, for a kernel that stands still.

F(2x2, 3x3) of Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks"
(CVPR 2016): four outputs of a 3x3 filter cost 16 multiplications instead of 36. The
kernel's transform is as large as the kernel times 16 / 9, so that it pays where a
kernel stands still: in the collaboration phase, whose passes forward and back share
one, and in a network that is no longer trained.
"""

from typing import Any, Sequence, Tuple

import numpy as np
import tensorflow as tf

# Y = A' [(G g G') (.) (B' d B)] A, for all entries of a tile at once:
_A = np.array([[1, 1, 1, 0], [0, 1, -1, -1]], np.float32)
_B = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], np.float32)
_G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)
_OUTPUT, _INPUT, _KERNEL = (np.kron(m, m) for m in (_A, _B, _G))
# The transform of a mirrored filter is that of the filter with 0 and 3 exchanged.
_MIRRORED = [4 * i + j for i in (3, 1, 2, 0) for j in (3, 1, 2, 0)]
# Below this many input times output channels the transforms cost more than they save.
LEAST_CHANNEL_PAIRS = 256 * 256


def pays(layer: tf.keras.layers.Layer, x: tf.Tensor) -> bool:
    """Whether `conv2d` computes a layer on a processor faster than the layer does.

    Args:
      layer: any layer; only 3x3 convolutions of stride 1 qualify.
      x: its input, [B, H, W, C].
    """
    return (
        type(layer) is tf.keras.layers.Conv2D
        and not layer.use_bias
        and layer.compute_dtype == "float32"
        and pays_for(
            (*layer.kernel_size, x.shape[-1], layer.filters),
            layer.strides,
            layer.padding,
        )
    )


def pays_for(
    kernel_shape: Sequence[int], strides: Tuple[int, int], padding: Any
) -> bool:
    """Whether `conv2d` computes a float32 convolution faster than `tf.nn.conv2d`.

    Args:
      kernel_shape: [h, w, C, K].
      strides: of both axes.
      padding: "same", of any case, qualifies.
    """
    return (
        tuple(kernel_shape[:2]) == (3, 3)
        and tuple(strides) == (1, 1)
        and str(padding).lower() == "same"
        and kernel_shape[2] * kernel_shape[3] >= LEAST_CHANNEL_PAIRS
    )


def conv2d(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Convolves with stride 1 and SAME padding; the kernel counts as a constant.

    Equal to `tf.nn.conv2d` up to rounding (of the order of 1e-6 of the largest output).

    Args:
      x: float32 [B, H, W, C].
      kernel: float32 [3, 3, C, K]; it gets no gradient.

    Returns:
      float32 [B, H, W, K].
    """
    transformed = transform_kernel(tf.stop_gradient(kernel))

    @tf.custom_gradient
    def convolve(x):
        def gradient(upstream):
            return _convolve(upstream, transformed, backwards=True)

        return conv2d_transformed(x, transformed), gradient

    return convolve(x)


def conv2d_transformed(x: tf.Tensor, transformed: tf.Tensor) -> tf.Tensor:
    """`conv2d` by a kernel that `transform_kernel` has transformed, for inference."""
    return _convolve(x, transformed, backwards=False)


def transform_kernel(kernel: tf.Tensor) -> tf.Tensor:
    """G g G' of every filter: float32 [3, 3, C, K] to [16, C, K]."""
    inputs, outputs = kernel.shape[2], kernel.shape[3]
    flat = tf.reshape(kernel, [9, inputs * outputs])
    return tf.reshape(tf.matmul(_KERNEL, flat), [16, inputs, outputs])


def _convolve(x: tf.Tensor, transformed: tf.Tensor, backwards: bool) -> tf.Tensor:
    """Convolves with the filters, or with the mirrored ones from K to C channels."""
    batch, height, width, channels = *tf.unstack(tf.shape(x)[:3]), x.shape[-1]
    rows, columns = (height + 1) // 2, (width + 1) // 2
    below, right = 2 * rows + 1 - height, 2 * columns + 1 - width
    x = tf.pad(x, [[0, 0], [1, below], [1, right], [0, 0]])
    # Even and odd pixels apart: every one of a tile's 4x4 is then a block of these.
    x = tf.reshape(x, [batch, rows + 1, 2, columns + 1, 2, channels])
    x = tf.transpose(x, [2, 4, 0, 1, 3, 5])
    tiles = [
        x[i % 2, j % 2, :, i // 2 : i // 2 + rows, j // 2 : j // 2 + columns]
        for i in range(4)
        for j in range(4)
    ]
    # Rows of the transforms are exchanged, never the large kernel.
    from_pixels = _INPUT[_MIRRORED] if backwards else _INPUT
    to_pixels = _OUTPUT[:, _MIRRORED] if backwards else _OUTPUT
    tiles = tf.matmul(from_pixels, tf.reshape(tf.stack(tiles), [16, -1]))
    tiles = tf.reshape(tiles, [16, -1, channels])
    products = tf.matmul(tiles, transformed, transpose_b=backwards)
    channels = products.shape[-1]
    y = tf.matmul(to_pixels, tf.reshape(products, [16, -1]))
    y = tf.reshape(y, [2, 2, batch, rows, columns, channels])
    y = tf.transpose(y, [2, 3, 0, 4, 1, 5])
    y = tf.reshape(y, [batch, 2 * rows, 2 * columns, channels])
    return y[:, :height, :width]
