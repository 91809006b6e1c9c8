"""Timing that means something on a noisy machine: rounds, ratios, medians."""

import gc
import os
import pathlib
import platform
import statistics
import time
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from soka_tf.atomic import write_json
from soka_tf.errors import UserError
from soka_tf.networks.processor import has_amx, processor_name

_GIB = 1 << 30


class Measurement(NamedTuple):
    """What one run of a benchmark has found.

    Attributes:
      seconds: case -> median seconds.
      ratio: name -> median of the rounds' quotients of two cases.
      settings: what was measured: sizes, batch, repeats.
      notes: sentences for below the table.
      peak_gib: case -> the most memory the process held while it ran; with what
        the cases before had left in place.
      tables: title -> rows (dictionaries), printed and kept in the file.
    """

    seconds: Dict[str, float]
    ratio: Dict[str, float]
    settings: Dict[str, Any]
    notes: Sequence[str] = ()
    peak_gib: Mapping[str, float] = {}
    tables: Mapping[str, Sequence[Mapping[str, Any]]] = {}


def time_cases(
    cases: Mapping[str, Callable[[], Any]], repeats: int, warm_up: int = 1
) -> "Times":
    """Runs all cases in turn, round after round: a slow minute slows all of them.

    Args:
      cases: name -> a call that ends when its work is done.
      repeats: timed rounds.
      warm_up: calls of each case before, not timed (graphs are traced there).
    """
    peaks = {}
    progress = tqdm(
        total=len(cases) * (repeats + warm_up), unit="call", leave=False, disable=None
    )
    for name, call in cases.items():
        progress.set_description(f"warm-up, {name}")
        gc.collect()
        _reset_peak()
        for _ in range(warm_up):
            call()
            progress.update()
        peaks[name] = _peak_gib()
    seconds: Dict[str, List[float]] = {name: [] for name in cases}
    for _ in range(repeats):
        for name, call in cases.items():
            progress.set_description(name)
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
            progress.update()
    progress.close()
    return Times(seconds, peaks)


class Times(NamedTuple):
    """The seconds of every call, and every case's peak memory in GiB."""

    all_seconds: Dict[str, List[float]]
    peak_gib: Dict[str, float]

    @property
    def medians(self) -> Dict[str, float]:
        """Case -> median seconds."""
        return {name: statistics.median(s) for name, s in self.all_seconds.items()}

    def over(self, case: str, other: str) -> float:
        """The median, over the rounds, of one case's seconds by another's.

        A machine that is slow for a minute is slow for both.
        """
        rounds = zip(self.all_seconds[case], self.all_seconds[other])
        return statistics.median(one / two for one, two in rounds)


def wait(outputs: Any) -> None:
    """Returns when all tensors of a nest are computed."""
    import tensorflow as tf

    for tensor in tf.nest.flatten(outputs):
        tensor.numpy()


def relative_rmse(found: np.ndarray, expected: np.ndarray) -> float:
    """The rmse of an array, in the deviation of the expected one."""
    return float(np.sqrt(np.mean((found - expected) ** 2)) / np.std(expected))


def machine() -> Dict[str, Any]:
    """What the numbers were measured on."""
    import tensorflow as tf

    return {
        "processor": processor_name(),
        "cores": len(os.sched_getaffinity(0)),
        "amx_bf16": has_amx(),
        "gpus": len(tf.config.list_physical_devices("GPU")),
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1") != "0",
    }


def report(name: str, measured: Measurement, json_path: Optional[str]) -> None:
    """Prints a measurement as tables and writes it as JSON where asked."""
    rows = [
        (case, f"{1e3 * seconds:.1f}", _number(measured.peak_gib.get(case)))
        for case, seconds in measured.seconds.items()
    ]
    if rows:
        print(tabulate(rows, ("case", "median ms", "peak GiB"), disable_numparse=True))
    if measured.ratio:
        ratios = [(key, f"{value:.3f}") for key, value in measured.ratio.items()]
        print("\n" + tabulate(ratios, ("ratio", ""), disable_numparse=True))
    for title, table in measured.tables.items():
        print(f"\n{title}\n" + tabulate(table, headers="keys", floatfmt=".4g"))
    for note in measured.notes:
        print(f"\n{note}")
    on = machine()
    settings = ", ".join(f"{k} {v}" for k, v in measured.settings.items())
    print(f"\n{name}: {settings}")
    print(", ".join(f"{k} {v}" for k, v in on.items()))
    if json_path:
        content = {
            "benchmark": name,
            "settings": measured.settings,
            "machine": on,
            "seconds": measured.seconds,
            "ratio": measured.ratio,
            "peak_gib": dict(measured.peak_gib),
            "tables": {title: list(rows) for title, rows in measured.tables.items()},
        }
        write_json(os.path.expanduser(json_path), content, indent=2)


def check_json_path(path: Optional[str]) -> None:
    """Refuses a file that could not be written, before minutes are spent.

    Raises:
      UserError: if its folder is missing or it is a folder.
    """
    if path is None:
        return
    file = pathlib.Path(os.path.expanduser(path))
    if file.is_dir() or not file.parent.is_dir():
        raise UserError(
            f"--json={path}: must be a file in a folder that exists. Name another."
        )


def _number(value: Optional[float]) -> str:
    return "" if value is None else f"{value:.2f}"


def _reset_peak() -> None:
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:  # not Linux, or not allowed: the peak is then the process's
        pass


def _peak_gib() -> float:
    try:
        status = pathlib.Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return float("nan")
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / _GIB
    return float("nan")
