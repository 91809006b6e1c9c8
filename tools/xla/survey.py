"""Times all exported programs of a folder and prints what came of it as a table."""

import concurrent.futures
import json
import os
import pathlib
import time
from typing import Any, Dict, Optional

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tools.xla.program import Program, Values

_CASES = (
    *("teachers", "student", "joint", "cycle_simultaneous", "cycle_alternating"),
    "naive",
)


def survey(folder: str, repeats: int, seconds: float, out: Optional[str]) -> None:
    """Compiles and times programs, those of 16 images first, until the time is up.

    Args:
      folder: its folders, one a network and precision, hold programs.
      repeats: timed rounds of each.
      seconds: after which nothing more is compiled or timed.
      out: file for all numbers, as JSON, written as they come; None for none.
    """
    paths = sorted(pathlib.Path(folder).rglob("*.json"))
    if not paths:
        raise SystemExit(f"{folder}: no programs; xla_step.py export writes them.")
    end = time.monotonic() + seconds
    found: Dict[str, Any] = {"peaks": _measure_peaks(), "programs": {}}
    print(json.dumps(found["peaks"]), flush=True)
    groups: Dict[tuple, Any] = {}  # programs of the same variables
    for path in paths:
        batch = int(path.stem.rpartition("_")[2])
        key = (abs(np.log2(batch / 16)), path.parent.name, batch)
        groups.setdefault(key, []).append(path)
    for key in sorted(groups):
        if time.monotonic() > end:
            print("The time is up: what follows was not run.")
            break
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            programs = list(pool.map(_try_to_compile, groups[key]))
        values: Values = {}
        for path, program in zip(groups[key], programs):
            result = _try_to_time(program, values, repeats, end)
            found["programs"][f"{path.parent.name}/{path.stem}"] = result
            print(path, json.dumps(result), flush=True)
            if out:
                pathlib.Path(out).write_text(json.dumps(found, indent=1))
    print(format_table(found))


def format_table(found: Dict[str, Any]) -> str:
    """Milliseconds a step; what follows the ratios is of the simultaneous cycle."""
    rows: Dict[tuple, Dict[str, Any]] = {}
    for name, result in found["programs"].items():
        networks, _, program = name.partition("/")
        case, _, batch = program.rpartition("_")
        rows.setdefault((networks, int(batch)), {})[case] = result
    lines = [
        ["networks", "batch", *_CASES, "simultaneous / joint", "alternating / joint"]
        + ["images a second", "share of peak", "GiB"]
    ]
    lines.append(["---"] * len(lines[0]))
    for (networks, batch), results in sorted(rows.items()):
        seconds = {case: results.get(case, {}).get("median_s") for case in _CASES}
        cells = [f"{1e3 * s:.1f}" if s else "-" for s in seconds.values()]
        joint, one = seconds["joint"], seconds["cycle_simultaneous"]
        for cycle in (one, seconds["cycle_alternating"]):
            cells.append(f"{cycle / joint:.3f}" if cycle and joint else "-")
        cells += ["-"] * 3
        if one:
            cycle = results["cycle_simultaneous"]
            peak = found["peaks"]["bfloat16" if "16" in networks else "float32"]
            share = cycle["operations"] / one / peak
            gib = cycle["bytes_needed"] / 2**30
            cells[-3:] = [f"{batch / one:.0f}", f"{share:.2f}", f"{gib:.1f}"]
        if not all(result.get("finite", True) for result in results.values()):
            networks += " (NaN)"
        lines.append([networks, str(batch), *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _measure_peaks() -> Dict[str, Any]:
    """Operations a second of large matrix products; the error tells TF32 apart."""
    size = 1024 if jax.default_backend() == "cpu" else 8192
    a, b = np.random.default_rng(0).standard_normal((2, size, size), np.float32)
    exact = a[:64].astype(np.float64) @ b
    peaks: Dict[str, Any] = {"device": jax.devices()[0].device_kind}
    for name, dtype, precision in (
        ("bfloat16", jnp.bfloat16, None),
        ("float32", jnp.float32, None),
        ("float32_highest", jnp.float32, lax.Precision.HIGHEST),
    ):
        multiply = jax.jit(lambda x, y, p=precision: jnp.dot(x, y, precision=p))
        x, y = jnp.asarray(a, dtype), jnp.asarray(b, dtype)
        product = jax.block_until_ready(multiply(x, y))
        started = time.perf_counter()
        for _ in range(10):
            product = multiply(x, y)
        jax.block_until_ready(product)
        peaks[name] = 20 * size**3 / (time.perf_counter() - started)
        error = np.asarray(product[:64], np.float64) - exact
        peaks[f"{name}_error"] = float(np.linalg.norm(error) / np.linalg.norm(exact))
    return peaks


def _try_to_compile(path: pathlib.Path) -> Any:
    try:
        return Program(str(path))
    except Exception as error:  # one that does not compile does not end the survey
        return error


def _try_to_time(program: Any, values: Values, repeats: int, end: float) -> Any:
    if not isinstance(program, Program) or time.monotonic() > end:
        error = program if isinstance(program, Exception) else "the time was up"
        return {"error": str(error)[:300]}
    try:
        program.draw(values)
        return program.time(values, repeats)
    except Exception as error:  # what was given to the step is lost, too
        values.clear()
        return {"error": str(error)[:300]}
