"""Trains a multi-talent student from frozen teachers, without annotations.

For example

    python -m soka_tf.train --gin_file=gin/rooms/demo.gin --model_dir=runs/demo

leaves in runs/demo: report.html, a page of all that follows; checkpoints, TensorBoard
events, metrics.csv, movement.json, curves.png, panels/, evaluation.json,
operative_config.gin and saved_model/. Called again, it goes on where
it was stopped. With --dry_run it prints what it would do, and stops.
"""

import os

from absl import flags, logging

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
    from soka_tf.runs.config import parse_gin
    from soka_tf.runs.dry_run import describe
    from soka_tf.runs.folder import CONFIG_FILE, training_in
    from soka_tf.runs.strategy import lost_workers

    model_dir = os.path.expanduser(_MODEL_DIR.value)
    stored = os.path.join(model_dir, CONFIG_FILE)
    resumed = stored if os.path.isfile(stored) else None
    params = list(_GIN_PARAM.value)
    if _TEACHERS_DIR.value is not None:
        params.append(f"teachers_dir = {os.path.expanduser(_TEACHERS_DIR.value)!r}")
    if _TEACHER.value:
        folders = [os.path.expanduser(folder) for folder in _TEACHER.value]
        params.append(f"find_teachers.folders = {folders!r}")
    if _TRUST_SAVED_MODEL.value:
        params.append("load_pool.trust_saved_model = True")
    parse_gin(_GIN_FILE.value, params, stored=resumed)
    if _DRY_RUN.value:
        print(describe(model_dir))
        return

    with training_in(model_dir), lost_workers("Before or after training"):
        _train(model_dir)


def _train(model_dir: str) -> None:
    from soka_tf.runs.build_run import build_run
    from soka_tf.runs.config import unused_bindings
    from soka_tf.runs.finish import complete

    logging.info("Loading teachers, finding or drawing images ...")
    run = build_run(model_dir)
    for name in unused_bindings():
        logging.warning("The binding %s is used by nothing in this run.", name)
    print(complete(run, model_dir))


if __name__ == "__main__":
    cli.run(main, FLAGS)
