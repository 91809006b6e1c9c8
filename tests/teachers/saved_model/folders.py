"""Small SavedModels and their manifests."""

import json
import pathlib
from typing import Any, Dict, Optional, Sequence

import numpy as np
import tensorflow as tf

EDGES = {"kind": "probability", "title": "edges"}


class TwoConvolutions(tf.Module):
    """Logits and a layer of stride 4, of images as an odd network wants them."""

    def __init__(self, channels: int = 1, nchw: bool = True):
        super().__init__()
        random = np.random.default_rng(3)
        self.nchw = nchw
        self.first = tf.Variable(random.normal(0, 0.1, (3, 3, 3, 5)), dtype=tf.float32)
        self.last = tf.Variable(
            random.normal(0, 0.3, (1, 1, 5, channels)), dtype=tf.float32
        )

    def by_hand(self, images):
        """Layer and logits, [B, h, w, c], of what the network takes as [B, H, W, 3]."""
        layer = tf.nn.relu(tf.nn.conv2d(images, self.first, 4, "SAME"))
        return layer, tf.nn.conv2d(layer, self.last, 1, "SAME")

    def serve(self, images):
        turned = tf.transpose(images, [0, 2, 3, 1]) if self.nchw else images
        outputs = self.by_hand(turned)
        if self.nchw:
            outputs = [tf.transpose(value, [0, 3, 1, 2]) for value in outputs]
        return {"c4": outputs[0], "logits": outputs[1]}


def save(
    folder: pathlib.Path,
    module: tf.Module,
    shape: Sequence[Optional[int]],
    manifest: Dict[str, Any],
    dtype: tf.DType = tf.float32,
    function: Any = None,
) -> pathlib.Path:
    """Writes a teacher's folder; what the manifest leaves out is a probability map."""
    spec = tf.TensorSpec(shape, dtype, name="images")
    served = tf.function(function or module.serve, [spec], autograph=False)
    tf.saved_model.save(module, str(folder / "net"), signatures=served)
    write(folder, manifest)
    return folder


def write(folder: pathlib.Path, manifest: Dict[str, Any]) -> None:
    """Writes or replaces teacher.json."""
    content = {
        "format": 1,
        "task": "my_edges",
        "task_definition": EDGES,
        "saved_model": "net",
        "input": {"range": [0, 1]},
        "prediction": {"output": "logits", "activation": "sigmoid", "range": [0, 1]},
        **manifest,
    }
    content = {name: value for name, value in content.items() if value is not None}
    (folder / "teacher.json").write_text(json.dumps(content))


CAFFE = {
    "input": {
        "name": "images",
        "size": [100, 140],
        "range": [0, 255],
        "channel_order": "bgr",
        "mean": [104.0, 116.7, 122.7],
        "std": [57.1, 57.4, 58.4],
        "layout": "nchw",
    },
    "prediction": {
        "output": "logits",
        "layout": "nchw",
        "activation": "sigmoid",
        "range": [0, 1],
    },
    "layers": {"c/4": {"output": "c4", "layout": "nchw"}},
}


def write_caffe(folder: pathlib.Path, **manifest: Any) -> TwoConvolutions:
    """A teacher that is unlike ours in all that a manifest can say."""
    module = TwoConvolutions()
    save(folder, module, [None, 3, 100, 140], {**CAFFE, **manifest})
    return module
