r"""Measures how alike teachers see images, and chooses an auxiliary teacher by it.

Example (the teachers that come with soka_tf, on rooms drawn for it; about a minute):

    python tools/task_similarity.py --targets=depth_zbuffer,edge_texture \
        --out_dir=runs/similarity

On teachers and images of your own:

    python tools/task_similarity.py --teachers=runs/teachers --images=photos \
        --targets=normal,edge_texture --targets=depth_zbuffer,normal \
        --out_dir=runs/similarity

It prints the similarity of every two teachers, the ranking of the candidates and the
arithmetic of the choice, and writes similarity.json and similarity.png. An image that
cannot be read is named and left out.
"""

import os
import pathlib
from typing import Any, Dict, List, Optional, Sequence, Tuple

from absl import flags, logging

from soka_tf import cli
from soka_tf.atomic import write_json
from soka_tf.errors import UserError
from soka_tf.tool_commands import tool_command

FLAGS = flags.FlagValues()
_TEACHERS = flags.DEFINE_string(
    "teachers",
    None,
    "a folder of <task>.safetensors; or tasks, of the teachers that come with soka_tf, "
    "separated by commas; by default all of those",
    flag_values=FLAGS,
)
_IMAGES = flags.DEFINE_string(
    "images",
    None,
    "a Taskonomy folder, or any folder of images; by default rooms are drawn",
    flag_values=FLAGS,
)
_OUT_DIR = flags.DEFINE_string(
    "out_dir", None, "folder for the results", required=True, flag_values=FLAGS
)
_TARGETS = flags.DEFINE_multi_string(
    "targets",
    [],
    "a student's tasks, two or more, separated by commas: chooses their auxiliary "
    "teacher; may be repeated",
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
    "side in pixels; by default the teachers' own",
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


def main() -> None:
    """Compares, draws, chooses, writes."""
    from soka_tf.data.filesystem import sha256_of
    from soka_tf.data.pipeline import Batches
    from soka_tf.tasks import get_targets
    from soka_tf.teachers import auxiliary_choice as choice_of
    from soka_tf.teachers.saved_model.manifest import FILE
    from soka_tf.teachers.similarity import compare_teachers
    from soka_tf.teachers.taskonomy.teacher_file import read_manifest

    folder, files = find_teachers(_TEACHERS.value, _LAYER.value)
    names = list(files)
    students = [
        [task.name for task in get_targets(targets.split(","))]
        for targets in _TARGETS.value
    ]
    for targets in students:
        choice_of.check_choice(names, targets, _THRESHOLD.value)
    # A folder's teacher brings images to its own size.
    sized = [file for file in files.values() if file.name != FILE]
    sizes = {read_manifest(file).get("image_size") for file in sized}
    image_size = _IMAGE_SIZE.value or (sizes.pop() if len(sizes) == 1 else None)
    if not image_size or image_size < 1:
        raise UserError(
            "--image_size is required and positive: the teachers' files do not agree "
            "on one, or name none."
        )
    samples, source = find_samples(_IMAGES.value, _MAX_IMAGES.value, image_size)
    out_dir = _make_folder(_OUT_DIR.value)
    settings = {
        "layer": _LAYER.value,
        "inputs": _INPUTS.value,
        "centred": _CENTRED.value,
    }
    batches = Batches(image_size, _BATCH, _ANTIALIAS.value)
    logging.info(
        "Comparing %d teachers on %d images of %s.", len(names), len(samples), source
    )
    matrix = compare_teachers(names, folder, samples, batches, **settings)
    choices = [
        choice_of.choose_auxiliary(matrix, names, targets, _THRESHOLD.value)
        for targets in students
    ]
    content = {
        "names": names,
        "similarity": matrix.tolist(),
        "images": len(samples),
        "source": source,
        "settings": {
            **settings,
            "image_size": image_size,
            "antialias": batches.antialias,
        },
        "teachers": {
            name: {"file": str(file), "sha256": sha256_of(file)}
            for name, file in files.items()
        },
        "choices": [describe(choice) for choice in choices],
    }
    print(format_matrix(matrix, names))
    for choice in choices:
        print(f"\n{choice.explain()}")
    _draw(matrix, content, os.path.join(out_dir, "similarity.png"))
    # The JSON comes last: where it is, the results are whole.
    write_json(os.path.join(out_dir, "similarity.json"), content)
    logging.info("Wrote similarity.json and similarity.png in %s.", out_dir)


def _make_folder(given: str) -> str:
    folder = os.path.abspath(os.path.expanduser(given))
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--out_dir={given}: {folder} cannot be made, or is not a folder "
            f"({error.strerror}). Name another place."
        ) from error
    return folder


def _draw(matrix: Any, content: Dict[str, Any], path: str) -> None:
    """Draws the matrix; of one choice, who the targets and the chosen one are."""
    from soka_tf.evaluation.similarity_figure import draw_similarity

    settings = content["settings"]
    choice = content["choices"][0] if len(content["choices"]) == 1 else None
    centred = "centred" if settings["centred"] else "not centred"
    released = settings["inputs"] != "training"
    draw_similarity(
        matrix,
        content["names"],
        choice["targets"] if choice else (),
        choice and choice["auxiliary"],
        path,
        heading=(
            f"{content['images']} images; {settings['layer']}, {centred}; inputs as in "
            f"{'the released code' if released else 'training'}"
        ),
    )


def find_teachers(
    teachers: Optional[str], layer: Optional[str] = None
) -> Tuple[pathlib.Path, Dict[str, pathlib.Path]]:
    """Finds the teachers of --teachers, or those with a layer: folder, task -> file.

    Raises:
      UserError: if there is no such folder, task or teacher, or fewer than two.
    """
    from soka_tf.teachers.finding import SHIPPED_DIR, found_teachers
    from soka_tf.teachers.similarity import teachers_with

    folder = SHIPPED_DIR
    given = os.path.expanduser(teachers or str(folder))
    if os.path.isdir(given):
        folder = pathlib.Path(given)
        files, lacking = found_teachers(folder), {}
        if layer is not None:
            files, lacking = teachers_with(layer, folder)
        for sentence in lacking.values():
            logging.warning(sentence)
        if not files:
            raise UserError(
                f"--teachers={folder}: there is no teacher in the folder, no file "
                f"<task>.safetensors. {tool_command('convert_teacher')} and "
                f"{tool_command('train_teachers')} make them."
            )
    elif os.sep in given or given.endswith(".safetensors"):
        raise UserError(f"--teachers={teachers}: there is no such folder.")
    else:
        names = _shipped_teachers(given)
        files = {name: folder / f"{name}.safetensors" for name in names}
    if len(files) < 2:
        raise UserError(
            f"Two or more teachers are compared. Found in {folder}: {', '.join(files)}."
        )
    return folder, files


def _shipped_teachers(given: str) -> List[str]:
    from soka_tf.tasks import get_task
    from soka_tf.teachers.finding import SHIPPED_DIR

    try:
        names = [get_task(name).name for name in given.split(",")]
    except UserError as error:
        raise UserError(
            f"--teachers={given}: neither a folder nor tasks. {error}"
        ) from error
    there = sorted(path.stem for path in SHIPPED_DIR.glob("*.safetensors"))
    missing = [name for name in names if name not in there]
    if missing:
        raise UserError(
            f"--teachers={given}: no teacher of {', '.join(missing)} comes with "
            f"soka_tf. It has {', '.join(there)}; for others give a folder."
        )
    return list(dict.fromkeys(names))


def find_samples(
    images: Optional[str], most: int, image_size: int
) -> Tuple[List[Any], str]:
    """Finds the images to compare on; returns their samples and where they are from.

    Raises:
      UserError: if there are fewer than three.
    """
    from soka_tf.data.samples import drop_damaged
    from soka_tf.data.sources import rooms
    from soka_tf.runs.build_data import default_cache_dir
    from soka_tf.teachers.rdm import FEWEST_IMAGES
    from soka_tf.teachers.similarity import sample_images

    if most < FEWEST_IMAGES:
        raise UserError(
            f"--max_images must be at least {FEWEST_IMAGES}. Received: {most}."
        )
    if images is None:
        place = default_cache_dir()
        wanted = rooms.Rooms(
            seed=_ROOMS_SEED,
            count=_ROOMS,
            train_views=_VIEWS,
            validation_seed=None,
            validation_views=0,
        )
        data = rooms.find(wanted, place, [], image_size)
        samples, source = data.train, f"procedural rooms of seed {_ROOMS_SEED}"
    else:
        samples, source = _search(os.path.expanduser(images)), images
    samples, _ = drop_damaged(sample_images(samples, most), [])
    if len(samples) < FEWEST_IMAGES:
        raise UserError(
            f"{source}: {len(samples)} readable images; teachers are compared on at "
            f"least {FEWEST_IMAGES}, better on hundreds."
        )
    return samples, source


def _search(folder: str) -> List[Any]:
    from soka_tf.data.image_files import RGB
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


def format_matrix(matrix: Any, names: Sequence[str]) -> str:
    """The similarities as a table; its columns are the numbers of its rows."""
    from tabulate import tabulate

    rows = [
        [number, name, *(f"{v:.3f}".replace("-0.000", "0.000") for v in values)]
        for number, (name, values) in enumerate(zip(names, matrix), 1)
    ]
    head = ["", "", *range(1, len(names) + 1)]
    align = ("right", "left", *["right"] * len(names))
    return tabulate(rows, head, disable_numparse=True, colalign=align)


def describe(choice: Any) -> Dict[str, Any]:
    """A choice for the JSON, with the arithmetic in words."""
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
