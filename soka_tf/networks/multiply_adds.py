"""Counts the arithmetic of a network, convolution by convolution."""

import math
from typing import List, NamedTuple, Sequence, Tuple

import tensorflow as tf


class ConvolutionCount(NamedTuple):
    """One convolution on one image; the same numbers in whatever precision.

    Attributes:
      layer: its name.
      input_shape: (height, width, channels).
      output_shape: (height, width, channels).
      kernel_shape: as Keras keeps it: (height, width, in, out), of a transposed
        convolution (height, width, out, in), of a depthwise one (height, width, in,
        multiplier).
      stride: along both axes; what a transposed convolution enlarges by.
      transposed: whether it is a transposed convolution.
      multiply_adds: products that are added up, those with padding among them.
      parameters: scalars of kernel and bias.
    """

    layer: str
    input_shape: Tuple[int, int, int]
    output_shape: Tuple[int, int, int]
    kernel_shape: Tuple[int, int, int, int]
    stride: int
    transposed: bool
    multiply_adds: int
    parameters: int


def count_multiply_adds(
    network: tf.keras.Model, input_shape: Sequence[int]
) -> List[ConvolutionCount]:
    """Counts the multiply-adds of every convolution of a network.

    Convolutions are nearly all of the arithmetic. BatchNorm (which an export folds into
    them), activations, pooling and sums are not counted.

    Args:
      network: a functional model with one input: encoder, decoder or discriminator.
      input_shape: (height, width, channels) of one input.

    Returns:
      One count a convolution, in the order of the network.

    Raises:
      ValueError: if the network does not take inputs of that shape.
    """
    expected = network.input_shape[1:]
    if len(input_shape) != 3 or any(
        size not in (None, given) for size, given in zip(expected, input_shape)
    ):
        raise ValueError(
            f"{network.name} takes inputs of shape {expected}. Received: "
            f"{tuple(input_shape)}."
        )
    kinds = tf.keras.layers.Conv2D, tf.keras.layers.DepthwiseConv2D
    convolutions = [layer for layer in network.layers if isinstance(layer, kinds)]
    # A transposed convolution is a Conv2D to Keras.
    ends = [(layer.input, layer.output) for layer in convolutions]
    shapes = tf.keras.Model(network.input, ends).compute_output_shape((1, *input_shape))
    return [
        _count(layer, tuple(shape_in[1:]), tuple(shape_out[1:]))
        for layer, (shape_in, shape_out) in zip(convolutions, shapes)
    ]


def total_multiply_adds(network: tf.keras.Model, input_shape: Sequence[int]) -> int:
    """The sum of `count_multiply_adds`."""
    return sum(
        count.multiply_adds for count in count_multiply_adds(network, input_shape)
    )


def _count(
    layer: tf.keras.layers.Layer,
    input_shape: Tuple[int, int, int],
    output_shape: Tuple[int, int, int],
) -> ConvolutionCount:
    transposed = isinstance(layer, tf.keras.layers.Conv2DTranspose)
    # A kernel is applied once for every pixel of the smaller side.
    height, width, _ = input_shape if transposed else output_shape
    depthwise = isinstance(layer, tf.keras.layers.DepthwiseConv2D)
    kernel = layer.depthwise_kernel if depthwise else layer.kernel
    kernel_shape = tuple(kernel.shape)
    return ConvolutionCount(
        layer.name,
        input_shape,
        output_shape,
        kernel_shape,
        layer.strides[0],
        transposed,
        height * width * math.prod(kernel_shape),
        layer.count_params(),
    )
