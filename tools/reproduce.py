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

Methods against each other by docs/study/protocol.md, as far as 1.5 hours go (what was
recorded before is not trained again; --portion=final opens the test rooms):

    python tools/reproduce.py --study=comparison --hours=1.5 --model_dir=runs/study

It trains what is missing, each run in a process of its own, and shares runs between
studies; called again, it goes on where it was stopped. Every study leaves
<study>.json, <study>.md and pictures in --model_dir; the runs are in its folder runs/.
Its tasks are the paper's: students of others, and of tasks of your own, are trained by
python -m soka_tf.train.
"""

import functools
import os
import pathlib
import shlex
import sys
from typing import Any, Dict, List, Optional, Sequence

from absl import flags, logging

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from soka_tf import cli
from soka_tf.data.filesystem import is_remote
from soka_tf.errors import UserError
from tools.studies import definitions, documents, further, gin_params, pages
from tools.studies.comparison import command as comparison
from tools.studies.comparison.protocol import PORTIONS
from tools.studies.methods import SCALES
from tools.studies.study import Study
from tools.studies.training import Runs, Setting, Training

STUDIES = tuple(definitions.define(SCALES["small"]))

FLAGS = flags.FlagValues()
_STUDY = flags.DEFINE_multi_string(
    "study",
    None,
    "what to repeat, repeatable or separated by commas: all, "
    + ", ".join(STUDIES)
    + f"; or {comparison.NAME}, by itself",
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
    "folder of <task>.safetensors; by default, at --scale=small, the shipped teachers",
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
    "steps", None, "of a run; by default the scale's", lower_bound=1, flag_values=FLAGS
)
_GIN_PARAM = flags.DEFINE_multi_string(
    "gin_param", [], "further bindings of all runs", flag_values=FLAGS
)
_DOCS_DIR = flags.DEFINE_string(
    "docs_dir",
    None,
    "also write results.md and study/ there; of the paper's tables all or none",
    flag_values=FLAGS,
)
_REPORT_ONLY = flags.DEFINE_bool(
    "report_only", False, "train nothing: report what is there", flag_values=FLAGS
)


_PORTION = flags.DEFINE_enum(
    "portion",
    None,
    list(PORTIONS),
    f"of --study={comparison.NAME}: by default tune; final opens the test rooms",
    flag_values=FLAGS,
)
_RECORDS_DIR = flags.DEFINE_string(
    "records_dir",
    "docs/study/records",
    f"folder of the records of --study={comparison.NAME}, to be committed; its page is "
    "written beside it, and its answer into the results.md of the folder above",
    flag_values=FLAGS,
)
_HOURS = flags.DEFINE_float(
    "hours",
    None,
    f"of --study={comparison.NAME}: no run is begun that may take longer than that",
    lower_bound=0.0,
    flag_values=FLAGS,
)


def main() -> int:
    """Trains what is missing, then reports; 1 if anything failed."""
    names = [name for text in _STUDY.value for name in text.split(",")]
    if comparison.NAME in names:
        return _compare(names)
    if _PORTION.value or _HOURS.value is not None:
        raise UserError(f"--portion and --hours are of --study={comparison.NAME} only.")
    studies = _chosen(names)
    folder, docs = _folder("model_dir", _MODEL_DIR), _folder("docs_dir", _DOCS_DIR)
    _check_docs(studies, folder, docs)
    setting = definitions.setting(SCALES[_SCALE.value], _STEPS.value, _all_params())
    gin_params.check(_GIN_PARAM.value, studies, setting)
    lacking = _lacking()
    _make("model_dir", folder)
    if docs is not None:  # before hours of training
        _make("docs_dir", docs / documents.PAGES)
    jobs = _JOBS.value or ((os.cpu_count() or 1) if _SCALE.value == "small" else 1)
    runs = Runs(folder / "runs", setting, jobs, None if lacking else _teachers())
    wanted = {
        t: _why_not(lacking, study) or _without_teachers(t, runs)
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
    reporter = pages.Reporter(
        runs,
        _seeds(),
        folder,
        _command,
        functools.partial(_why_not, lacking),
        reasons,
        functools.partial(_measure, runs, folder, lacking),
    )
    failed.update(_report(studies, reporter, docs))
    print(f"\nResults are in {folder}: {', '.join(s.name + '.md' for s in studies)}")
    for name, why in failed.items():
        print(f"FAILED {name}: {why}", file=sys.stderr)
    return 1 if failed else 0


def _compare(names: Sequence[str]) -> int:
    """The comparison: its own runs, records and page."""
    given = {"scale": _SCALE, "data": _DATA, "docs_dir": _DOCS_DIR, "seeds": _SEEDS}
    given.update(steps=_STEPS, taskonomy_dir=_TASKONOMY_DIR)
    own = {name: flag.value != flag.default for name, flag in given.items()}
    comparison.check(names, own, _GIN_PARAM.value)
    _lacking()  # refuses folders that are not there
    folder, kept = (
        _folder("model_dir", _MODEL_DIR),
        _folder("records_dir", _RECORDS_DIR),
    )
    for name, path in (("model_dir", folder), ("records_dir", kept)):
        _make(name, path)
    setting = Setting(comparison.PROTOCOL.files, 1, tuple(_all_params()))
    runs = Runs(
        folder / "runs", setting, _JOBS.value or os.cpu_count() or 1, _teachers()
    )
    portion = _PORTION.value or PORTIONS[0]
    limits = comparison.Limits(portion, _HOURS.value, _REPORT_ONLY.value)
    return comparison.run(runs, kept, limits)


def _report(
    studies: Sequence[Study], reporter: pages.Reporter, docs: Optional[pathlib.Path]
) -> Dict[str, str]:
    """Writes what there is; returns what failed, and why."""
    sections, failed = [], {}
    for study in studies:
        try:
            section, failure = reporter.write(study)
            sections.append(section)
        except UserError as error:  # the other studies are reported all the same
            failure = str(error)
        if failure:
            failed[study.name] = failure
    if docs is None:
        return failed
    tables = [study for study in studies if not documents.has_own_page(study)]
    command = f"{_command('all')} --docs_dir=docs"
    command += " --report_only" * _REPORT_ONLY.value
    spent = pages.spent(tables, reporter.runs, _seeds())
    why = "a study failed" if len(sections) < len(studies) else None
    if not why and not documents.write(sections, docs, reporter.folder, command, spent):
        why = "nothing is complete"
    if why:
        failed["--docs_dir"] = f"nothing was written there, for {why}."
    return failed


def _check_docs(
    studies: Sequence[Study], folder: pathlib.Path, docs: Optional[pathlib.Path]
) -> None:
    if docs is None:
        return
    tables = [study for study in studies if not documents.has_own_page(study)]
    if tables and len(studies) < len(STUDIES):
        raise UserError(
            "--docs_dir writes one page of all the paper's tables. Give --study=all, "
            "with --report_only for what is there, or figures and questions only. "
            f"Received {', '.join(study.name for study in tables)}."
        )
    results = docs / documents.RESULTS
    if results.exists() and not documents.is_results(results):
        raise UserError(
            f"--docs_dir={_DOCS_DIR.value}: its {results.name} is none that was "
            "written here, and would be replaced. Move it, or name another folder."
        )
    if folder in (docs, docs / documents.PAGES):
        raise UserError(
            f"--docs_dir={_DOCS_DIR.value} and --model_dir={_MODEL_DIR.value}: what is "
            "shown must lie elsewhere than the runs. Name another folder for one."
        )


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


def _teachers() -> pathlib.Path:
    from soka_tf.teachers.finding import teachers_folder  # with it comes TensorFlow

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
    """Names the teachers that a run lacks; None if all are there."""
    folder = runs.teachers_dir
    absent = [
        task
        for task in runs.setting.teachers_of(training)
        if folder is not None and not (folder / f"{task}.safetensors").is_file()
    ]
    if not absent:
        return None
    return f"needs teachers of {', '.join(absent)} in --teachers_dir"


def _why_not(lacking: Optional[str], study: Study) -> Optional[str]:
    """Why a study's runs are not trained; None if they are."""
    if study.small_only and _SCALE.value != "small":
        return "needs --scale=small: it compares that scale's own settings"
    return lacking


def _measure(
    runs: Runs, folder: pathlib.Path, lacking: Optional[str], study: Study
) -> further.Further:
    """Measures what a study has beside its runs; or returns why it is not measured."""
    only_read, found = _REPORT_ONLY.value, further.Further([])
    if study.command == "parameters":
        found = further.parameters()
    elif study.command == "inference":
        found = further.inference(_SCALE.value, folder, only_read)
    elif study.command == "unseen" and _DATA.value == "rooms" and not lacking:
        found = further.unseen(study.tables[0].rows, runs, _seeds(), only_read)
    elif study.command == "discriminators":
        found = further.discriminators(study.tables[0].rows, runs, _seeds())
    elif study.command == "conflict":
        found = further.conflict(study.tables, runs, _seeds())
    elif study.command == "similarity" and not lacking:
        images, teachers = _path(_TASKONOMY_DIR.value), _path(_TEACHERS_DIR.value)
        found = further.similarity(images, teachers, folder, only_read)
    if not study.command or found.blocks:
        return found
    why = "with --report_only nothing is measured" if only_read else "nothing there"
    return found._replace(missing=lacking or why)


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


if __name__ == "__main__":
    cli.run(main, FLAGS, tensorflow=False)
