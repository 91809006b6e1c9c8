"""A first teacher.json for a SavedModel: what its file says, and guesses to look at."""

import math
from typing import Any, Dict, List, Mapping, Optional

import numpy as np

from soka_tf.errors import UserError
from soka_tf.teachers.saved_model.manifest import FORMAT


def draft_input(name: str, spec: Any) -> Dict[str, Any]:
    """The manifest's `input` of a signature's argument.

    Args:
      name: of the argument.
      spec: its `tf.TensorSpec`.

    Raises:
      UserError: if it is no batch of images.
    """
    shape = spec.shape.as_list() if spec.shape.rank else [None] * 4
    if len(shape) != 4:
        raise UserError(
            f"The argument {name!r} has the shape {spec.shape}: images have 4 "
            "dimensions. Choose another --signature."
        )
    layout = "nchw" if shape[1] == 3 and shape[3] != 3 else "nhwc"
    size = shape[2:] if layout == "nchw" else shape[1:3]
    return {
        "name": name,
        "size": None if None in size else size,
        "range": [0, 255] if spec.dtype.is_integer else [0, 1],
        "mean": None,
        "std": None,
        "channel_order": "rgb",
        "layout": layout,
    }


def draft(
    signature: str,
    given: Mapping[str, Any],
    outputs: Mapping[str, np.ndarray],
    layers: List[str],
    task: Optional[str],
    known: bool,
) -> Dict[str, Any]:
    """The whole manifest.

    Args:
      signature: of the SavedModel.
      given: of `draft_input`.
      outputs: name -> what the signature answered to some images.
      layers: those of its outputs that are layers.
      task: its name; None for one to be replaced.
      known: whether soka_tf knows that task without a definition.

    Raises:
      UserError: if no output is a map.
    """
    channels_first = given["layout"] == "nchw"
    maps = {
        name: np.moveaxis(value, 1, -1) if channels_first else value
        for name, value in outputs.items()
        if value.ndim == 4 and value.dtype.kind == "f"
    }
    own = [name for name in maps if name not in layers]
    if not own:
        shapes = {name: value.shape for name, value in outputs.items()}
        raise UserError(
            f"No output of the signature {signature!r} is a map of 4 dimensions: "
            f"{shapes}. Choose another --signature."
        )
    # The largest map, of the fewest channels.
    chosen = max(own, key=lambda n: (math.prod(maps[n].shape[1:3]), -maps[n].shape[-1]))
    prediction, definition = _guess(maps[chosen])
    content: Dict[str, Any] = {
        "format": FORMAT,
        "task": task or "my_task",
        "saved_model": "saved_model",
        "signature": signature,
        "input": dict(given),
        "prediction": {"output": chosen, "layout": given["layout"], **prediction},
        "layers": {
            name: {"output": name, "layout": given["layout"]}
            for name in maps
            if name != chosen
        },
    }
    if not known:
        content["task_definition"] = definition
    return content


def _guess(values: np.ndarray) -> Any:
    """What a map may be: activation and range, and a definition of its task."""
    low, high, channels = float(values.min()), float(values.max()), values.shape[-1]
    shares = channels > 1 and np.allclose(values.sum(-1), 1, atol=1e-3)
    if (low >= 0 and shares) or channels > 3:
        activation = "none" if low >= 0 and shares else "softmax"
        classes = {"kind": "classes", "channels": channels}
        return {"activation": activation, "range": [0, 1]}, classes
    if low >= 0 and high <= 1:
        definition = {"kind": "probability", "channels": channels}
        return {"activation": "none", "range": [0, 1]}, definition
    if low >= -1 and high <= 1:
        ends = [-1, 1]
    elif low < 0 and channels == 1:
        definition = {"kind": "probability", "channels": 1}
        return {"activation": "sigmoid", "range": [0, 1]}, definition
    else:
        ends = [min(0.0, float(f"{low:.2g}")), float(f"{1.1 * high:.2g}")]
    if channels == 3 and ends == [-1, 1]:
        return {"activation": "none", "range": ends}, {"kind": "direction"}
    definition = {"kind": "continuous", "channels": channels, "range": ends}
    return {"activation": "none", "range": ends}, definition
