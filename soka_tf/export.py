r"""Exports the student of a run, as a SavedModel that needs no soka_tf or as files.

For example

    python -m soka_tf.export --model_dir=runs/demo --export_dir=runs/demo_export

Signatures: serving_default (all tasks), one a task, and representation, on uint8
images [batch, height, width, 3]; the same with _float on float32 images in [0, 1]. Maps
come out in physical units. An earlier export in the folder is replaced; what soka_tf
has not written there stays. model_card.md says what the student learnt from, how good
it is and is not, and what each file's sha256 is.

Other formats are files in the same folder:

    python -m soka_tf.export --model_dir=runs/demo --export_dir=runs/demo_export \
        --format=saved_model,tflite_float16,tflite_int8,onnx

student_float16.tflite, student_int8.tflite and student.onnx take uint8 images
[batch, S, S, 3] in 0..255 that you have resized to the run's image_size S; the batch is
1 in TensorFlow Lite, any in ONNX. What such a command writes is run on the run's
validation images and compared with the student, in a table and in export_report.json.
"""

import os

from absl import flags, logging

from soka_tf import cli

FLAGS = flags.FlagValues()
_MODEL_DIR, _GIN_FILE, _CHECKPOINT = cli.define_run(FLAGS)
_EXPORT_DIR = flags.DEFINE_string(
    "export_dir", None, "folder of what is exported", required=True, flag_values=FLAGS
)
_FORMAT = flags.DEFINE_list(
    "format",
    ["saved_model"],
    "what to write, of saved_model, tflite_float16, tflite_int8 and onnx",
    flag_values=FLAGS,
)
_PRECISION = flags.DEFINE_enum(
    "precision",
    None,
    ["float32", "bfloat16", "auto"],
    "in which the SavedModel computes, run.export_precision unless given; auto: "
    "bfloat16 where this processor has AMX",
    flag_values=FLAGS,
)
_CALIBRATION_IMAGES = flags.DEFINE_integer(
    "calibration_images",
    100,
    "training images that show tflite_int8 which values occur",
    lower_bound=1,
    flag_values=FLAGS,
)


def main() -> None:
    """Restores the student and exports it."""
    from soka_tf.data.samples import spread
    from soka_tf.runs.build_run import data_to_measure
    from soka_tf.runs.checkpoints import restore_student, restored_step
    from soka_tf.runs.config import import_modules, parse_gin
    from soka_tf.runs.folder import config_of
    from soka_tf.runs.next_command import predict_command
    from soka_tf.runs.run_evaluation import EVALUATION_FILE
    from soka_tf.runs.settings import Settings
    from soka_tf.runs.unfinished import unfinished
    from soka_tf.serving import formats
    from soka_tf.serving.origin import read_origin
    from soka_tf.serving.saved_model import export_student

    export_dir = os.path.expanduser(_EXPORT_DIR.value)
    formats.check_formats(_FORMAT.value)
    formats.check_folder(export_dir, _FORMAT.value)
    files = [name for name in _FORMAT.value if name != formats.SAVED_MODEL]

    model_dir = os.path.expanduser(_MODEL_DIR.value)
    import_modules(_GIN_FILE.value)
    parse_gin([], [], base=None, stored=config_of(model_dir))
    settings = Settings()
    student = restore_student(model_dir, settings, which=_CHECKPOINT.value)
    if files:  # before anything is written: the images may be gone
        data = data_to_measure(settings, model_dir)
    step = restored_step(model_dir, _CHECKPOINT.value)
    state = unfinished(model_dir)
    if state:
        logging.warning(
            "%s: %s. Exporting the student of step %d.", model_dir, state, step
        )
    origin = read_origin(model_dir, step, EVALUATION_FILE)
    if formats.SAVED_MODEL in _FORMAT.value:
        signatures = export_student(
            student,
            settings.targets,
            settings.image_size,
            export_dir,
            settings.antialias,
            _PRECISION.value or settings.export_precision,
            origin,
        )
        print(
            f"The student of step {step} is in "
            f"{export_dir}, with the signatures {', '.join(signatures)}."
        )
    if files:
        images = formats.Images(
            # Where none is in the run's split, none is there to train on.
            spread(data.train or data.validation, _CALIBRATION_IMAGES.value),
            data.validation,
            settings.image_size,
            settings.antialias,
        )
        exported = (student, settings.targets, export_dir)
        paths = formats.write_formats(*exported, files, images, origin)
        print(f"The student of step {step} is in {', '.join(paths)}.")
        report = formats.compare(*exported, _FORMAT.value, images)
        formats.write_report({"step": step, **report}, exported[-1])
        print(formats.format_table(report))
        print(_which_images(report["images"], len(data.validation), data.measured_on))
    if formats.SAVED_MODEL in _FORMAT.value:
        print(f"\nNext:\n  {predict_command(export_dir)}")


def _which_images(compared: int, validation: int, source: str) -> str:
    """On which images each number is: `evaluate` has others."""
    return (
        f"Errors and both rmse are of {compared:,} of the {validation:,} validation "
        f"images ({source}), read as 8 bits; soka_tf.evaluate and evaluation.json "
        f"measure on all {validation:,}."
    )


if __name__ == "__main__":
    cli.run(main, FLAGS)
