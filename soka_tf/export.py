"""Exports the student of a run as a SavedModel that needs no soka_tf.

For example

    python -m soka_tf.export --model_dir=runs/demo --export_dir=runs/demo_export

Signatures: serving_default (all tasks), one a task, and representation, on uint8
images [batch, height, width, 3]; the same with _float on float32 images in [0, 1]. Maps
come out in physical units.
"""

import os

from absl import flags

from soka_tf import cli

FLAGS = flags.FlagValues()
_MODEL_DIR = flags.DEFINE_string(
    "model_dir",
    None,
    "folder of a run of soka_tf.train",
    required=True,
    flag_values=FLAGS,
)
_EXPORT_DIR = flags.DEFINE_string(
    "export_dir", None, "folder of the SavedModel", required=True, flag_values=FLAGS
)


def main() -> None:
    """Restores the student and exports it."""
    from soka_tf.serving.saved_model import export_student
    from soka_tf.training import run as runs

    model_dir = os.path.expanduser(_MODEL_DIR.value)
    cli.parse_gin([runs.config_of(model_dir)], [], base=None)
    settings = runs.Settings()
    signatures = export_student(
        runs.restore_student(model_dir, settings),
        settings.targets,
        settings.image_size,
        _EXPORT_DIR.value,
        settings.antialias,
    )
    print(
        f"The student of step {runs.restored_step(model_dir)} is in "
        f"{_EXPORT_DIR.value}, with the signatures {', '.join(signatures)}."
    )


if __name__ == "__main__":
    cli.run(main, FLAGS)
