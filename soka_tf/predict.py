r"""Predicts every task of an exported student on photographs.

    python -m soka_tf.predict --saved_model=runs/demo/saved_model \
        --images=photos --out_dir=runs/predictions

writes per image `<name>.png`, the image beside its coloured maps at its aspect ratio,
and `<name>_domain_<task>.png`, the raw map at the network's resolution, in the task's
file encoding (Taskonomy's; of tasks of your own docs/tasks.md; classes as indices). An
image that cannot be read is named, counted and left out.

A SavedModel is a program. One with operations that do more than compute, such as write
files, is refused before it is loaded; --trust_saved_model runs it all the same.
"""

import collections
import hashlib
import os
from typing import TYPE_CHECKING, Callable, List, Sequence

from absl import flags, logging

from soka_tf import cli
from soka_tf.errors import UserError

if TYPE_CHECKING:
    from soka_tf.data.samples import Sample
    from soka_tf.tasks import Task

_RGB_DOMAIN = "_domain_rgb"
# In bytes; of the 255 of most file systems a number and what `atomic` adds are left.
_LONGEST_NAME = 230

FLAGS = flags.FlagValues()
_SAVED_MODEL = flags.DEFINE_string(
    "saved_model",
    None,
    "Folder written by python -m soka_tf.export.",
    flag_values=FLAGS,
    required=True,
)
_IMAGES = flags.DEFINE_string(
    "images",
    None,
    "An image, or a folder of images (its subfolders included).",
    flag_values=FLAGS,
    required=True,
)
_OUT_DIR = flags.DEFINE_string(
    "out_dir", None, "Folder for the results.", flag_values=FLAGS, required=True
)
_TRUST_SAVED_MODEL = flags.DEFINE_bool(
    "trust_saved_model",
    False,
    "Also run a SavedModel that does more than compute, such as read and write files.",
    flag_values=FLAGS,
)


def main() -> None:
    """Runs the command."""
    # Here, so that --help need not wait for TensorFlow.
    from soka_tf.networks import untrusted
    from soka_tf.serving import saved_model
    from soka_tf.tasks import get_task

    folder = os.path.expanduser(_SAVED_MODEL.value)
    out_dir = os.path.expanduser(_OUT_DIR.value)
    metadata = saved_model.read_metadata(folder)
    tasks = [get_task(name) for name in metadata["tasks"]]
    samples = find_inputs(_IMAGES.value, out_dir)
    names = output_names([sample.key for sample in samples], [t.name for t in tasks])
    _refuse_overwriting([s.files["rgb"] for s in samples], names, tasks, out_dir)
    if not _TRUST_SAVED_MODEL.value:
        untrusted.refuse_programs(folder)
    student = _load(folder, saved_model.DEFAULT, tasks)
    damaged = predict(student, tasks, samples, names, out_dir)
    done = len(samples) - damaged
    if not done:
        raise UserError(
            f"None of the {len(samples):,} images in {_IMAGES.value!r} could be read; "
            "the warnings have the reasons."
        )
    logging.info(
        "Predicted %s for %s images into %s.",
        ", ".join(task.name for task in tasks),
        f"{done:,}",
        out_dir,
    )
    if damaged:
        logging.warning("%s images could not be read.", f"{damaged:,}")


def find_inputs(images: str, out_dir: str) -> List["Sample"]:
    """Returns the images to predict on, without the results of an earlier run.

    Args:
      images: an image or a folder.
      out_dir: where results go; it may be inside the folder, but not be the folder.

    Raises:
      UserError: if there is no image, or results would become images of a later run.
    """
    from soka_tf.data.sources.folder import find as find_images

    out_dir = os.path.realpath(out_dir)
    if os.path.exists(out_dir) and not os.path.isdir(out_dir):
        raise UserError(f"--out_dir {out_dir!r} is a file. Name a folder.")
    folder = os.path.realpath(os.path.expanduser(images))
    if folder == out_dir:
        raise UserError(
            f"--out_dir {out_dir!r} is the folder of the images. Name another one, so "
            "that results are not mistaken for images later."
        )
    samples = find_images(images)
    if _is_inside(out_dir, folder):
        samples = [s for s in samples if not _is_inside(s.files["rgb"], out_dir)]
    if not samples:
        raise UserError(f"There is no image in {images!r} beside earlier results.")
    return samples


def output_names(keys: Sequence[str], tasks: Sequence[str]) -> List[str]:
    """Chooses a name for each image such that no two results are the same file.

    Args:
      keys: paths of the images below their folder, without suffix.
      tasks: names of the tasks.

    Returns:
      The file's stem, without a final "_domain_rgb"; where stems collide, the whole key
      with "_" for "/", and a number if need be. What is too long for a file's name is
      cut, and ends in a digest of the whole.
    """
    keys = [_plain_stem(key) for key in keys]
    stems = [key.rpartition("/")[2] for key in keys]
    # File systems may take A.png and a.png for one file.
    times = collections.Counter(stem.casefold() for stem in stems)
    names, taken = [], set()
    for key, stem in zip(keys, stems):
        first = stem if times[stem.casefold()] == 1 else key.replace("/", "_")
        first = _fitted(first, tasks)
        name, number = first, 1
        while not taken.isdisjoint(_files(name.casefold(), tasks)):
            number += 1
            name = f"{first}-{number}"
        taken.update(_files(name.casefold(), tasks))
        names.append(name)
    return names


def predict(
    student: Callable,
    tasks: Sequence["Task"],
    samples: Sequence["Sample"],
    names: Sequence[str],
    out_dir: str,
) -> int:
    """Writes the results of every image that can be read.

    Args:
      student: images= uint8 [1, H, W, 3] -> task name -> [1, S, S, C] in its unit.
      tasks: the tasks to write.
      samples: the images.
      names: name of each image's results.
      out_dir: folder of the results.

    Returns:
      The number of images that could not be read; each was named in a warning.
    """
    from tqdm import tqdm

    from soka_tf.data import encodings
    from soka_tf.data.image_files import DamagedFile
    from soka_tf.evaluation import image_grid, panels

    damaged = 0
    for sample, name in zip(tqdm(samples, "predicting", unit="image"), names):
        try:
            image = sample.read("rgb")
        except DamagedFile as error:
            damaged += 1
            logging.warning("%s is left out: %s.", error.path, error.reason)
            continue
        outputs = student(images=image[None])
        maps = {task.name: outputs[task.name].numpy()[0] for task in tasks}
        path, *map_paths = (
            os.path.join(out_dir, file) for file in _files(name, list(maps))
        )
        for task, map_path in zip(tasks, map_paths):
            image_grid.write_png(map_path, encodings.store(task, maps[task.name]))
        # The picture comes last: where it is, all of an image's results are.
        image_grid.write_png(path, panels.draw_prediction(image, maps, tasks))
    return damaged


def _load(folder: str, signature: str, tasks: Sequence["Task"]) -> Callable:
    import tensorflow as tf

    try:
        model = tf.saved_model.load(folder)
        function = model.signatures[signature]
        for task in tasks:
            if function.structured_outputs[task.name].shape[-1] != task.channels:
                raise ValueError(f"{task.name} must have {task.channels} channels")
    except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(
            f"{folder!r} cannot be loaded ({reason}). Export the student again."
        ) from error

    def student(images):
        return function(images=tf.constant(images))

    # A signature alone does not keep the variables of its model alive.
    student.model = model
    return student


def _files(name: str, tasks: Sequence[str]) -> List[str]:
    """The files of one image: the picture, then the raw maps."""
    return [f"{name}.png", *(f"{name}_domain_{task}.png" for task in tasks)]


def _fitted(name: str, tasks: Sequence[str]) -> str:
    """The name, cut where its longest file's would be refused by file systems."""
    from soka_tf.data.filesystem import name_bytes

    whole = name_bytes(name)
    room = _LONGEST_NAME - max(map(len, _files("", tasks)))
    if len(whole) <= room:
        return name
    digest = hashlib.sha256(whole).hexdigest()[:8]
    # A character cut in half is left out.
    return f"{whole[: room - 9].decode(errors='ignore')}-{digest}"


def _plain_stem(key: str) -> str:
    from soka_tf.data.image_files import SUFFIXES

    # Images that differ in their suffix only have it in their keys.
    stem, suffix = os.path.splitext(key)
    if suffix.lower() in SUFFIXES:
        key = f"{stem}_{suffix[1:]}"
    # A Taskonomy image gets maps with Taskonomy's own names.
    return key[: -len(_RGB_DOMAIN)] if key.endswith(_RGB_DOMAIN) else key


def _is_inside(path: str, folder: str) -> bool:
    folder = os.path.realpath(folder)
    return os.path.realpath(path).startswith(os.path.join(folder, ""))


def _refuse_overwriting(
    paths: Sequence[str], names: Sequence[str], tasks: Sequence["Task"], out_dir: str
) -> None:
    inputs = {os.path.realpath(path) for path in paths}
    for name in names:
        for file in _files(name, [task.name for task in tasks]):
            if os.path.realpath(os.path.join(out_dir, file)) in inputs:
                raise UserError(
                    f"The results would overwrite the image {file!r} in {out_dir!r}. "
                    "Name another --out_dir."
                )


if __name__ == "__main__":
    cli.run(main, FLAGS)
