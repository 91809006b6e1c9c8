r"""Measures a trained student and its teachers on the run's validation images.

For example

    python -m soka_tf.evaluate --model_dir=runs/demo

prints a table and writes runs/demo/evaluation.json (docs/metrics.md defines all) and
the page runs/demo/report.html. On other images, such as rooms that no run has seen, and
beside what the run has measured:

    python -m soka_tf.evaluate --model_dir=runs/demo --out_dir=runs/demo_unseen \
        --gin_param="rooms.validation_seed = 3"
"""

import os

from absl import flags

from soka_tf import cli
from soka_tf.errors import UserError

FLAGS = flags.FlagValues()
_MODEL_DIR, _GIN_FILE, _CHECKPOINT = cli.define_run(FLAGS)
_GIN_PARAM = flags.DEFINE_multi_string(
    "gin_param",
    [],
    'bindings that differ from the run\'s: "run.evaluation_batch_size = 4"',
    flag_values=FLAGS,
)
_OUT_DIR = flags.DEFINE_string(
    "out_dir",
    None,
    "folder for evaluation.json, curves.png and report.html; the run's unless given",
    flag_values=FLAGS,
)


def main() -> None:
    """Restores the student, measures, prints."""
    model_dir = os.path.expanduser(_MODEL_DIR.value)
    out_dir = os.path.expanduser(_OUT_DIR.value or _MODEL_DIR.value)
    if os.path.exists(out_dir) and not os.path.isdir(out_dir):
        raise UserError(f"--out_dir must be a folder. Received: {out_dir}, a file.")

    from soka_tf.evaluation.table import format_table
    from soka_tf.runs import build_parts
    from soka_tf.runs.build_run import data_to_measure, fingerprints_of
    from soka_tf.runs.checkpoints import restore_student, restored_step
    from soka_tf.runs.config import import_modules, parse_gin
    from soka_tf.runs.folder import claim_teachers, config_of
    from soka_tf.runs.gin_text import read_text
    from soka_tf.runs.next_command import export_command
    from soka_tf.runs.report import Measured, write_report
    from soka_tf.runs.run_evaluation import evaluate_student
    from soka_tf.runs.settings import Settings
    from soka_tf.runs.strategy import describe_machine

    import_modules(_GIN_FILE.value)
    parse_gin([], _GIN_PARAM.value, base=None, stored=config_of(model_dir))
    settings = Settings()
    student = restore_student(
        model_dir, settings, settings.precision, _CHECKPOINT.value
    )
    teachers = build_parts.load_pool(build_parts.find_teachers(settings.task_names))
    claim_teachers(model_dir, fingerprints_of(teachers), chief=False)
    data = data_to_measure(settings, model_dir)
    step = restored_step(model_dir, _CHECKPOINT.value)
    result = evaluate_student(
        student, teachers, data, settings, step, model_dir, out_dir
    )
    following = export_command(model_dir, _CHECKPOINT.value)
    lines = [format_table(result), "", "Next:", f"  {following}"]
    measured = Measured(
        student,
        teachers,
        data,
        settings,
        read_text(config_of(model_dir)),
        result,
        describe_machine(),
    )
    page = write_report(measured, model_dir, model_dir, out_dir)
    if page is not None:
        lines += ["", f"The page of the run: {page}"]
    print("\n".join(lines))


if __name__ == "__main__":
    cli.run(main, FLAGS)
