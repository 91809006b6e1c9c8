"""Trains a multi-talent student from frozen teachers, without annotations.

For example

    python -m soka_tf.train --gin_file=gin/rooms/demo.gin --model_dir=runs/demo

leaves in runs/demo: report.html, a page of all that follows; checkpoints, TensorBoard
events, metrics.csv, movement.json, curves.png, panels/, evaluation.json,
operative_config.gin and saved_model/. Called again, it goes on where
it was stopped. With --dry_run it prints what it would do, and stops.
"""

import os

from absl import flags

from soka_tf import cli

FLAGS = flags.FlagValues()
_GIN_FILE = flags.DEFINE_multi_string(
    "gin_file", [], "gin files, later ones win; repeatable", flag_values=FLAGS
)
_GIN_PARAM = flags.DEFINE_multi_string(
    "gin_param", [], 'single bindings: "max_steps = 500"', flag_values=FLAGS
)
_MODEL_DIR = flags.DEFINE_string(
    "model_dir", None, "folder of the run", required=True, flag_values=FLAGS
)
_TEACHERS_DIR = flags.DEFINE_string(
    "teachers_dir",
    None,
    "folder of <task>.safetensors and of teachers' folders; short for the binding "
    "teachers_dir",
    flag_values=FLAGS,
)
_TEACHER = flags.DEFINE_multi_string(
    "teacher",
    [],
    "folder of a teacher (docs/teachers.md); repeatable; short for the binding "
    "find_teachers.folders",
    flag_values=FLAGS,
)
_TRUST_SAVED_MODEL = flags.DEFINE_bool(
    "trust_saved_model",
    False,
    "Also run a teacher's SavedModel that does more than compute, such as read files; "
    "short for the binding load_pool.trust_saved_model",
    flag_values=FLAGS,
)
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "print configuration, sizes and files only", flag_values=FLAGS
)


def main() -> None:
    """Builds, trains, evaluates and exports."""
    from soka_tf.runs.dry_run import describe
    from soka_tf.runs.start import bind_run, train_run

    model_dir = os.path.expanduser(_MODEL_DIR.value)
    params = list(_GIN_PARAM.value)
    if _TEACHERS_DIR.value is not None:
        params.append(f"teachers_dir = {os.path.expanduser(_TEACHERS_DIR.value)!r}")
    if _TEACHER.value:
        folders = [os.path.expanduser(folder) for folder in _TEACHER.value]
        params.append(f"find_teachers.folders = {folders!r}")
    if _TRUST_SAVED_MODEL.value:
        params.append("load_pool.trust_saved_model = True")
    bind_run(model_dir, _GIN_FILE.value, params)
    print(describe(model_dir) if _DRY_RUN.value else train_run(model_dir))


if __name__ == "__main__":
    cli.run(main, FLAGS)
