r"""Repeats the paper's tables and figures, with seeds and 95 % intervals.

Example (the paper's ablation, Table 5, small and with one seed; minutes on two cores):

    python tools/reproduce.py --study=table5 --seeds=1 --scale=small

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
import shlex
import shutil
import sys
from typing import Any, Dict, List, Mapping, Optional, Sequence, Set, Tuple

from absl import flags, logging

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from soka_tf import cli  # noqa: E402 (tools/ is no installed package)
from soka_tf.data.files import is_remote  # noqa: E402
from soka_tf.disk import replacing, write_json, write_text  # noqa: E402
from soka_tf.errors import UserError  # noqa: E402
from soka_tf.runs.config import read_gin  # noqa: E402
from tools.studies import definitions, further, results  # noqa: E402
from tools.studies import report as reports  # noqa: E402
from tools.studies.definitions import Row, Scale, Study  # noqa: E402
from tools.studies.training import Runs, Setting, Training  # noqa: E402

SCALES = {
    "small": Scale(
        files=("gin/rooms/study.gin",),
        steps=500,
        single_student=(
            "Encoder.units = (1, 1, 1, 1)",
            "Encoder.width = 0.085",
        ),
        ours="soka",
        rates=("0.01", "0.001"),
    ),
    "full": Scale(
        files=("gin/paper/common.gin",),
        steps=600_000,
        single_student=(),
        ours="soka_gan",
        rates=("0.001", "0.0001"),
    ),
}
STUDIES = tuple(definitions.define(SCALES["small"]))

FLAGS = flags.FlagValues()
_STUDY = flags.DEFINE_multi_string(
    "study",
    None,
    "what to repeat, repeatable or separated by commas: all, " + ", ".join(STUDIES),
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
    "model_dir", "runs/study", "folder of runs and results", flag_values=FLAGS
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
    "folder of <task>.safetensors; the shipped teachers for --scale=small unless told",
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
    "also write results.md and study/ there; with --study=all",
    flag_values=FLAGS,
)
_REPORT_ONLY = flags.DEFINE_bool(
    "report_only", False, "train nothing: report what is there", flag_values=FLAGS
)


def main() -> int:
    """Trains what is missing, then reports; 1 if anything failed."""
    studies = _chosen([name for text in _STUDY.value for name in text.split(",")])
    folder, docs = _folder("model_dir", _MODEL_DIR), _folder("docs_dir", _DOCS_DIR)
    if docs is not None and len(studies) < len(STUDIES):
        raise UserError(
            "--docs_dir writes one page of all studies. Give --study=all, with "
            "--report_only for what is there."
        )
    if docs is not None and folder in (docs, docs / reports.PAGES):
        raise UserError(
            f"--docs_dir={_DOCS_DIR.value} and --model_dir={_MODEL_DIR.value}: what is "
            "shown must lie elsewhere than the runs. Name another folder for one."
        )
    setting = definitions.setting(SCALES[_SCALE.value], _STEPS.value, _all_params())
    _check_params(studies, setting)
    lacking = _lacking()
    _make("model_dir", folder)
    if docs is not None:  # hours before anything is written there
        _make("docs_dir", docs / reports.PAGES)
    jobs = _JOBS.value or ((os.cpu_count() or 1) if _SCALE.value == "small" else 1)
    runs = Runs(folder / "runs", setting, jobs, None if lacking else _teachers())
    wanted = {
        t: _why_not(study, lacking) or _without_teachers(t, runs)
        for study in studies
        for t in study.trainings
    }
    reasons = {training: why for training, why in wanted.items() if why}
    failed: Dict[str, str] = {}
    if lacking and wanted:
        logging.warning("Nothing is trained: it %s.", lacking)
    if not _REPORT_ONLY.value:
        trained = runs.train([t for t in wanted if t not in reasons], _seeds())
        reasons.update(trained)
        failed.update((training.name, why) for training, why in trained.items())
    sections = []
    for study in studies:
        try:
            section, failure = _write(study, runs, folder, reasons, lacking)
            sections.append(section)
        except UserError as error:  # of this study's runs: the others have theirs
            failure = str(error)
        if failure:
            failed[study.name] = failure
    total = _total(studies, runs) if len(sections) == len(studies) else None
    if docs is not None and total and total["runs"]:
        _write_docs(sections, docs, folder, total)
    elif docs is not None:
        why = "there are no runs" if total else "a study failed"
        failed["--docs_dir"] = f"nothing was written there, for {why}."
    print(f"\nResults are in {folder}: {', '.join(s.name + '.md' for s in studies)}")
    for name, why in failed.items():
        print(f"FAILED {name}: {why}", file=sys.stderr)
    return 1 if failed else 0


def _folder(name: str, flag: Any) -> Optional[pathlib.Path]:
    """The folder that a flag names; None if it names none."""
    if flag.value is None:
        return None
    if not flag.value:
        raise UserError(f"--{name}= must name a folder. It is empty.")
    return pathlib.Path(os.path.expanduser(flag.value)).absolute()


def _make(name: str, folder: pathlib.Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--{name}: {folder} cannot be made, or is no folder ({error.strerror})."
        ) from error


def _seeds() -> Sequence[int]:
    return range(_SEEDS.value)


def _chosen(names: Sequence[str]) -> List[Study]:
    scale = SCALES[_SCALE.value]
    studies = definitions.define(scale._replace(steps=_STEPS.value or scale.steps))
    if "all" in names:
        return list(studies.values())
    unknown = [name for name in names if name not in studies]
    if unknown:
        raise UserError(
            f"--study: there is no study {', '.join(map(repr, unknown))}. There are: "
            f"all, {', '.join(studies)}."
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
    return [*params, *map(str.strip, _GIN_PARAM.value)]


def _check_params(studies: Sequence[Study], setting: Setting) -> None:
    """Refuses bindings that would make the rows of a study alike."""
    own = {"tasks", "max_steps", "seed", "run.tasks", "run.max_steps", "run.seed"}
    for study in studies:
        for training in study.trainings:
            own |= set(map(_short, setting.names_of(training)))
    given = [_name_of(param) for param in _GIN_PARAM.value]
    taken = [name for name in given if _short(name) in own]
    if taken:
        raise UserError(
            f"--gin_param: {', '.join(taken)} is bound by the chosen studies "
            "themselves (--steps and --seeds set length and seeds). Others are free."
        )


def _name_of(param: str) -> str:
    """The name that a binding binds."""
    try:
        names = list(read_gin((), [param]))
    except UserError as error:
        raise UserError(f"--gin_param must be 'name = value'. {error}.") from error
    if len(names) != 1:
        raise UserError(f"--gin_param must be 'name = value'. Received: {param!r}.")
    (name,) = names
    flag = name.split(".")[-1]
    if flag in ("teachers_dir", "taskonomy_dir"):
        raise UserError(f"--gin_param: {param!r} would not be seen. Give --{flag}.")
    return name


def _short(name: str) -> str:
    """A binding's name as our gin files have it, without module."""
    return ".".join(name.split(".")[-2:])


def _teachers() -> pathlib.Path:
    from soka_tf.teachers.pool import teachers_folder  # with it comes TensorFlow

    return teachers_folder(_path(_TEACHERS_DIR.value))


def _path(value: Optional[str]) -> Optional[str]:
    # A run's folder follows its bindings: the same however the path was given.
    if not value or is_remote(value):
        return value
    return os.path.abspath(os.path.expanduser(value))


def _lacking() -> Optional[str]:
    """What there must be before anything can be trained; None if it is there.

    Raises:
      UserError: if a flag names what is not there.
    """
    if _DATA.value == "rooms" and _TASKONOMY_DIR.value is not None:
        raise UserError("--taskonomy_dir is read with --data=taskonomy only.")
    for flag in (_TASKONOMY_DIR, _TEACHERS_DIR):
        if flag.value is not None and not _is_folder(_path(flag.value)):
            raise UserError(
                f"--{flag.name}={flag.value}: there is no such folder. Name one, or "
                "leave the flag out."
            )
    if _DATA.value == "taskonomy" and _TASKONOMY_DIR.value is None:
        return "needs a Taskonomy folder; name it with --taskonomy_dir"
    if _SCALE.value == "full" and _TEACHERS_DIR.value is None:
        return (
            "needs Taskonomy's networks, converted to <task>.safetensors "
            "(docs/teachers.md); name their folder with --teachers_dir"
        )
    return None


def _is_folder(path: str) -> bool:
    if not is_remote(path):
        return os.path.isdir(path)
    import tensorflow as tf

    return tf.io.gfile.isdir(path)


def _without_teachers(training: Training, runs: Runs) -> Optional[str]:
    """Which teachers a run lacks, in words; None if all are there."""
    folder = runs.teachers_dir
    absent = [
        task
        for task in runs.setting.teachers_of(training)
        if folder is not None and not (folder / f"{task}.safetensors").is_file()
    ]
    if not absent:
        return None
    return f"needs teachers of {', '.join(absent)} in --teachers_dir"


def _why_not(study: Study, lacking: Optional[str]) -> Optional[str]:
    """Why a study's runs are not trained; None if they are."""
    if study.small_only and _SCALE.value != "small":
        return "needs --scale=small: it compares that scale's own settings"
    return lacking


def _write(
    study: Study,
    runs: Runs,
    folder: pathlib.Path,
    reasons: Mapping[Training, str],
    lacking: Optional[str],
) -> Tuple[reports.Section, Optional[str]]:
    """Writes a study's files; returns what a page says of it, and what failed."""
    tables = results.collect(study, runs, _seeds(), reasons)
    why_not = _why_not(study, lacking) if study.trainings else None
    missing = [why_not] if why_not else []
    pictures = _draw_tables(study, tables, folder)
    for draw in (_copy_panels, _draw_curves):
        drawn, absent = draw(study, runs, folder, reasons)
        pictures.update(drawn)
        missing += absent
    measured, failure = further.Further([]), None
    try:
        measured = _measure(study, runs, folder, lacking)
    except UserError as error:
        failure = str(error)
        missing.append(results.clause(failure))
    if study.command and not measured.blocks and not failure:
        nothing = "with --report_only nothing is measured"
        missing.append(lacking or (nothing if _REPORT_ONLY.value else "nothing there"))
    for name, path in measured.pictures.items():
        _copy(path, folder / f"{study.name}_{name}.png")
        pictures[f"{study.name}_{name}.png"] = name
    section = reports.Section(
        study, _command(study.name), tables, measured.blocks, pictures, missing
    )
    lead = [reports.LEGEND] if tables else []
    write_text(
        folder / f"{study.name}.md",
        reports.page(study.title, lead, [reports.section(section)]),
    )
    content = {
        "study": study.name,
        "command": _command(study.name),
        "seeds": list(_seeds()),
        "steps": runs.setting.steps,
        "tables": results.as_json(tables),
        "measured": measured.data,
        "missing": missing,
    }
    write_json(folder / f"{study.name}.json", content)
    logging.info("Wrote %s.md, %s.json.", study.name, study.name)
    return section, failure


def _draw_tables(
    study: Study, tables: Sequence[results.ResultTable], folder: pathlib.Path
) -> Dict[str, str]:
    """Draws the tables that have runs; returns file -> what it shows."""
    from tools.studies import figures

    pictures = {}
    for number, table in enumerate(tables):
        if any(row.steps for row in table.rows):
            name = study.name + (f"_{number + 1}" if len(tables) > 1 else "") + ".png"
            figures.draw_table(table, folder / name)
            pictures[name] = f"{table.title}: means, 95 % intervals, seeds"
    return pictures


def _copy_panels(
    study: Study, runs: Runs, folder: pathlib.Path, reasons: Mapping[Training, str]
) -> Tuple[Dict[str, str], List[str]]:
    """Copies seed 0's panels; returns file -> what it shows, and what is missing."""
    pictures, missing = {}, []
    for row in study.panels:
        (training,) = row.trainings
        found = sorted((runs.folder_of(training, 0) / "panels").glob("step_*.png"))
        if not (found and runs.outcome(training, 0)):
            why = results.clause(reasons.get(training, "no run of seed 0"))
            missing.append(f"{row.title}: {why}")
            continue
        name = _panel_name(study, row)
        _copy(found[-1], folder / name)
        pictures[name] = f"{row.title}: images, teachers, student, truth, errors"
    return pictures, missing


def _panel_name(study: Study, row: Row) -> str:
    return f"{study.name}_{row.title.replace(' ', '_').replace(',', '')}.png"


def _draw_curves(
    study: Study, runs: Runs, folder: pathlib.Path, reasons: Mapping[Training, str]
) -> Tuple[Dict[str, str], List[str]]:
    """Draws losses and weights; returns file -> what it shows, and what is missing."""
    from tools.studies import figures

    curves, missing = {}, []
    for row in study.curves:
        (training,) = row.trainings
        done = [seed for seed in _seeds() if runs.outcome(training, seed)]
        files = [runs.folder_of(training, seed) / "metrics.csv" for seed in done]
        if files:
            curves[row.title] = files
        else:
            why = results.clause(reasons.get(training, "no run"))
            missing.append(f"{row.title}: {why}")
    if not curves:
        return {}, missing
    figures.draw_curves(curves, folder / _curves_name(study))
    return {
        _curves_name(study): "losses and task weights over steps, all seeds"
    }, missing


def _curves_name(study: Study) -> str:
    return f"{study.name}_curves.png"


def _copy(source: pathlib.Path, target: pathlib.Path) -> None:
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)


def _measure(
    study: Study, runs: Runs, folder: pathlib.Path, lacking: Optional[str]
) -> further.Further:
    """What a study measures beside its runs; nothing where it cannot or must not."""
    if study.command == "parameters":
        return further.parameters()
    only_read = _REPORT_ONLY.value
    if study.command == "inference":
        return further.inference(_SCALE.value, folder, only_read)
    if study.command == "unseen" and _DATA.value == "rooms" and not lacking:
        return further.unseen(study.tables[0].rows, runs, _seeds(), only_read)
    if study.command == "similarity" and not lacking:
        images, teachers = _path(_TASKONOMY_DIR.value), _path(_TEACHERS_DIR.value)
        return further.similarity(images, teachers, folder, only_read)
    return further.Further([])


def _command(study: str) -> str:
    """The command of a study, with names in place of this machine's folders."""
    words = ["python tools/reproduce.py", f"--study={study}"]
    words.append(f"--seeds={_SEEDS.value}")
    if _SCALE.value != "small":
        words.append(f"--scale={_SCALE.value}")
    if _DATA.value != "rooms":
        words += [f"--data={_DATA.value}", "--taskonomy_dir=data/taskonomy"]
    if _TEACHERS_DIR.value is not None:
        words.append("--teachers_dir=data/taskonomy_teachers")
    if _STEPS.value:
        words.append(f"--steps={_STEPS.value}")
    words += [f"--gin_param={shlex.quote(param)}" for param in _GIN_PARAM.value]
    return " ".join([*words, "--model_dir=runs/study"])


def _write_docs(
    sections: Sequence[reports.Section],
    docs: pathlib.Path,
    folder: pathlib.Path,
    total: Mapping[str, Any],
) -> None:
    """Writes results.md, and a page of each question that has runs, with pictures."""
    pictures = docs / reports.PAGES
    paper, questions, unasked = [], [], []
    for section in sections:
        if section.study.small_only:
            (questions if _has_runs(section) else unasked).append(section)
        else:
            moved = {
                f"{reports.PAGES}/{name}": text
                for name, text in section.pictures.items()
            }
            paper.append(section._replace(pictures=moved))
    for section in [*paper, *questions]:
        for name in section.pictures:
            name = pathlib.PurePath(name).name
            _copy(folder / name, pictures / name)
    for section in unasked:  # what an earlier call wrote of other runs
        (pictures / f"{section.study.name}.md").unlink(missing_ok=True)
    shown = {pathlib.PurePath(n).name for s in [*paper, *questions] for n in s.pictures}
    for section in sections:
        for name in _picture_names(section.study) - shown:
            (pictures / name).unlink(missing_ok=True)
    for section in questions:
        lead = [f"Generated by the command below. {reports.LEGEND}"]
        text = reports.page(section.study.title, lead, [reports.section(section)])
        write_text(pictures / f"{section.study.name}.md", text)
    command = _command("all") + " --docs_dir=docs"
    command += " --report_only" * _REPORT_ONLY.value
    page = reports.results_page(paper, questions, unasked, command, total)
    write_text(docs / "results.md", page)


def _picture_names(study: Study) -> Set[str]:
    """The pictures that a study may have, and no others."""
    names = {f"{study.name}.png", _curves_name(study), f"{study.name}_similarity.png"}
    names |= {f"{study.name}_{number + 1}.png" for number in range(len(study.tables))}
    return names | {_panel_name(study, row) for row in study.panels}


def _has_runs(section: reports.Section) -> bool:
    rows = [row for table in section.tables for row in table.rows]
    # What all questions share, the method as it is, answers none of them.
    return sum(row.steps is not None for row in rows) > 1


def _total(studies: Sequence[Study], runs: Runs) -> Dict[str, Any]:
    """The machines of all runs that are reported, and what was spent on them."""
    machines, seconds, count, unknown = set(), 0.0, 0, 0
    for training in {t for study in studies for t in study.trainings}:
        for seed in _seeds():
            outcome = runs.outcome(training, seed)
            if outcome:
                count += 1
                machines.add(f"{outcome.cores} cores of {outcome.processor}")
                seconds += outcome.cpu_seconds or 0.0
                unknown += outcome.cpu_seconds is None
    return {
        "machines": sorted(machines),
        "hours": seconds / 3600,
        "runs": count,
        "unknown": unknown,
    }


if __name__ == "__main__":
    cli.run(main, FLAGS, tensorflow=False)
