"""An image as the original code shows it to its networks, in numpy alone."""

import numpy as np

from soka_tf.data.encodings import resize


def encode_rgb(pixels: np.ndarray, size: int, antialias: bool = False) -> np.ndarray:
    """What `soka_tf.data.pipeline.preprocess_images` is compared with.

    Args:
      pixels: uint8 [height, width, 3].
      size: side of the result in pixels.
      antialias: widens the filter when reducing. The original does not.

    Returns:
      float32 [size, size, 3] in [-1, 1].
    """
    values = resize(pixels / 255.0, size, antialias, repeat_rim=True).astype(np.float32)
    return values * 2 - 1
