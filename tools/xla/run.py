"""Compiles, times and trains exported steps with JAX's XLA; no TensorFlow here.

JAX runs no program that it did not trace by a public function: `jax._src.lib` holds
the compiler's own interface. Tried with jax 0.11.2.
"""

import argparse
import concurrent.futures
import gzip
import json
import pathlib
import re
import time
from typing import Any, Callable, Dict, List

import jax
import jax.numpy as jnp
import numpy as np
from jax._src.lib import xla_client

from soka_tf.data.documents import read_json

_PROGRAM = {
    "logs": [str],
    "inputs": [
        {
            **{"name": str, "shape": [int], "dtype": str},
            **dict.fromkeys(("mean", "std", "min", "max"), float),
        }
    ],
}

jax.config.update("jax_enable_x64", True)  # counters are int64


class Program:
    """An exported step; calls take the values of its inputs and replace what moves."""

    def __init__(self, path: pathlib.Path):
        """Reads and compiles `path` (.json, beside it .hlo.gz) for the first device."""
        self._about = read_json(path, _PROGRAM, "Export the step again.")
        self.inputs = {of["name"]: of for of in self._about["inputs"]}
        hlo = gzip.decompress(path.with_suffix(".hlo.gz").read_bytes())
        computation = xla_client.XlaComputation(hlo)
        # input_output_alias={ {9}: (412, {}, may-alias), ...: result 9 is input 412's.
        header = computation.as_hlo_text().split("\n", 1)[0]
        aliases = re.findall(r"\{(\d+)\}: \((\d+), \{\}", header)
        self._next = {int(k): list(self.inputs)[int(i)] for k, i in aliases}
        xla, device = xla_client._xla, jax.devices()[0]
        # Plugins, such as that for GPUs, take StableHLO, which has no copy.
        module = xla.mlir.xla_computation_to_mlir_module(computation)
        copy, same = r"mhlo\.copy (%\w+) : (tensor<[^>]*>)", r"\1 : (\2) -> \2"
        module = re.sub(copy, f"stablehlo.reshape {same}", module)
        devices, options = xla.DeviceList((device,)), xla_client.CompileOptions()
        started = time.perf_counter()
        self._executable = device.client.compile_and_load(module, devices, options)
        self._costs = {"compile_s": time.perf_counter() - started}
        memory = self._executable.get_compiled_memory_stats()
        held = memory.argument_size_in_bytes + memory.output_size_in_bytes
        held += memory.temp_size_in_bytes - memory.alias_size_in_bytes
        # Plugins do not count; the processor's client does, of the same module.
        processor = jax.local_devices(backend="cpu")[0].client
        counted = xla.hlo_module_cost_analysis(processor, computation.get_hlo_module())
        self._costs.update(operations=counted["flops"], bytes_needed=held)

    def draw(self, values: Dict[str, Any]) -> None:
        """Adds what `values` lacks, of the exported mean, deviation and range."""
        rng = np.random.default_rng(0)
        for name, of in self.inputs.items():
            if name not in values or values[name].shape != tuple(of["shape"]):
                drawn = rng.normal(of["mean"], of["std"], of["shape"])
                drawn = np.clip(drawn, of["min"], of["max"])
                values[name] = jnp.asarray(drawn, of["dtype"])

    def __call__(self, values: Dict[str, Any]) -> Dict[str, jax.Array]:
        """One step: replaces in `values` what it moves; returns the logs."""
        results = self._executable.execute_sharded([values[n] for n in self.inputs])
        results = [r[0] for r in results.disassemble_into_single_device_arrays()]
        values.update({name: results[i] for i, name in self._next.items()})
        return dict(zip(self._about["logs"], results))

    def time(self, values: Dict[str, Any], repeats: int) -> Dict[str, Any]:
        """Seconds of a step on the same data, and what it needs."""
        seconds = _time(lambda: (self(values), values), repeats)
        logs = {name: float(value) for name, value in self(values).items()}
        found = dict(self._costs, median_s=np.median(seconds), min_s=min(seconds))
        return dict(found, finite=bool(np.isfinite([*logs.values()]).all()), logs=logs)


def run(args: argparse.Namespace) -> None:
    """Times a program, or trains with it and prints the means of every few steps."""
    program, own = Program(args.program), args.program.with_suffix(".npz")
    start = args.values or (own if own.exists() else None)
    values = {}
    for name, array in np.load(start).items() if start else ():
        array = array.view(jnp.bfloat16) if array.dtype.kind == "V" else array
        values[name] = jnp.asarray(array)
    program.draw(values)
    if args.images:
        images, size = np.load(args.images), len(values["rgb"])
        data = {"rgb": images} if args.images.endswith(".npy") else dict(images)
        if len(data["rgb"]) < size:
            raise SystemExit(f"{args.images}: a step takes {size} images, not fewer.")
        rng, order = np.random.default_rng(0), []
        for step in range(1, args.steps + 1):
            if len(order) < size:
                order = rng.permutation(len(data["rgb"]))
            chosen, order = order[:size], order[size:]
            for name, array in data.items():
                taken = jnp.asarray(array[chosen], jnp.float32)
                values[name] = taken / 127.5 - 1 if array.dtype == np.uint8 else taken
            logs = program(values)
            if step % args.every == 0 or step == args.steps:
                logs = {name: float(value) for name, value in logs.items()}
                print(json.dumps({"step": step, **logs}), flush=True)
                means = [name for name in values if name.startswith("means/")]
                values.update({name: jnp.zeros_like(values[name]) for name in means})
    else:
        print(json.dumps(program.time(values, args.repeats)))
    if args.save:
        np.savez(f"{args.save}.tmp.npz", **values)
        pathlib.Path(f"{args.save}.tmp.npz").replace(args.save)


def survey(args: argparse.Namespace) -> None:
    """Times a folder of programs, those of 16 images first; prints a table last."""
    end, rows = time.monotonic() + args.seconds, {}
    paths = args.folder.rglob("*_*.json")
    for path in sorted(paths, key=lambda path: ("_16." not in path.name, path)):
        row = path.parent.name, int(path.stem.rpartition("_")[2])
        rows.setdefault(row, []).append(path)
    if not rows:
        raise SystemExit(f"{args.folder}: no programs; xla_step.py export writes them.")
    # In this thread jax finds its devices; in one that compiles, CUDA crashes over it.
    peaks, lines = _measure_peaks(), []
    failed = dict.fromkeys(("median_s", "operations", "bytes_needed"), np.nan)
    for (networks, batch), paths in rows.items():
        if time.monotonic() > end:
            break
        found, values = {}, {}  # these programs have variables in common
        with concurrent.futures.ThreadPoolExecutor() as pool:
            programs = {path.stem: pool.submit(Program, path) for path in paths}
        for name, program in programs.items():
            try:
                program.result().draw(values)
                rounds = args.repeats if time.monotonic() < end else 1
                found[name] = program.result().time(values, rounds)
            except Exception as error:  # one program's does not end the survey
                values.clear()  # what was given to the step is lost
                found[name] = {**failed, "finite": str(error)[:300]}
            print(networks, name, json.dumps(found[name]), flush=True)
        joint = found.get(f"joint_{batch}", failed)["median_s"]
        peak = peaks["bfloat16" if "16" in networks else "float32"]
        for name, of in found.items():
            took, gib = of["median_s"], of["bytes_needed"] / 2**30
            cells = f"{1e3 * took:.1f} | {took / joint:.3f} | {batch / took:.0f}"
            cells += f" | {of['operations'] / took / peak:.2f} | {gib:.2f}"
            lines.append(f"| {networks} | {name} | {cells} | {of['finite']} |")
    print(len(lines), "of", sum(map(len, rows.values())), json.dumps(peaks))
    print("| networks | step, batch | ms | /joint | image/s | of peak | GiB | finite |")
    print("| --- " * 8 + "|", *sorted(lines), sep="\n")


def _measure_peaks() -> Dict[str, Any]:
    """Operations a second of large matrix products; the error tells TF32 apart."""
    size = 1024 if jax.default_backend() == "cpu" else 8192
    a, b = np.random.default_rng(0).standard_normal((2, size, size), np.float32)
    peaks: Dict[str, Any] = {"device": jax.devices()[0].device_kind}
    for name in ("bfloat16", "float32", "float32_highest"):
        dtype, precision = name.partition("_")[::2]
        multiply = jax.jit(lambda x, y, p=precision or None: jnp.dot(x, y, precision=p))
        x, y = jnp.asarray(a, dtype), jnp.asarray(b, dtype)
        peaks[name] = 2 * size**3 / min(_time(multiply, 5, x, y))
        error = np.asarray(multiply(x, y)[0], np.float64) - a[0].astype(np.float64) @ b
        peaks[f"{name}_error"] = np.std(error) / np.sqrt(size)
    return {**peaks, "float32_is_tf32": bool(peaks["float32_error"] > 1e-5)}


def _time(work: Callable[..., Any], repeats: int, *arguments: Any) -> List[float]:
    """Seconds of a call, round by round, after three to warm up; for 20 s at most."""
    # A GPU runs while Python prepares the next call: several are timed together.
    together, ends = 1 if jax.default_backend() == "cpu" else 5, []
    while len(ends) < 3 + repeats and (len(ends) < 5 or ends[-1] < ends[0] + 20):
        jax.block_until_ready([work(*arguments) for _ in range(together)][-1])
        ends.append(time.perf_counter())
    return (np.diff(ends)[2:] / together).tolist()
