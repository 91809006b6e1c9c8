r"""Measures how alike teachers see images, and chooses an auxiliary teacher by it.

Example (the teachers that come with soka_tf, on rooms drawn for it; about a minute):

    python tools/task_similarity.py --targets=depth_zbuffer,edge_texture \
        --out_dir=runs/similarity

On teachers and images of your own:

    python tools/task_similarity.py --teachers=runs/teachers --images=photos \
        --targets=normal,edge_texture --out_dir=runs/similarity

It prints the similarity of every two teachers, the ranking of the candidates and the
arithmetic of the choice, and writes similarity.json and similarity.png. An image that
cannot be read is named and left out.
"""

import os
import pathlib
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from absl import flags, logging

from soka_tf import cli
from soka_tf.disk import write_json
from soka_tf.errors import UserError

if TYPE_CHECKING:
    from soka_tf.data.samples import Sample

FLAGS = flags.FlagValues()
_TEACHERS = flags.DEFINE_string(
    "teachers",
    None,
    "a folder of <task>.safetensors; or tasks, of the teachers that come with soka_tf, "
    "separated by commas; all of those unless told",
    flag_values=FLAGS,
)
_IMAGES = flags.DEFINE_string(
    "images",
    None,
    "a Taskonomy folder, or any folder of images; rooms are drawn unless told",
    flag_values=FLAGS,
)
_OUT_DIR = flags.DEFINE_string(
    "out_dir", None, "folder for the results", required=True, flag_values=FLAGS
)
_TARGETS = flags.DEFINE_list(
    "targets",
    [],
    "the student's tasks, two or more: chooses their auxiliary teacher",
    flag_values=FLAGS,
)
_THRESHOLD = flags.DEFINE_float(
    "threshold",
    0.4,
    "targets less similar than this need an auxiliary teacher",
    flag_values=FLAGS,
)
_LAYER = flags.DEFINE_enum(
    "layer",
    "representation",
    ["block1", "block2", "block3", "block4", "representation"],
    "whose activations are compared",
    flag_values=FLAGS,
)
_MAX_IMAGES = flags.DEFINE_integer(
    "max_images", 500, "of more images, so many are taken evenly", flag_values=FLAGS
)
_INPUTS = flags.DEFINE_enum(
    "inputs",
    "training",
    ["training", "released"],
    "what a teacher is shown: images as they are, or what the released similarity "
    "code shows its task's network",
    flag_values=FLAGS,
)
_CENTRED = flags.DEFINE_bool(
    "centred",
    True,
    "subtract the mean over the images first, as the released code does",
    flag_values=FLAGS,
)
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size",
    None,
    "side in pixels; the teachers' own unless told",
    flag_values=FLAGS,
)
_ANTIALIAS = flags.DEFINE_bool(
    "antialias",
    False,
    "smooth images before reducing them, best for large photographs",
    flag_values=FLAGS,
)

_ROOMS_SEED = 2  # as a run's; the shipped teachers saw other rooms
_ROOMS, _VIEWS = 25, 8
_BATCH = 16  # images at a time


class Found(NamedTuple):
    """Teachers and what their files say.

    Attributes:
      folder: where the files are.
      names: their tasks.
      image_size: the size of image they were trained on, None if unknown.
    """

    folder: pathlib.Path
    names: List[str]
    image_size: Optional[int]


def main() -> None:
    """Compares, draws, chooses, writes."""
    from soka_tf.data.pipeline import Batches
    from soka_tf.evaluation.similarity_figure import draw_similarity
    from soka_tf.tasks import get_targets
    from soka_tf.teachers.choice import check_choice, choose_auxiliary
    from soka_tf.teachers.similarity import compare_teachers
    from soka_tf.teachers.taskonomy.network import sha256_of

    out_dir = os.path.abspath(os.path.expanduser(_OUT_DIR.value))
    _check_folder(out_dir)
    found = find_teachers(_TEACHERS.value)
    targets = [task.name for task in get_targets(_TARGETS.value)]
    if targets:
        check_choice(found.names, targets, _THRESHOLD.value)
    image_size = _IMAGE_SIZE.value or found.image_size
    if not image_size or image_size < 1:
        raise UserError(
            "--image_size is required and positive: the teachers' files do not agree "
            "on one, or name none."
        )
    samples, source = find_samples(_IMAGES.value, _MAX_IMAGES.value, image_size)
    logging.info(
        "Comparing %d teachers on %d images of %s.",
        len(found.names),
        len(samples),
        source,
    )

    shown = {
        "layer": _LAYER.value,
        "inputs": _INPUTS.value,
        "centred": _CENTRED.value,
    }
    batches = Batches(image_size, _BATCH, _ANTIALIAS.value)
    digests = {
        name: sha256_of(found.folder / f"{name}.safetensors") for name in found.names
    }
    matrix = compare_teachers(found.names, found.folder, samples, batches, **shown)
    choice = None
    if targets:
        choice = choose_auxiliary(matrix, found.names, targets, _THRESHOLD.value)

    print(format_matrix(matrix, found.names))
    if choice:
        print()
        print(choice.explain())
    draw_similarity(
        matrix,
        found.names,
        targets,
        choice.auxiliary if choice else None,
        os.path.join(out_dir, "similarity.png"),
        heading=(
            f"{len(samples)} images; {_LAYER.value}, "
            f"{'centred' if _CENTRED.value else 'not centred'}; inputs as in "
            f"{'training' if _INPUTS.value == 'training' else 'the released code'}"
        ),
    )
    # The JSON comes last: where it is, the results are whole.
    write_json(
        os.path.join(out_dir, "similarity.json"),
        {
            "names": found.names,
            "similarity": matrix.tolist(),
            "images": len(samples),
            "source": source,
            "settings": {
                **shown,
                "image_size": image_size,
                "antialias": batches.antialias,
            },
            "teachers": {
                name: {
                    "file": str(found.folder / f"{name}.safetensors"),
                    "sha256": digest,
                }
                for name, digest in digests.items()
            },
            "choice": choice and describe(choice),
        },
    )
    logging.info("Wrote similarity.json and similarity.png in %s.", out_dir)


def _check_folder(out_dir: str) -> None:
    """Refuses, before the work, a place where nothing can be written."""
    folder = out_dir
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        kind = "cannot be written to" if os.path.isdir(folder) else "is not a folder"
        raise UserError(f"--out_dir={out_dir}: {folder} {kind}. Name another place.")


def find_teachers(teachers: Optional[str]) -> Found:
    """Finds the teachers of --teachers and reads what their files say.

    Raises:
      UserError: if there is no such folder, task or teacher, or fewer than two.
    """
    from soka_tf.tasks import TASKS, get_task
    from soka_tf.teachers.pool import SHIPPED_DIR
    from soka_tf.teachers.taskonomy.network import read_manifest

    folder = SHIPPED_DIR
    given = os.path.expanduser(teachers) if teachers else str(folder)
    if os.path.isdir(given):
        folder = pathlib.Path(given)
        files = {path.stem for path in folder.glob("*.safetensors")}
        names = [name for name in TASKS if name in files]
        others = sorted(files - set(names))
        if others:
            logging.warning(
                "%s: left out what is not named after a task: %s.",
                folder,
                ", ".join(f"{name}.safetensors" for name in others),
            )
        if not names:
            raise UserError(
                f"--teachers={teachers}: there is no teacher in the folder, no file "
                "<task>.safetensors. tools/convert_teacher.py and "
                "tools/train_teachers.py make them."
            )
    elif os.sep in given or given.endswith(".safetensors"):
        raise UserError(f"--teachers={teachers}: there is no such folder.")
    else:
        try:
            names = [get_task(name).name for name in given.split(",")]
        except UserError as error:
            raise UserError(
                f"--teachers={teachers}: neither a folder nor tasks. {error}"
            ) from error
        names = list(dict.fromkeys(names))
        missing = [
            name for name in names if not (folder / f"{name}.safetensors").is_file()
        ]
        if missing:
            there = sorted(path.stem for path in folder.glob("*.safetensors"))
            raise UserError(
                f"--teachers={teachers}: no teacher of {', '.join(missing)} comes with "
                f"soka_tf. It has {', '.join(there)}; for others give a folder."
            )
    if len(names) < 2:
        raise UserError(
            f"Two or more teachers are compared. Found in {folder}: {names[0]}."
        )
    sizes = {
        read_manifest(folder / f"{n}.safetensors").get("image_size") for n in names
    }
    return Found(folder, names, sizes.pop() if len(sizes) == 1 else None)


def find_samples(
    images: Optional[str], most: int, image_size: int
) -> Tuple[List["Sample"], str]:
    """Finds the images to compare on, and says where they are from.

    Raises:
      UserError: if there are fewer than three.
    """
    from soka_tf.data.samples import drop_damaged
    from soka_tf.teachers.similarity import FEWEST_IMAGES, sample_images

    if most < FEWEST_IMAGES:
        raise UserError(
            f"--max_images must be at least {FEWEST_IMAGES}. Received: {most}."
        )
    if images is None:
        samples, source = _draw_rooms(image_size)
    else:
        samples, source = _search(os.path.expanduser(images)), images
    samples, _ = drop_damaged(sample_images(samples, most), [])
    if len(samples) < FEWEST_IMAGES:
        raise UserError(
            f"{source}: {len(samples)} readable images; teachers are compared on at "
            f"least {FEWEST_IMAGES}, better on hundreds."
        )
    return samples, source


def _search(folder: str) -> List["Sample"]:
    from soka_tf.data.reading import RGB
    from soka_tf.data.sources import taskonomy
    from soka_tf.data.sources.folder import find as find_images

    if not os.path.isdir(folder):
        raise UserError(f"--images={folder}: there is no such folder.")
    try:
        return taskonomy.find(folder, [])
    except UserError:
        # One building alone: its label files must not pass for photographs.
        if os.path.isdir(os.path.join(folder, RGB)):
            raise
    return find_images(folder)


def _draw_rooms(image_size: int) -> Tuple[List["Sample"], str]:
    from soka_tf.data.sources import rooms
    from soka_tf.runs.data import default_cache_dir

    wanted = rooms.Rooms(None, _ROOMS_SEED, _ROOMS, _VIEWS, 0)
    data = rooms.find(wanted, default_cache_dir(), [], image_size)
    return data.train, data.source


def format_matrix(matrix: Any, names: Sequence[str]) -> str:
    """The similarities as a table; its columns are the numbers of its rows."""
    from tabulate import tabulate

    rows = [["", "", *range(1, len(names) + 1)]]
    for number, (name, values) in enumerate(zip(names, matrix), 1):
        rows.append(
            [number, name, *(f"{v:.3f}".replace("-0.000", "0.000") for v in values)]
        )
    align = ("right", "left", *("right" for _ in names))
    return tabulate(
        rows,
        headers="firstrow",
        tablefmt="simple",
        disable_numparse=True,
        colalign=align,
    )


def describe(choice: Any) -> Dict[str, Any]:
    """A choice as JSON knows it, with the arithmetic in words."""
    return {
        "auxiliary": choice.auxiliary,
        "summary": choice.summary,
        "targets": list(choice.targets),
        "threshold": choice.threshold,
        "pairs": [pair._asdict() for pair in choice.pairs],
        "ranking": [candidate._asdict() for candidate in choice.ranking],
        "explanation": choice.explain().splitlines(),
    }


if __name__ == "__main__":
    cli.run(main, FLAGS)
