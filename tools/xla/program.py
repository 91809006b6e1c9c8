"""Compiles, times and trains an exported step with JAX's XLA; no TensorFlow here.

JAX runs no program that it did not trace by a public function: `jax._src.lib` holds
the compiler's own interface. Tried with jax 0.11.2.
"""

import gzip
import json
import os
import re
import time
from typing import Any, Dict, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax._src.lib import xla_client

jax.config.update("jax_enable_x64", True)  # counters are int64

Values = Dict[str, Any]


class Program:
    """An exported step.

    Attributes:
      description: what `tools.xla.export` wrote of it.
      operations: of one call, 2 a multiply-add, as XLA counts them before it compiles.
      compile_s: seconds it took to compile.
      bytes_needed: arguments, results and temporaries on the device.
    """

    def __init__(self, path: str):
        """Reads and compiles `path` (.json, beside it .hlo.gz) for the first device."""
        with open(path, encoding="utf-8") as file:
            self.description = json.load(file)
        with gzip.open(path.replace(".json", ".hlo.gz")) as file:
            computation = xla_client.XlaComputation(file.read())
        xla, device = xla_client._xla, jax.devices()[0]
        # Plugins do not count; the processor's client does, of the same module.
        processor = jax.local_devices(backend="cpu")[0].client
        counted = xla.hlo_module_cost_analysis(processor, computation.get_hlo_module())
        self.operations = counted["flops"]
        # Plugins, such as that for GPUs, take StableHLO, which has no copy.
        module = re.sub(
            r"mhlo\.copy (%\w+) : (tensor<[^>]*>)",
            r"stablehlo.reshape \1 : (\2) -> \2",
            xla.mlir.xla_computation_to_mlir_module(computation),
        )
        started = time.perf_counter()
        self._executable = device.client.compile_and_load(
            module, xla.DeviceList((device,)), xla_client.CompileOptions()
        )
        self.compile_s = time.perf_counter() - started
        memory = self._executable.get_compiled_memory_stats()
        self.bytes_needed = (
            memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            + memory.temp_size_in_bytes
            - memory.alias_size_in_bytes
        )
        # input_output_alias={ {9}: (412, {}, may-alias), ...: result 9 is input 412's.
        header = computation.as_hlo_text().split("\n", 1)[0]
        aliases = re.findall(r"\{(\d+)\}: \((\d+), \{\}", header)
        self._next = {int(result): int(number) for result, number in aliases}

    def draw(self, values: Values, seed: int = 0) -> None:
        """Adds what `values` lacks, of the exported mean, deviation and range."""
        rng = np.random.default_rng(seed)
        for of in self.description["inputs"]:
            there, shape = values.get(of["name"]), tuple(of["shape"])
            # What has no name of its own may be something else in another program.
            shared = not of["name"].startswith("other/")
            if shared and there is not None and there.shape == shape:
                continue
            if of["kind"] == "data":
                drawn = rng.uniform(-1, 1, shape)
            elif of["std"] > 0:
                drawn = rng.standard_normal(shape, np.float32)
                drawn = np.clip(drawn * of["std"] + of["mean"], of["min"], of["max"])
            else:
                drawn = np.full(shape, of["mean"])
            dtype = jnp.bfloat16 if of["dtype"] == "bfloat16" else of["dtype"]
            values[of["name"]] = jax.device_put(drawn.astype(dtype))

    def __call__(self, values: Values) -> Dict[str, jax.Array]:
        """One step: replaces in `values` what it moves; returns the logs."""
        names = [of["name"] for of in self.description["inputs"]]
        results = self._executable.execute_sharded([values[name] for name in names])
        results = [r[0] for r in results.disassemble_into_single_device_arrays()]
        for result, number in self._next.items():
            values[names[number]] = results[result]
        return dict(zip(self.description["logs"], results))

    def time(self, values: Values, repeats: int) -> Dict[str, Any]:
        """Seconds of a step on the same data, after two others, and what it needs."""
        # A GPU runs while Python prepares the next step: several are timed together.
        together = 1 if jax.default_backend() == "cpu" else 5
        seconds = []
        for _ in range(2 + repeats):
            started = time.perf_counter()
            for _ in range(together):
                logs = self(values)
            jax.block_until_ready((logs, values))
            seconds.append((time.perf_counter() - started) / together)
        logs = {name: float(value) for name, value in logs.items()}
        return {
            "median_s": float(np.median(seconds[2:])),
            "min_s": min(seconds[2:]),
            "finite": bool(np.isfinite(list(logs.values())).all()),
            "logs": logs,
            "precision": self.description["precision"],
            "operations": self.operations,
            "bytes_needed": self.bytes_needed,
            "compile_s": self.compile_s,
        }

    def train(
        self, values: Values, data: Values, steps: int, every: int, seed: int = 0
    ) -> Iterator[Dict[str, float]]:
        """Trains on batches without repetition; yields means since the last row.

        Args:
          values: the state; replaced step by step.
          data: name of an input -> array [N, ...]; uint8 becomes [-1, 1].
          steps: how many.
          every: steps a row.
          seed: of the order of the images.
        """
        held = {name: jax.device_put(array) for name, array in data.items()}
        count, size = len(data["rgb"]), values["rgb"].shape[0]
        if count < size:
            raise SystemExit(f"A step takes {size} images. Received: {count}.")
        rng, order = np.random.default_rng(seed), np.zeros(0, int)
        for step in range(1, steps + 1):
            if len(order) < size:
                order = rng.permutation(count)
            chosen, order = order[:size], order[size:]
            values.update({name: _take(a, chosen) for name, a in held.items()})
            logs = self(values)
            if step % every == 0 or step == steps:
                yield {"step": step, **{k: float(v) for k, v in logs.items()}}
                for name in [name for name in values if name.startswith("means/")]:
                    values[name] = jnp.zeros_like(values[name])

    def save(self, path: str, values: Values) -> None:
        """Writes the variables by name, whole or not at all."""
        inputs = self.description["inputs"]
        names = [of["name"] for of in inputs if of["kind"] == "variable"]
        with open(f"{path}.tmp", "wb") as file:
            np.savez(file, **{name: np.asarray(values[name]) for name in names})
        os.replace(f"{path}.tmp", path)


@jax.jit
def _take(array: jax.Array, chosen: jax.Array) -> jax.Array:
    taken = array[chosen].astype(jnp.float32)
    return taken / 127.5 - 1.0 if array.dtype == jnp.uint8 else taken
