"""What a study measures beside its tables of runs."""

import functools
import hashlib
import itertools
import os
import pathlib
import subprocess
import sys
from typing import (
    Callable,
    Dict,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
)

import numpy as np

from soka_tf.errors import UserError
from soka_tf.evaluation.curves import read_columns
from soka_tf.tasks import get_task
from tools.studies.intervals import Estimate
from tools.studies.numbers import number
from tools.studies.paper import SECONDS
from tools.studies.records import (
    INFERENCE_SHAPE,
    SIMILARITY_SHAPE,
    TASKS_SHAPE,
    read_record,
)
from tools.studies.report import markdown_table
from tools.studies.results import error_ratio
from tools.studies.study import Row, Table
from tools.studies.training import ROOT, Outcome, Runs, Training

_LOSS, _ACCURACY = "loss/discriminator/", "accuracy/discriminator/"
_COSINE, _MEAN, _BELOW = "cosine/", "mean/", "below/"
# Rooms that no teacher, no student and no choice has seen; the folder of evaluations.
_UNSEEN_SEED, _UNSEEN_ROOMS, _UNSEEN = 3, 100, "unseen"


class Further(NamedTuple):
    """Markdown and pictures of a measurement; `data` is for the JSON.

    `missing` is the reason where there is nothing.
    """

    blocks: Sequence[str]
    pictures: Mapping[str, pathlib.Path] = {}
    data: Optional[object] = None
    missing: Optional[str] = None


def parameters() -> Further:
    """Table 2: counts of the networks at full size."""
    from tools import count_parameters

    counts = count_parameters.count_networks()
    rows, data = [], []
    for row in count_parameters.ROWS:
        terms = count_parameters.checkpoint_terms(row, counts)
        ours = sum(terms.values()) / 1e6
        inference = count_parameters.inference_count(row, counts) / 1e6
        # docs/parameters.md has the readings of the paper's count.
        if row.amalgamates or not row.discriminator_statistics:
            continue
        agrees = "yes" if abs(ours - float(row.paper)) < 0.005 else "no"
        name = row.name.split(",")[0]
        rows.append([name, f"{ours:.3f}", row.paper, agrees, f"{inference:.3f}"])
        data.append({"name": name, "ours": ours, "paper": float(row.paper)})
    head = ["count, M", "ours", "paper", "agrees", "at inference"]
    return Further([markdown_table(head, rows)], data=data)


def inference(scale: str, folder: pathlib.Path, only_read: bool) -> Further:
    """Supplement, Table 3: time of one student against teachers and n students."""
    path = folder / f"inference_{scale}.json"
    if not path.is_file():
        if only_read:
            return Further([])
        _run(
            str(ROOT / "tools/benchmark.py"),
            "inference",
            f"--scale={scale}",
            f"--json={path}",
        )
    measured = read_record(path, INFERENCE_SHAPE)
    cases = {
        "KD n-to-n students": "single_students",
        "ours, n-to-1": "unfolded_student",
    }
    batches = measured["settings"]["batch_sizes"]
    rows: List[List[str]] = []
    for title, case in cases.items():
        cells = [title]
        printed = zip((2, 3), SECONDS[title], SECONDS["teachers"])
        for tasks, seconds, base in printed:
            cells.append(f"{seconds} / {base} = {seconds / base:.3f}")
            for batch in batches:
                name = f"{case}_over_teachers_{tasks}_tasks_batch_{batch}"
                cells.append(f"{measured['ratio'][name]:.3f}")
        rows.append(cells)
    head = ["time / teachers'"]
    for tasks in (2, 3):
        head += [f"{tasks} tasks: paper", *(f"ours, batch {b}" for b in batches)]
    return Further([markdown_table(head, rows)], data=measured)


def similarity(
    images: Optional[str],
    teachers: Optional[str],
    folder: pathlib.Path,
    only_read: bool,
) -> Further:
    """The similarity matrix of all teachers that there are."""
    from soka_tf.data.filesystem import sha256_of
    from soka_tf.teachers.finding import teachers_folder

    files = sorted(teachers_folder(teachers).glob("*.safetensors"))
    facts = [f"{images}", *(f"{file.name} {sha256_of(file)}" for file in files)]
    of = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:8]
    out_dir = folder / f"similarity-{of}"
    if not (out_dir / "similarity.json").is_file():
        if only_read:
            return Further([])
        arguments = [f"--out_dir={out_dir}", "--targets=depth_zbuffer,edge_texture"]
        if images:
            arguments.append(f"--images={images}")
        if teachers:
            arguments.append(f"--teachers={teachers}")
        _run(str(ROOT / "tools/task_similarity.py"), *arguments)
    found = read_record(out_dir / "similarity.json", SIMILARITY_SHAPE)
    names = found["names"]
    rows = [
        [name, *(f"{value:.3f}" for value in values)]
        for name, values in zip(names, found["similarity"])
    ]
    choice = found["choices"][0]["explanation"]
    blocks = [
        markdown_table(["", *names], rows),
        f"On {found['images']} images. The auxiliary teacher of depth and 2D edges:",
        "\n".join(f"    {line}" for line in choice),
    ]
    return Further(blocks, {"similarity": out_dir / "similarity.png"}, found)


def discriminators(rows: Sequence[Row], runs: Runs, seeds: Sequence[int]) -> Further:
    """What the discriminators of a table's rows had learnt in the end.

    Args:
      rows: of one run each, or of none: the teachers.
      runs: where the runs are.
      seeds: of the runs.
    """
    lines, data = [], {}
    for row in rows:
        estimates = _over_seeds(row.trainings, runs, seeds, _in_the_end)
        if estimates:
            data[row.title] = {name: e._asdict() for name, e in estimates.items()}
        for task in [n[len(_LOSS) :] for n in estimates if n.startswith(_LOSS)]:
            cells = [estimates[kind + task] for kind in (_LOSS, _ACCURACY)]
            words = [row.title, get_task(task).title, *map(number, cells)]
            lines.append([*words, f"{len(cells[0].values)}"])
    if not lines:
        return Further([])
    text = (
        "The discriminators, in the last quarter of the steps they were trained for. "
        "One that tells nothing apart has a loss of 0.693 and an accuracy of 0.5, and "
        "says nothing to the student: such a row says nothing of the term's effect."
    )
    head = ["", "discriminator of", "its loss", "its accuracy", "seeds"]
    return Further([text, markdown_table(head, lines)], data=data)


def _over_seeds(
    trainings: Sequence[Training],
    runs: Runs,
    seeds: Sequence[int],
    measure: Callable[[Outcome], Mapping[str, float]],
) -> Dict[str, Estimate]:
    """Name of what `measure` finds in a run -> its estimate over the seeds."""
    by_name: Dict[str, Dict[int, float]] = {}
    for training, seed in itertools.product(trainings, seeds):
        outcome = runs.outcome(training, seed)
        for name, value in measure(outcome).items() if outcome else ():
            by_name.setdefault(name, {})[seed] = value
    return {name: Estimate.of(values) for name, values in by_name.items()}


def _in_the_end(outcome: Outcome) -> Dict[str, float]:
    """Column of a run's discriminators -> its mean over their last quarter of steps."""
    return {
        name: float(values[len(values) * 3 // 4 :].mean())
        for name, values in _columns(outcome).items()
        if name.startswith((_LOSS, _ACCURACY))
    }


def _angles(outcome: Outcome) -> Dict[str, float]:
    """Mean of each cosine, and share below 0, over the second half of the steps."""
    found = {}
    for name, values in _columns(outcome).items():
        if name.startswith(_COSINE):
            pair, half = name[len(_COSINE) :], values[len(values) // 2 :]
            found[_MEAN + pair] = float(half.mean())
            found[_BELOW + pair] = float((half < 0).mean())
    return found


def _columns(outcome: Outcome) -> Dict[str, np.ndarray]:
    """Column of a run's metrics.csv -> its values, step after step."""
    from soka_tf.runs.run_evaluation import METRICS_FILE  # with it comes TensorFlow

    columns, _ = read_columns(str(outcome.folder / METRICS_FILE))
    return {name: values for name, (_, values) in columns.items()}


def conflict(tables: Sequence[Table], runs: Runs, seeds: Sequence[int]) -> Further:
    """The angles between the tasks' pulls, in the first row of runs of every table.

    Args:
      tables: of regimes, each with one rule's runs in the first row that has any.
      runs: where the runs are.
      seeds: of the runs.
    """
    lines, data = [], {}
    for table in tables:
        trainings = next(row.trainings for row in table.rows if row.trainings)
        estimates = _over_seeds(trainings, runs, seeds, _angles)
        for pair in [n[len(_MEAN) :] for n in estimates if n.startswith(_MEAN)]:
            tasks = pair.split(":")
            if not set(tasks) <= set(table.tasks):  # the pull of L_A
                continue
            mean, below = (estimates[kind + pair] for kind in (_MEAN, _BELOW))
            data[f"{table.title}: {pair}"] = {
                "mean": mean._asdict(),
                "below": below._asdict(),
            }
            titles = ", ".join(get_task(task).title for task in tasks)
            cells = [number(mean), number(below), f"{len(mean.values)}"]
            lines.append([table.title, titles, *cells])
    if not lines:
        return Further([])
    text = (
        "Cosines of the angles between the tasks' pulls at the representation, every "
        "25 steps of the second half of the runs with weights of 1 / n: below 0 two "
        "tasks pull against each other, near 0 neither minds the other."
    )
    head = ["", "pulls of", "mean cosine", "share below 0", "seeds"]
    return Further([text, markdown_table(head, lines)], data=data)


def unseen(
    rows: Sequence[Row], runs: Runs, seeds: Sequence[int], only_read: bool
) -> Further:
    """The students of a table's rows on drawn rooms that no choice was made on.

    Args:
      rows: of one run each, or of none: the teachers.
      runs: where the runs are; each keeps its answers in its folder `_UNSEEN`.
      seeds: of the runs.
      only_read: whether nothing is measured.
    """
    lines, data = [], {}
    head = ["on unseen rooms"]
    measure = functools.partial(_on_unseen_rooms, only_read=only_read)
    for row in rows:
        estimates = _over_seeds(row.trainings, runs, seeds, measure)
        if estimates:
            head[1:] = [f"{get_task(t).title}: rmse / teacher's" for t in estimates]
            data[row.title] = {task: e._asdict() for task, e in estimates.items()}
            count = f"{max(len(e.values) for e in estimates.values())}"
            lines.append([row.title, *map(number, estimates.values()), count])
    if not lines:
        return Further([])
    table = markdown_table([*head, "seeds"], lines)
    text = (
        "What was tried was tried on the images of the tables above. On "
        f"{_UNSEEN_ROOMS} other rooms, of `rooms.validation_seed = {_UNSEEN_SEED}`:"
    )
    return Further([text, table], data=data)


def _on_unseen_rooms(outcome: Outcome, only_read: bool) -> Dict[str, float]:
    """Task -> rmse over the teacher's, where the student's answers are finite."""
    run, out_dir = outcome.folder, outcome.folder / _UNSEEN
    if not (out_dir / "evaluation.json").is_file() and not only_read:
        params = (
            f"rooms.validation_seed = {_UNSEEN_SEED}",
            f"rooms.validation_count = {_UNSEEN_ROOMS}",
        )
        _run(
            *("-m", "soka_tf.evaluate"),
            f"--model_dir={run}",
            f"--out_dir={out_dir}",
            *(f"--gin_param={param}" for param in params),
        )
    found = read_record(out_dir / "evaluation.json", TASKS_SHAPE)
    ratios = {
        task: error_ratio(entries["student"], entries["teacher"])
        for task, entries in (found["tasks"].items() if found else ())
    }
    return {task: ratio for task, ratio in ratios.items() if ratio is not None}


def _run(*arguments: str) -> None:
    command = [sys.executable, *arguments]
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    status = subprocess.run(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,  # the pages have its content
        check=False,
    ).returncode
    if status:
        words = " ".join(arguments[:2])
        raise UserError(f"{words} ended with status {status}; its message is above.")
