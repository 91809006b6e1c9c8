r"""Draws rooms that no teacher was trained on, and what the teachers make of them.

Example (about a minute; the teachers that come with soka_tf):

    python tools/show_teachers.py --out_dir=runs/teachers_shown

It prints the scores of the teachers' manifest as a table, and writes rooms.png, one
view of each of 40 rooms, and teachers_1.png, teachers_2.png: the teachers' answers
beside the truth.
"""

import pathlib
import sys
from typing import Any, List, Mapping

from absl import flags, logging

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from soka_tf import cli

FLAGS = flags.FlagValues()
_OUT_DIR = flags.DEFINE_string(
    "out_dir", None, "folder for the pictures", required=True, flag_values=FLAGS
)
_TEACHERS = flags.DEFINE_string(
    "teachers",
    None,
    "a folder of <task>.safetensors; by default those that come with soka_tf",
    flag_values=FLAGS,
)
_GIN_FILE = flags.DEFINE_multi_string(
    "gin_file",
    ["gin/rooms/teachers.gin"],
    "what the teachers were trained by: its test rooms are shown",
    flag_values=FLAGS,
)
_GIN_PARAM = flags.DEFINE_multi_string(
    "gin_param", [], "single bindings, as of train_teachers.py", flag_values=FLAGS
)

_ROOMS, _ACROSS, _CELL_PX = 40, 8, 128
_SHOWN_ROOMS, _TASKS_A_PAGE = 6, 5
_NUMBERS = {str: (float, None)}
# What the table shows of an entry of a manifest.
_SCORED = {
    "scores": {"teacher": _NUMBERS, "median": _NUMBERS, "skill?": (float, None)},
    "processor_minutes": {str: float},
    "views": int,
}


def main() -> None:
    """Draws the rooms, then asks the teachers of them."""
    from soka_tf.data.rooms.room_files import DOMAINS
    from soka_tf.teachers import load_teacher
    from soka_tf.teachers.finding import read_teachers_manifest
    from tools.task_similarity import find_teachers
    from tools.teachers import rooms
    from tools.teachers.settings import read_settings

    settings = read_settings(_GIN_FILE.value, _GIN_PARAM.value)
    folder, files = find_teachers(_TEACHERS.value)
    if (folder / "manifest.json").is_file():
        manifest = folder / "manifest.json"
        print(format_scores(read_teachers_manifest(manifest, **_SCORED)))
    others = [name for name in files if name not in DOMAINS]
    if others:
        told = "Left out, for rooms have no truth of it: %s."
        logging.warning(told, ", ".join(others))
    loaded = [load_teacher(file) for name, file in files.items() if name in DOMAINS]
    teachers = [teacher for teacher in loaded if teacher.has_prediction]
    some = rooms.Rooms(settings.test.seed, _ROOMS, 1)
    domains = [teacher.task.name for teacher in teachers]
    arrays = rooms.draw(settings.data_dir, some, settings.image_size, domains)
    out_dir = pathlib.Path(_OUT_DIR.value).expanduser()
    whose = f"rooms of seed {some.seed}, which no teacher was trained on"
    _draw_rooms(arrays["rgb"], f"{_ROOMS} {whose}", out_dir / "rooms.png")
    starts = range(0, len(teachers), _TASKS_A_PAGE)
    for page, start in enumerate(starts, 1):
        these = teachers[start : start + _TASKS_A_PAGE]
        _draw_answers(these, arrays, whose, out_dir / f"teachers_{page}.png")
    logging.info("Wrote rooms.png and teachers_*.png in %s.", out_dir)


def format_scores(entries: Mapping[str, Any]) -> str:
    """The scores of a manifest as a Markdown table, the median image's in brackets.

    Args:
      entries: "teachers" of a manifest of tools/train_teachers.py.
    """
    from tabulate import tabulate

    columns = ["rmse", "rel", "delta1", "mean_angle_deg", "gradient_correlation"]
    columns += ["accuracy", "mean_iou"]
    rows = []
    for task, entry in entries.items():
        scores = entry["scores"]
        cells = []
        for name in columns:
            value, trivial = (scores[who].get(name) for who in ("teacher", "median"))
            beside = "" if trivial is None else f" ({trivial:.3g})"
            cells.append("" if value is None else f"{value:.3g}{beside}")
        skill = scores.get("skill")
        minutes = sum(entry["processor_minutes"].values())
        shown = "" if skill is None else f"{skill:.2f}"
        rows.append([task, shown, *cells, entry["views"], f"{minutes:.0f}"])
    used = [i for i in range(len(columns) + 4) if any(row[i] != "" for row in rows)]
    titles = ["task", "skill", *columns, "views", "CPU minutes"]
    return tabulate(
        [[row[i] for i in used] for row in rows],
        [titles[i].replace("_", " ") for i in used],
        tablefmt="github",
        disable_numparse=True,
    )


def _draw_rooms(images: Any, heading: str, path: pathlib.Path) -> None:
    from soka_tf.evaluation import image_grid

    cells = [image_grid.enlarge(image, _CELL_PX) for image in images]
    columns = [image_grid.Column("", cells[i::_ACROSS]) for i in range(_ACROSS)]
    page = image_grid.compose([image_grid.Group("", columns)], heading)
    image_grid.write_png(str(path), page)


def _draw_answers(
    teachers: List[Any], arrays: Mapping[str, Any], heading: str, path: pathlib.Path
) -> None:
    """A row a room; of every teacher its answer and the truth."""
    from soka_tf.data.pipeline import preprocess_images
    from soka_tf.evaluation import image_grid

    arrays = {domain: values[:_SHOWN_ROOMS] for domain, values in arrays.items()}
    images = arrays["rgb"]
    shown = preprocess_images(images, images.shape[1])
    cells = [image_grid.enlarge(image, _CELL_PX) for image in images]
    groups = [image_grid.Group("", [image_grid.Column("rgb", cells)])]
    for teacher in teachers:
        answer = teacher(shown, ())["prediction"]
        groups.append(_group(teacher.task, answer, arrays[teacher.task.name]))
    image_grid.write_png(str(path), image_grid.compose(groups, heading))


def _group(task: Any, answer: Any, label: Any) -> Any:
    """The two columns of a teacher.

    Args:
      task: its task.
      answer: [rows, S, S, C] in the network's range.
      label: of `rooms.draw`.
    """
    import numpy as np

    from soka_tf.data import encodings
    from soka_tf.evaluation import image_grid, map_pictures, panels
    from soka_tf.evaluation.evaluator import to_units

    if task.has_classes:  # the label is an index a pixel
        label = np.eye(task.channels, dtype=np.float32)[np.asarray(label)[..., 0]]
    truth = encodings.decode(task, label)
    maps = {"teacher": np.asarray(to_units(task, answer)), "truth": truth}
    low, high = map_pictures.display_range(task, truth)
    columns = panels.map_columns(task, maps, low, high, _CELL_PX)
    return image_grid.Group(task.title, columns)


if __name__ == "__main__":
    cli.run(main, FLAGS)
