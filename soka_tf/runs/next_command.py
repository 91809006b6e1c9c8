"""Commands to give next, as a shell takes them."""

import os
import shlex
from typing import Sequence

from soka_tf.data.samples import Sample

_SOME_IMAGES = "path/to/photos"


def command(name: str, **flags: str) -> str:
    """A command of soka_tf with its flags, quoted for the shell.

    Args:
      name: "export" of `python -m soka_tf.export`.
      **flags: value of each.
    """
    words = ["python", "-m", f"soka_tf.{name}"]
    return shlex.join([*words, *(f"--{flag}={value}" for flag, value in flags.items())])


def predict_command(saved_model: str, samples: Sequence[Sample] = ()) -> str:
    """Predicts on a run's own images, where they lie in a folder.

    Args:
      saved_model: folder of an export.
      samples: of the run.
    """
    folders = {os.path.dirname(sample.files["rgb"]) for sample in samples}
    images = os.path.commonpath(folders) if folders else ""
    return command(
        "predict",
        saved_model=saved_model,
        images=images if os.path.isdir(images) else _SOME_IMAGES,
        out_dir=f"{saved_model.rstrip('/')}_maps",
    )
