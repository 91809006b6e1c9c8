"""Records short runs of a checkout to the last bit, and compares two recordings.

    python tests/recorded_runs.py record INPUTS OUT [CASE ...]
    python tests/recorded_runs.py compare OUT OTHER_OUT

The working folder is the checkout whose runs are recorded; both recordings need one
Python and one machine, for kernels and processors round differently. INPUTS, made if it
is not there, holds the teachers and images of both. OUT gets CASE.npz: every variable
of the last checkpoint (weights, optimizer slots, task weights) and every column of
metrics.csv but the seconds. Only commands are used, so that nothing inside a checkout
has to stay as it was.
"""

import csv
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
from typing import Dict, List, NamedTuple, Sequence

import numpy as np

STEPS = 30
_SHORT = (
    f"max_steps = {STEPS}",
    "run.checkpoint_every_steps = 10",
    "run.export = False",
    "schedule.joint_steps = 4",
    "schedule.initial_losses_step = 2",
)
_THREE = ("tasks = ['depth_zbuffer', 'edge_texture', 'normal']",)
_ALONE = ("auxiliary = 'none'",)
_CHILD = pathlib.Path(__file__).resolve().parent / "faults" / "child.py"


class Case(NamedTuple):
    """A run: bindings, the file of its method, and what befalls it."""

    params: Sequence[str] = ()
    file: str = ""
    killed_at: int = 0


CASES = {
    "joint": Case((f"schedule.joint_steps = {STEPS}",)),
    "cycle": Case(),
    "cycle_alone": Case(_ALONE),
    "cycle_three": Case(_THREE),
    "cycle_three_alone": Case(_THREE + _ALONE),
    "cycle_gan": Case(("Adversary.start_step = 12",), "soka_gan"),
    "cycle_settling": Case(("schedule.settle_share = 0.4",)),
    "cycle_new_batch": Case(("schedule.new_batch_in_collaboration = True",)),
    "kd": Case((), "kd"),
    "kd_mia": Case((), "kd_mia"),
    "labels": Case(("LABELS",), "dmtl_gradnorm"),
    "resumed": Case(killed_at=17),
    "two_replicas": Case(("build_strategy.logical_cpus = 2",)),
}


def record(inputs: pathlib.Path, out: pathlib.Path, names: Sequence[str]) -> None:
    """Trains the cases in the checkout at the working folder."""
    out.mkdir(parents=True, exist_ok=True)
    for name in names or CASES:
        arrays = _train(inputs, CASES[name])
        np.savez(out / f"{name}.npz", **arrays)
        print(f"{name}: {len(arrays)} arrays", flush=True)


def compare(one: pathlib.Path, other: pathlib.Path) -> int:
    """Prints what differs, case by case; returns how many cases do, 1 without any."""
    recorded = sorted(one.glob("*.npz"))
    if not recorded:
        print(f"nothing is recorded in {one}")
        return 1
    different = 0
    for path in recorded:
        if not (other / path.name).exists():
            print(f"{path.stem}: not recorded in {other}")
            different += 1
            continue
        with np.load(path) as first, np.load(other / path.name) as second:
            names = sorted(set(first) ^ set(second))
            names += [
                n
                for n in sorted(set(first) & set(second))
                if first[n].tobytes() != second[n].tobytes()
            ]
            same = f"the same bits in {len(first.files)} arrays"
        print(f"{path.stem}: {'differs in ' + ', '.join(names[:5]) if names else same}")
        different += bool(names)
    return different


def _train(inputs: pathlib.Path, case: Case) -> Dict[str, np.ndarray]:
    with tempfile.TemporaryDirectory() as folder:
        for killed_at in (case.killed_at, 0) if case.killed_at else (0,):
            fault = f"send:SIGKILL:{killed_at}" if killed_at else "none"
            done = subprocess.run(
                [
                    sys.executable,
                    *_arguments(inputs, case, fault),
                    f"--model_dir={folder}",
                ],
                env={**os.environ, "PYTHONPATH": os.getcwd()},
                capture_output=True,
                text=True,
            )
            wanted = -signal.SIGKILL if killed_at else 0
            if done.returncode != wanted:
                raise RuntimeError(done.stderr[-3000:])
        return results(pathlib.Path(folder))


def _arguments(inputs: pathlib.Path, case: Case, fault: str) -> List[str]:
    sys.path.insert(0, os.getcwd())
    from tests import tiny_runs

    if not inputs.exists():
        tiny_runs.write(inputs)
    tiny = tiny_runs.Tiny(inputs / "teachers", inputs / "images", inputs / "labelled")
    params = [*tiny.params(*_SHORT)]
    for param in case.params:
        params += tiny.with_labels if param == "LABELS" else [param]
    files = [
        "gin/rooms/soka.gin",
        *([f"gin/methods/{case.file}.gin"] * bool(case.file)),
    ]
    return [
        *(str(_CHILD), fault),
        *(f"--gin_file={file}" for file in files),
        *(f"--gin_param={param}" for param in params),
    ]


def results(folder: pathlib.Path) -> Dict[str, np.ndarray]:
    """What a run ended at: variables of its last checkpoint, columns of its log."""
    import tensorflow as tf

    found = (folder / "checkpoints").glob("ckpt-*.index")
    last = max(found, key=lambda path: int(path.stem.split("-")[1]))
    reader = tf.train.load_checkpoint(str(last.with_suffix("")))
    arrays = {
        name: reader.get_tensor(name)
        for name, dtype in reader.get_variable_to_dtype_map().items()
        # How often a run was saved is no result of it.
        if (dtype.is_floating or dtype.is_integer) and "save_counter" not in name
    }
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = [name for name in rows[0] if name != "seconds"]
    logs = {f"log/{name}": np.array([row[name] for row in rows]) for name in columns}
    return {**arrays, **logs}


def main(what: str, one: str, other: str, *names: str) -> int:
    """Returns the exit status."""
    folders = pathlib.Path(one).resolve(), pathlib.Path(other).resolve()
    if what == "compare":
        return int(compare(*folders) > 0)
    record(*folders, names)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
