r"""Repeats the paper's tables and figures, with seeds and 95 % intervals.

Example (the paper's ablation, Table 5, small and with one seed; minutes on two cores):

    python tools/reproduce.py --study=table5 --seeds=1 --scale=small \
        --model_dir=runs/study

All studies, with five seeds, and the pages that docs/ has (hours on two cores):

    python tools/reproduce.py --study=all --seeds=5 --model_dir=runs/study \
        --docs_dir=docs

On Taskonomy's images with its networks, converted, at the paper's size:

    python tools/reproduce.py --study=table1 --scale=full --data=taskonomy \
        --taskonomy_dir=data/taskonomy --teachers_dir=data/taskonomy_teachers \
        --model_dir=runs/taskonomy_study

It trains what is missing, each run in a process of its own, and shares runs between
studies; called again, it goes on where it was stopped. Every study leaves
<study>.json, <study>.md and pictures in --model_dir; the runs are in its folder runs/.
"""

import os
import pathlib
import shutil
import sys
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from absl import flags, logging

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from soka_tf import cli  # noqa: E402 (tools/ is no installed package)
from soka_tf.errors import UserError  # noqa: E402
from tools.studies import definitions, further, results  # noqa: E402
from tools.studies import report as reports  # noqa: E402
from tools.studies.definitions import Scale, Study  # noqa: E402
from tools.studies.records import (  # noqa: E402
    RUN_RECORD,
    hardware,
    read_json,
    write_json,
    write_text,
)
from tools.studies.training import Runs, Training  # noqa: E402

SCALES = {
    "small": Scale(
        files=("gin/rooms/study.gin",),
        steps=500,
        single_student=(
            "build_student.units = (1, 1, 1, 1)",
            "build_student.width = 0.085",
        ),
        more_steps={"kd": 1.35, "kd_mia": 1.1},
    ),
    "full": Scale(
        files=("gin/paper/common.gin",),
        steps=600_000,
        single_student=(),
        more_steps={"kd": 1.1, "kd_mia": 1.1},
    ),
}
STUDIES = tuple(definitions.define(SCALES["small"]))

FLAGS = flags.FlagValues()
_STUDY = flags.DEFINE_list(
    "study",
    None,
    f"what to repeat, separated by commas, or all: {', '.join(STUDIES)}",
    required=True,
    flag_values=FLAGS,
)
_SEEDS = flags.DEFINE_integer(
    "seeds",
    5,
    "runs of every configuration, with seeds 0, 1, ...",
    lower_bound=1,
    flag_values=FLAGS,
)
_MODEL_DIR = flags.DEFINE_string(
    "model_dir", None, "folder of runs and results", required=True, flag_values=FLAGS
)
_SCALE = flags.DEFINE_enum(
    "scale",
    "small",
    list(SCALES),
    "small: 64 pixels, small networks; full: the paper's",
    flag_values=FLAGS,
)
_DATA = flags.DEFINE_enum(
    "data",
    "rooms",
    ["rooms", "taskonomy"],
    "drawn rooms, or a Taskonomy folder",
    flag_values=FLAGS,
)
_TASKONOMY_DIR = flags.DEFINE_string(
    "taskonomy_dir", None, "root of the Taskonomy folder", flag_values=FLAGS
)
_TEACHERS_DIR = flags.DEFINE_string(
    "teachers_dir",
    None,
    "folder of <task>.npz; the shipped teachers for --scale=small unless told",
    flag_values=FLAGS,
)
_JOBS = flags.DEFINE_integer(
    "jobs",
    None,
    "runs at a time, which share the cores; as many as cores for small, 1 for full",
    lower_bound=1,
    flag_values=FLAGS,
)
_STEPS = flags.DEFINE_integer(
    "steps", None, "of a run; the scale's unless told", lower_bound=1, flag_values=FLAGS
)
_GIN_PARAM = flags.DEFINE_multi_string(
    "gin_param", [], "further bindings of all runs", flag_values=FLAGS
)
_DOCS_DIR = flags.DEFINE_string(
    "docs_dir",
    None,
    "also write results.md and study/ there, of these studies",
    flag_values=FLAGS,
)
_REPORT_ONLY = flags.DEFINE_bool(
    "report_only", False, "train nothing: report what is there", flag_values=FLAGS
)

_PAPER = ("table", "supp", "fig")


def main() -> int:
    """Trains what is missing, then reports; 1 if runs failed."""
    studies = _chosen(_STUDY.value)
    folder = pathlib.Path(os.path.expanduser(_MODEL_DIR.value)).absolute()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--model_dir={folder} must be a folder. It is a file.")
    folder.mkdir(parents=True, exist_ok=True)
    setting = definitions.setting(SCALES[_SCALE.value], _STEPS.value, _all_params())
    jobs = _JOBS.value or ((os.cpu_count() or 1) if _SCALE.value == "small" else 1)
    runs = Runs(folder / "runs", setting, jobs)
    seeds = range(_SEEDS.value)
    failed: Dict[Training, str] = {}
    reasons: Dict[Training, str] = {}
    lacking = _lacking()
    trainings = list(dict.fromkeys(t for study in studies for t in study.trainings))
    if lacking and trainings:
        logging.warning("Nothing is trained: %s", lacking)
        reasons = {training: lacking for training in trainings}
    elif not _REPORT_ONLY.value:
        reasons = failed = runs.train(trainings, seeds)
    sections = [
        _write(study, runs, seeds, folder, reasons, lacking) for study in studies
    ]
    if _DOCS_DIR.value:
        _write_docs(sections, pathlib.Path(os.path.expanduser(_DOCS_DIR.value)), folder)
    print(f"\nResults are in {folder}: {', '.join(s.name + '.md' for s in studies)}")
    for training, why in failed.items():
        print(f"FAILED {training.name}: {why}", file=sys.stderr)
    return 1 if failed else 0


def _chosen(names: Sequence[str]) -> List[Study]:
    scale = SCALES[_SCALE.value]
    studies = definitions.define(scale._replace(steps=_STEPS.value or scale.steps))
    if list(names) == ["all"]:
        return list(studies.values())
    unknown = [name for name in names if name not in studies]
    if unknown or not names:
        raise UserError(
            f"--study: there is no study {', '.join(map(repr, unknown)) or repr('')}. "
            f"There are: all, {', '.join(studies)}."
        )
    return [studies[name] for name in dict.fromkeys(names)]


def _all_params() -> List[str]:
    params = []
    if _DATA.value == "taskonomy":
        params.append(f"taskonomy_dir = {_path(_TASKONOMY_DIR.value)!r}")
    elif _SCALE.value == "full":
        params.append("taskonomy_dir = None")
    if _TEACHERS_DIR.value is not None:
        params.append(f"teachers_dir = {_path(_TEACHERS_DIR.value)!r}")
    return [*params, *_GIN_PARAM.value]


def _path(value: Optional[str]) -> Optional[str]:
    # Runs are trained from the repository's root, wherever this is called.
    return value and os.path.abspath(os.path.expanduser(value))


def _lacking() -> Optional[str]:
    """What there must be before anything can be trained; None if it is there."""
    if _DATA.value == "rooms" and _TASKONOMY_DIR.value is not None:
        raise UserError("--taskonomy_dir is read with --data=taskonomy only.")
    if _DATA.value == "taskonomy":
        folder = _path(_TASKONOMY_DIR.value)
        if not folder or not os.path.isdir(folder):
            return f"needs a Taskonomy folder; --taskonomy_dir names {folder or 'none'}"
    teachers = _path(_TEACHERS_DIR.value)
    if teachers and not os.path.isdir(teachers):
        return f"needs teachers; --teachers_dir names {teachers}, which is no folder"
    if _SCALE.value == "full" and not teachers:
        return (
            "needs Taskonomy's networks, converted to <task>.npz (docs/teachers.md); "
            "name their folder with --teachers_dir"
        )
    return None


def _write(
    study: Study,
    runs: Runs,
    seeds: Sequence[int],
    folder: pathlib.Path,
    reasons: Mapping[Training, str],
    lacking: Optional[str],
) -> reports.Section:
    """Writes a study's files; returns what a page says of it."""
    from tools.studies import figures

    tables = results.collect(study, runs, seeds, reasons)
    missing = [lacking] if lacking and study.trainings else []
    pictures: Dict[str, str] = {}
    for number, table in enumerate(tables):
        if any(row.steps for row in table.rows):
            name = study.name + (f"_{number + 1}" if len(tables) > 1 else "")
            figures.draw_table(table, folder / f"{name}.png")
            pictures[f"{name}.png"] = f"{table.title}: means, 95 % intervals, seeds"
    for row in study.panels:
        name, source = _panel(study, row, runs)
        if source is None:
            missing.append(f"{row.title}: {reasons.get(row.trainings[0], 'no run')}")
            continue
        shutil.copyfile(source, folder / name)
        pictures[name] = f"{row.title}: images, teachers, student, truth, errors"
    curves = {
        row.title: _metrics(row.trainings[0], runs, seeds) for row in study.curves
    }
    curves = {title: files for title, files in curves.items() if files}
    if curves:
        name = f"{study.name}_curves.png"
        figures.draw_curves(curves, folder / name)
        pictures[name] = "losses and task weights over steps, all seeds"
    measured = _measure(study, folder)
    for name, path in measured.pictures.items():
        shutil.copyfile(path, folder / f"{study.name}_{name}.png")
        pictures[f"{study.name}_{name}.png"] = name
    section = reports.Section(
        study, _command(study), tables, measured.blocks, pictures, missing
    )
    text = reports.page(study.title, [reports.LEGEND], [reports.section(section)])
    write_text(folder / f"{study.name}.md", text)
    content = {
        "study": study.name,
        "command": _command(study),
        "hardware": hardware(),
        "seeds": list(seeds),
        "steps": runs.setting.steps,
        "tables": results.as_json(tables),
        "measured": measured.data,
        "missing": missing,
    }
    write_json(folder / f"{study.name}.json", content)
    logging.info("Wrote %s.md, %s.json.", study.name, study.name)
    return section


def _measure(study: Study, folder: pathlib.Path) -> further.Further:
    if study.command == "parameters":
        return further.parameters()
    if study.command == "inference":
        return further.inference(_SCALE.value, folder)
    if study.command == "similarity":
        return further.similarity(
            _path(_TASKONOMY_DIR.value), _path(_TEACHERS_DIR.value), folder
        )
    return further.Further([])


def _panel(study: Study, row: Any, runs: Runs) -> Tuple[str, Optional[pathlib.Path]]:
    name = f"{study.name}_{row.title.replace(' ', '_').replace(',', '')}.png"
    panels = sorted((runs.folder_of(row.trainings[0], 0) / "panels").glob("step_*.png"))
    done = panels and runs.outcome(row.trainings[0], 0)
    return name, panels[-1] if done else None


def _metrics(
    training: Training, runs: Runs, seeds: Sequence[int]
) -> List[pathlib.Path]:
    done = [seed for seed in seeds if runs.outcome(training, seed)]
    return [runs.folder_of(training, seed) / "metrics.csv" for seed in done]


def _command(study: Study) -> str:
    """The command of a study, without what concerns this machine only."""
    words = ["python tools/reproduce.py", f"--study={study.name}"]
    words.append(f"--seeds={_SEEDS.value}")
    if _SCALE.value != "small":
        words.append(f"--scale={_SCALE.value}")
    if _DATA.value != "rooms":
        words += [f"--data={_DATA.value}", "--taskonomy_dir=data/taskonomy"]
    if _STEPS.value:
        words.append(f"--steps={_STEPS.value}")
    words += [f'--gin_param="{param}"' for param in _GIN_PARAM.value]
    return " ".join([*words, "--model_dir=runs/study"])


def _write_docs(
    sections: Sequence[reports.Section], docs: pathlib.Path, folder: pathlib.Path
) -> None:
    """Writes results.md, and a page of each open question, with their pictures."""
    pictures = docs / "study"
    pictures.mkdir(parents=True, exist_ok=True)
    questions, paper = [], []
    for section in sections:
        for name in section.pictures:
            shutil.copyfile(folder / name, pictures / name)
        if section.study.name.startswith(_PAPER):
            paper.append(section)
        else:
            questions.append(section)
    for section in questions:
        lead = ["Generated by the command below. " + reports.LEGEND]
        text = reports.page(section.study.title, lead, [reports.section(section)])
        write_text(pictures / f"{section.study.name}.md", text)
    moved = [
        section.write_text(
            pictures={f"study/{name}": t for name, t in section.pictures.items()}
        )
        for section in paper
    ]
    page = reports.results_page(moved, questions, _total(folder / "runs"))
    write_text(docs / "results.md", page)


def _total(folder: pathlib.Path) -> Dict[str, Any]:
    """The machine and all that was spent on it."""
    spent = [record for record in map(read_json, folder.rglob(RUN_RECORD)) if record]
    seconds = sum(record["cpu_seconds"] or 0.0 for record in spent)
    return {**hardware(), "hours": seconds / 3600, "runs": len(spent)}


if __name__ == "__main__":
    cli.run(main, FLAGS)
