"""Commands to give next, as a shell takes them."""

import contextlib
import os
import shlex
from typing import Sequence

from soka_tf.data.samples import Sample

_SOME_IMAGES = "path/to/photos"


def export_command(model_dir: str, checkpoint: str = "last") -> str:
    """Exports the student of a run, into a folder beside the run's."""
    chosen = {} if checkpoint == "last" else {"checkpoint": checkpoint}
    export_dir = f"{model_dir.rstrip('/')}_export"
    return command("export", model_dir=model_dir, export_dir=export_dir, **chosen)


def predict_command(saved_model: str, samples: Sequence[Sample] = ()) -> str:
    """Predicts on a run's own images, where they lie in a folder.

    Args:
      saved_model: folder of an export.
      samples: of the run.
    """
    folders = {os.path.dirname(sample.files["rgb"]) for sample in samples}
    images = ""
    with contextlib.suppress(ValueError):  # none, or of several roots
        images = os.path.commonpath(folders)
    return command(
        "predict",
        saved_model=saved_model,
        images=images if os.path.isdir(images) else _SOME_IMAGES,
        out_dir=f"{saved_model.rstrip('/')}_maps",
    )


def command(name: str, **flags: str) -> str:
    """A command of the package, with these flags."""
    words = ["python", "-m", f"soka_tf.{name}"]
    return shlex.join([*words, *(f"--{flag}={value}" for flag, value in flags.items())])
