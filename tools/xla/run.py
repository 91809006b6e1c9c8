"""Compiles, times and trains exported steps with JAX's XLA; no TensorFlow here.

JAX runs no program that it did not trace by a public function: `jax._src.lib` holds
the compiler's own interface. Tried with jax 0.11.2.
"""

import argparse
import concurrent.futures
import functools
import gzip
import json
import os
import pathlib
import re
import time
from typing import Any, Callable, Dict, Iterator, List, Tuple

import jax
import jax.numpy as jnp
import numpy as np
from jax._src.lib import xla_client

jax.config.update("jax_enable_x64", True)  # counters are int64

Values = Dict[str, Any]  # by the name of an input


class Program:
    """An exported step; calls take the values of its inputs and replace what moves."""

    def __init__(self, path: str):
        """Reads and compiles `path` (.json, beside it .hlo.gz) for the first device."""
        with open(path, encoding="utf-8") as file:
            self._about = json.load(file)
        self._inputs = {of["name"]: of for of in self._about["inputs"]}
        with gzip.open(path.replace(".json", ".hlo.gz")) as file:
            computation = xla_client.XlaComputation(file.read())
        # input_output_alias={ {9}: (412, {}, may-alias), ...: result 9 is input 412's.
        header = computation.as_hlo_text().split("\n", 1)[0]
        aliases = re.findall(r"\{(\d+)\}: \((\d+), \{\}", header)
        self._next = {int(k): list(self._inputs)[int(i)] for k, i in aliases}
        xla, device = xla_client._xla, jax.devices()[0]
        # Plugins, such as that for GPUs, take StableHLO, which has no copy.
        module = re.sub(
            r"mhlo\.copy (%\w+) : (tensor<[^>]*>)",
            r"stablehlo.reshape \1 : (\2) -> \2",
            xla.mlir.xla_computation_to_mlir_module(computation),
        )
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

    def draw(self, values: Values) -> None:
        """Adds what `values` lacks, of the exported mean, deviation and range."""
        rng = np.random.default_rng(0)
        for name, of in self._inputs.items():
            shape = tuple(of["shape"])
            # What has no name of its own may be something else in another program.
            if name.startswith("other/") or np.shape(values.get(name, 0)) != shape:
                drawn = rng.normal(of["mean"], of["std"], shape)
                drawn = np.clip(drawn, of["min"], of["max"])
                values[name] = jnp.asarray(drawn, of["dtype"])

    def __call__(self, values: Values) -> Dict[str, jax.Array]:
        """One step: replaces in `values` what it moves; returns the logs."""
        results = self._executable.execute_sharded([values[n] for n in self._inputs])
        results = [r[0] for r in results.disassemble_into_single_device_arrays()]
        values.update({name: results[i] for i, name in self._next.items()})
        return dict(zip(self._about["logs"], results))

    def time(self, values: Values, repeats: int) -> Dict[str, Any]:
        """Seconds of a step on the same data, and what it needs."""
        seconds = _time(lambda: (self(values), values), repeats)
        found = {"median_s": float(np.median(seconds)), "min_s": min(seconds)}
        logs = {name: float(value) for name, value in self(values).items()}
        finite = bool(np.isfinite(list(logs.values())).all())
        return {**found, "finite": finite, **self._costs, "logs": logs}

    def train(
        self, values: Values, data: Values, steps: int, every: int
    ) -> Iterator[Dict[str, float]]:
        """Trains on data (input -> [N, ...]; uint8 becomes [-1, 1]); yields means."""
        count, size = len(data["rgb"]), len(values["rgb"])
        if count < size:
            raise SystemExit(f"A step takes {size} images. Received: {count}.")
        rng, order = np.random.default_rng(0), []
        for step in range(1, steps + 1):
            if len(order) < size:
                order = rng.permutation(count)
            chosen, order = order[:size], order[size:]
            for name, array in data.items():
                taken = jnp.asarray(array[chosen], jnp.float32)
                values[name] = taken / 127.5 - 1 if array.dtype == np.uint8 else taken
            logs = self(values)
            if step % every == 0 or step == steps:
                yield {"step": step, **{k: float(v) for k, v in logs.items()}}
                means = [name for name in self._inputs if name.startswith("means/")]
                values.update({name: jnp.zeros_like(values[name]) for name in means})

    def save(self, path: str, values: Values) -> None:
        """Writes the variables by name, whole or not at all."""
        names = [n for n, of in self._inputs.items() if of["kind"] == "variable"]
        with open(f"{path}.tmp", "wb") as file:
            np.savez(file, **{name: values[name] for name in names})
        os.replace(f"{path}.tmp", path)


def run(args: argparse.Namespace) -> None:
    """Times a program, or trains; prints JSON."""
    program, beside = Program(args.program), args.program.replace(".json", ".npz")
    start = args.values or (beside if os.path.exists(beside) else None)
    values = {k: jnp.asarray(v) for k, v in np.load(start).items()} if start else {}
    program.draw(values)
    if args.images:
        images = np.load(args.images)
        data = {"rgb": images} if args.images.endswith(".npy") else dict(images)
        for row in program.train(values, data, args.steps, args.every):
            print(json.dumps(row), flush=True)
    else:
        print(json.dumps(program.time(values, args.repeats)))
    if args.save:
        program.save(args.save, values)


def survey(args: argparse.Namespace) -> None:
    """Times a folder of programs, those of 16 images first; prints a table last."""
    end = time.monotonic() + args.seconds
    paths: Dict[Tuple[str, int], Dict[str, str]] = {}  # networks, batch -> step -> path
    for path in sorted(pathlib.Path(args.folder).rglob("*.json")):
        step, _, batch = path.stem.rpartition("_")
        paths.setdefault((path.parent.name, int(batch)), {})[step] = str(path)
    # In this thread jax finds its devices; in one that compiles, CUDA crashes over it.
    peaks, lines = _measure_peaks(), []
    for row in sorted(paths, key=lambda row: (abs(np.log2(row[1] / 16)), row)):
        if time.monotonic() > end:
            break
        found, values = {}, {}  # the row's programs have variables in common
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            programs = [pool.submit(Program, path) for path in paths[row].values()]
        for step, program in zip(paths[row], programs):
            try:
                program.result().draw(values)
                rounds = args.repeats if time.monotonic() < end else 1
                found[step] = program.result().time(values, rounds)
            except Exception as error:  # one program's does not end the survey
                values.clear()  # what was given to the step is lost
                found[step] = {"error": str(error)[:300]}
            print(*row, step, json.dumps(found[step]), flush=True)
        joint = found.get("joint", {}).get("median_s", np.nan)
        peak = peaks["bfloat16" if "16" in row[0] else "float32"]
        for step, of in found.items():
            lines.append([*row, step, *of.values()])
            if "error" not in of:
                took, share = of["median_s"], of["operations"] / of["median_s"] / peak
                cells = f"{1e3 * took:.1f} {took / joint:.3f} {row[1] / took:.0f}"
                cells += f" {share:.2f} {of['bytes_needed'] / 2**30:.2f} {of['finite']}"
                lines[-1][3:] = cells.split()
    print(len(lines), "of", sum(map(len, paths.values())), "steps.", json.dumps(peaks))
    head = "networks batch step ms over_joint images/s of_peak GiB finite".split()
    for line in [head, ["---"] * len(head), *sorted(lines)]:
        print(f"| {' | '.join(map(str, line))} |")


def _measure_peaks() -> Dict[str, Any]:
    """Operations a second of large matrix products; the error tells TF32 apart."""
    size = 1024 if jax.default_backend() == "cpu" else 8192
    a, b = np.random.default_rng(0).standard_normal((2, size, size), np.float32)
    exact = a[:64].astype(np.float64) @ b
    peaks: Dict[str, Any] = {"device": jax.devices()[0].device_kind}
    multiply = jax.jit(jnp.dot, static_argnames="precision")
    for name in ("bfloat16", "float32", "float32_highest"):
        dtype, precision = name.partition("_")[::2]
        x, y = jnp.asarray(a, dtype), jnp.asarray(b, dtype)
        work = functools.partial(multiply, x, y, precision=precision or None)
        error = np.asarray(work()[:64], np.float64) - exact
        peaks[name] = 2 * size**3 / min(_time(work, 5))
        peaks[f"{name}_error"] = np.linalg.norm(error) / np.linalg.norm(exact)
    return {**peaks, "float32_is_tf32": bool(peaks["float32_error"] > 1e-5)}


def _time(work: Callable[[], Any], repeats: int) -> List[float]:
    """Seconds of a call, round by round, after two to warm up."""
    # A GPU runs while Python prepares the next call: several are timed together.
    together = 1 if jax.default_backend() == "cpu" else 5
    seconds = []
    for _ in range(2 + repeats):
        started = time.perf_counter()
        for _ in range(together):
            result = work()
        jax.block_until_ready(result)
        seconds.append((time.perf_counter() - started) / together)
    return seconds[2:]
