r"""Predicts every task of an exported student on photographs and videos.

    python -m soka_tf.predict --saved_model=runs/demo \
        --images=photos --out_dir=runs/predictions

writes per image `<name>.png`, the image beside its coloured maps at its aspect ratio,
and `<name>_domain_<task>.png`, the raw map in the task's file encoding (Taskonomy's; of
tasks of your own docs/tasks.md; classes as indices): numbers of 8 or 16 bits, dark in a
viewer. An image that cannot be read is named, counted and left out.

Raw maps have the size of their image: the network's maps are resized bilinearly at
half-pixel centres, depth in metres, directions made unit vectors again, classes by
their probabilities, of which the likeliest is written. --size=network writes them as
they leave the network.

--images may be repeated, and name folders, files, and patterns in quotes:

    python -m soka_tf.predict --saved_model=runs/demo \
        --images="photos/*.jpg" --images=clip.mp4 --out_dir=runs/predictions

Of a video (the extra `video`: pip install imageio-ffmpeg) `<name>.mp4` is written, each
frame beside its maps; the videos in a folder are not looked for. Results of before are
replaced with --overwrite only. Nothing half-written stays.

A SavedModel is a program. One with operations that do more than compute, such as write
files, is refused before it is loaded; --trust_saved_model runs it all the same.
"""

import os
from typing import TYPE_CHECKING, Sequence

from absl import flags, logging

from soka_tf import cli
from soka_tf.errors import UserError, counted

if TYPE_CHECKING:
    from soka_tf.serving.exported import Exported

FLAGS = flags.FlagValues()
_SAVED_MODEL = flags.DEFINE_string(
    "saved_model",
    None,
    "Folder written by python -m soka_tf.export, or a run's with one in saved_model/.",
    flag_values=FLAGS,
    required=True,
)
_IMAGES = flags.DEFINE_multi_string(
    "images",
    None,
    "A folder of images (its subfolders included), an image, a video, or a pattern of "
    "such in quotes; repeatable.",
    flag_values=FLAGS,
    required=True,
)
_OUT_DIR = flags.DEFINE_string(
    "out_dir", None, "Folder for the results.", flag_values=FLAGS, required=True
)
_SIZE = flags.DEFINE_enum(
    "size",
    "input",
    ["input", "network"],
    "Of the raw maps: that of the image, or the network's.",
    flag_values=FLAGS,
)
_OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "Replace results of before.", flag_values=FLAGS
)
_TRUST_SAVED_MODEL = cli.define_trust_saved_model(FLAGS)


def main() -> None:
    """Runs the command."""
    # Here, so that --help need not wait for TensorFlow.
    from soka_tf.runs.unfinished import find_export
    from soka_tf.serving import exported, inputs, predictions, videos

    folder = find_export(_SAVED_MODEL.value)
    out_dir = os.path.expanduser(_OUT_DIR.value)
    tasks = exported.tasks_of(folder)
    task_names = [task.name for task in tasks]
    found = inputs.find_inputs(_IMAGES.value, out_dir)
    if found.videos:
        videos.require_package()
    names, video_names = (
        inputs.output_names([sample.key for sample in samples], task_names)
        for samples in found
    )
    results = predictions.result_names(names, video_names, task_names)
    inputs.refuse_overwriting(found.paths, results, out_dir, _OVERWRITE.value)
    student = exported.load_exported(folder, _TRUST_SAVED_MODEL.value)
    damaged = predictions.predict_images(
        student, tasks, found.images, names, out_dir, _SIZE.value
    )
    damaged_videos = predictions.predict_videos(
        student, tasks, found.videos, video_names, out_dir
    )
    _tell(student, [len(found.images), len(found.videos)], [damaged, damaged_videos])


def _tell(student: "Exported", counts: Sequence[int], damaged: Sequence[int]) -> None:
    """Says what was done."""
    if sum(damaged) == sum(counts):
        raise UserError(
            f"Nothing in {', '.join(_IMAGES.value)} could be read, of "
            f"{counted(sum(counts), 'file')}; the warnings have the reasons."
        )
    done = [
        counted(count - lost, what)
        for count, lost, what in zip(counts, damaged, ("image", "video"))
        if count - lost
    ]
    logging.info(
        "Predicted %s for %s into %s.",
        ", ".join(task.name for task in student.tasks),
        " and ".join(done),
        os.path.expanduser(_OUT_DIR.value),
    )
    if counts[0] - damaged[0]:
        logging.info("%s", _about_images(student))
    for lost, what in zip(damaged, ("image", "video")):
        if lost:
            logging.warning("%s could not be read.", counted(lost, what))


def _about_images(student: "Exported") -> str:
    """What to look at, and what raw maps are."""
    size = f"the network's {student.image_size} x {student.image_size} pixels"
    if _SIZE.value == "input":
        size = f"their images' sizes, resized from {size} (--size=network keeps them)"
    bits = sorted({t.encoding.bits for t in student.tasks if t.encoding is not None})
    return (
        "Look at <name>.png; the raw maps, <name>_domain_<task>.png, are numbers of "
        f"{' or '.join(map(str, bits))} bits, dark in a viewer (docs/serving.md has "
        f"the encodings), and have {size}."
    )


if __name__ == "__main__":
    cli.run(main, FLAGS)
