r"""Measures the speed of soka_tf against baselines, on the machine at hand.

Example (two to four minutes, most of them building graphs; on random numbers):

    python tools/benchmark.py cycle

and at the paper's size, with the numbers in a file:

    python tools/benchmark.py cycle --scale=full --json=cycle.json

The first argument chooses what is measured:

    cycle       a training cycle against a plain distillation step, against the three
                phases written naively, and with the teachers' outputs cached
    methods     a step of the small studies: KD, KD + MIA, the whole method
    teachers    our teacher, also folded and in bfloat16, against the published PyTorch
                network of the same weights
    inference   the exported student against its teachers, for two and three tasks
    input       a cycle fed from files against one fed from memory; reading alone
    roofline    multiply-adds of the networks against the machine's peak; the cost of a
                cycle by tasks, image size and width

Cases take turns, round after round; what counts are the ratios of their medians.
Close other programs first. docs/performance.md explains the numbers.
"""

import importlib
import pathlib
import sys

from absl import flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from soka_tf import cli  # noqa: E402 (the naive baseline lives in tests/)

FLAGS = flags.FlagValues()
_SCALE = flags.DEFINE_enum(
    "scale", "small", ["small", "full"], "full is the paper's size", flag_values=FLAGS
)
_REPEATS = flags.DEFINE_integer(
    "repeats", None, "timed rounds; by default what suits the scale", flag_values=FLAGS
)
_PRECISION = flags.DEFINE_enum(
    "precision",
    "float32",
    ["float32", "mixed_bfloat16"],
    "in which the networks compute",
    flag_values=FLAGS,
)
_JSON = flags.DEFINE_string(
    "json", None, "file for all numbers, as JSON", flag_values=FLAGS
)

BENCHMARKS = (
    "cycle",
    "methods",
    "teachers",
    "inference",
    "input",
    "roofline",
)


def main(benchmark: str) -> None:
    """Runs one benchmark and reports it."""
    import tensorflow as tf

    from tools.benchmarks import measure

    measure.check_json_path(_JSON.value)
    # Its advice on functions traced one after the other, which is what cases are.
    tf.get_logger().setLevel("ERROR")
    module = importlib.import_module(f"tools.benchmarks.{benchmark}")
    measured = module.run(_SCALE.value, _REPEATS.value, _PRECISION.value)
    measure.report(benchmark, measured, _JSON.value)


if __name__ == "__main__":
    cli.run(main, FLAGS, commands=BENCHMARKS)
