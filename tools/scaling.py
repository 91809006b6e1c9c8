r"""Works out what a full-size run takes on 1, 8 and 64 GPUs; nothing is run.

Example (seconds; the tables of docs/scaling.md):

    python tools/scaling.py

Parameters, multiply-adds and activations are counted on the networks themselves. All
else is a stated rate of an imagined machine, to be replaced by yours: --gpu_tflops,
--interconnect_gbs, --read_ms (`python tools/benchmark.py input`), --image_kb.
docs/scaling.md explains the arithmetic line by line.
"""

import math
from typing import Dict, List, NamedTuple, Sequence

from absl import flags

from soka_tf import cli

FLAGS = flags.FlagValues()
_TASKS = flags.DEFINE_list(
    "tasks", ["depth_zbuffer", "edge_texture"], "targets", flag_values=FLAGS
)
_AUXILIARIES = flags.DEFINE_integer(
    "auxiliaries", 1, "auxiliary teachers", lower_bound=0, flag_values=FLAGS
)
_CGAN = flags.DEFINE_bool("cgan", False, "count discriminators", flag_values=FLAGS)
_GPU_TFLOPS = flags.DEFINE_float(
    "gpu_tflops", 40.0, "sustained by a GPU, 10^12 operations/s", flag_values=FLAGS
)
_INTERCONNECT_GBS = flags.DEFINE_float(
    "interconnect_gbs", 10.0, "of the slowest link of the ring, GB/s", flag_values=FLAGS
)
_IMAGES = flags.DEFINE_integer(
    "images", 16, "of a step, on each replica", lower_bound=1, flag_values=FLAGS
)
_IMAGE_KB = flags.DEFINE_float(
    "image_kb", 414.0, "of an image's file (PNG, 512 pixels)", flag_values=FLAGS
)
_READ_MS = flags.DEFINE_float(
    "read_ms", 13.4, "to decode and resize an image, on one core", flag_values=FLAGS
)

STEPS = 600_000
PAPER_IMAGES = STEPS * 16  # of base.gin's batch
REPLICAS = (1, 8, 64)
_SIZE = 256
_FLOAT = 4


class Costs(NamedTuple):
    """What is counted on the networks.

    Attributes:
      teachers: multiply-adds of an image, the teachers' forward passes.
      student: multiply-adds of an image, all else.
      parameters: scalars whose gradients are summed over the replicas.
      teacher_parameters: scalars of the teachers.
      statistics: scalars that synchronised BatchNorm sums over the replicas.
      norms: scalars of the tasks' gradients at the last shared layer.
      kept: scalars of an image that are kept for the backward pass.
      cached: bytes of an image in the teachers' cache.
    """

    teachers: float
    student: float
    parameters: int
    teacher_parameters: int
    statistics: int
    norms: int
    kept: int
    cached: int


def main() -> None:
    """Prints the tables."""
    costs = count(_TASKS.value, _AUXILIARIES.value, _CGAN.value)
    for table in (
        counts_table(costs),
        runs_table(
            costs, _GPU_TFLOPS.value, _INTERCONNECT_GBS.value, _IMAGES.value, REPLICAS
        ),
        input_table(
            costs,
            _GPU_TFLOPS.value,
            _INTERCONNECT_GBS.value,
            _IMAGES.value,
            _IMAGE_KB.value,
            _READ_MS.value,
            REPLICAS,
        ),
    ):
        print("\n".join(table) + "\n")


def count(tasks: Sequence[str], auxiliaries: int, cgan: bool) -> Costs:
    """Counts the paper's networks at 256 x 256."""
    from soka_tf.networks.decoder import Decoder
    from soka_tf.networks.discriminator import Discriminator
    from soka_tf.networks.encoder import Encoder
    from soka_tf.networks.multiply_adds import count_multiply_adds, total_multiply_adds
    from soka_tf.tasks import get_targets

    shape = (_SIZE, _SIZE, 3)
    encoder = Encoder((3, 4, 6, 3))
    targets = get_targets(tasks)
    decoders = [Decoder(task.channels) for task in targets]
    side = _SIZE // encoder.output_stride
    features = {
        name: (side, side, encoder.output[name].shape[-1])
        for name in ("block3", "representation")
    }
    of_encoder = total_multiply_adds(encoder, shape)
    inside = [count_multiply_adds(d, features["representation"]) for d in decoders]
    of_decoders = sum(c.multiply_adds for counts in inside for c in counts)
    teachers = (len(targets) + auxiliaries) * of_encoder + of_decoders
    # A backward pass costs a forward one for the inputs and one for the weights; the
    # decoders' second pass, in the collaboration phase, needs none for the weights.
    student = 3 * of_encoder + (3 + 2) * of_decoders
    trained = [encoder, *decoders]
    parameters = sum(_scalars(network) for network in trained)
    # A mean and a mean square a channel, there and back; decoders in both phases.
    statistics = 4 * _channels(encoder) + 8 * sum(map(_channels, decoders))
    if cgan:
        critics = [Discriminator(task.channels) for task in targets]
        for critic in critics:
            inputs = (_SIZE, _SIZE, critic.input_shape[-1])
            # Forward and backward on real and on drawn maps; then through to the maps.
            student += (3 + 3 + 2) * total_multiply_adds(critic, inputs)
            parameters += _scalars(critic)
            statistics += 12 * _channels(critic)
    # W_i and C of both layers, and V_i, which has as many scalars as W_i.
    count_teachers = len(targets) + auxiliaries
    parameters += sum(
        (2 * count_teachers + 1) * channels**2 for _, _, channels in features.values()
    )
    convolutions = count_multiply_adds(encoder, shape) + sum(inside, [])
    kept = sum(math.prod(c.output_shape) for c in convolutions)
    said = sum(_SIZE * _SIZE * task.channels for task in targets)
    said += count_teachers * sum(map(math.prod, features.values()))
    return Costs(
        teachers,
        student,
        parameters,
        count_teachers * _scalars(encoder) + sum(map(_scalars, decoders)),
        statistics,
        len(targets) * encoder.last_shared_kernel.shape.num_elements(),
        # What a convolution gives, normalised, and past its activation.
        3 * kept,
        2 * said,
    )


def counts_table(costs: Costs) -> List[str]:
    """The rows of what is counted."""
    total = costs.teachers + costs.student
    summed = reduced_bytes(costs)
    rows = {
        "teachers, G multiply-adds an image": costs.teachers / 1e9,
        "student and losses, G multiply-adds an image": costs.student / 1e9,
        "T operations an image (2 a multiply-add)": 2 * total / 1e12,
        "share saved by the teachers' cache": costs.teachers / total,
        "gradients summed a cycle, MB": _FLOAT * costs.parameters / 1e6,
        "BatchNorm's statistics summed a cycle, MB": _FLOAT * costs.statistics / 1e6,
        "task gradients summed a cycle, MB": _FLOAT * costs.norms / 1e6,
        "all-reduce a cycle, MB": summed / 1e6,
        "weights, gradients, Adam's two slots, teachers, GB": fixed_bytes(costs) / 1e9,
        "kept for the backward pass, MB an image, float32": 4 * costs.kept / 1e6,
        "the same, bfloat16": 2 * costs.kept / 1e6,
        "teachers' cache, MB an image": costs.cached / 1e6,
    }
    return ["| counted | |", "|---|---|"] + [
        f"| {name} | {_digits(value)} |" for name, value in rows.items()
    ]


def runs_table(
    costs: Costs,
    gpu_tflops: float,
    interconnect_gbs: float,
    images: int,
    replicas: Sequence[int],
) -> List[str]:
    """The rows of what a run takes."""
    rows = []
    for r in replicas:
        compute, reduce = step_seconds(costs, gpu_tflops, interconnect_gbs, images, r)
        step = compute + reduce
        rows.append(
            {
                "GPUs": r,
                "batch_size": r * images,
                "compute ms": 1e3 * compute,
                "all-reduce ms": 1e3 * reduce,
                "efficiency": compute / step,
                "images/s": r * images / step,
                "600 000 cycles, days": STEPS * step / 86400,
                "9.6 M images, days": PAPER_IMAGES * step / (r * images) / 86400,
                "GPU memory, GB": (fixed_bytes(costs) + 2 * images * costs.kept) / 1e9,
            }
        )
    return _table(rows)


def input_table(
    costs: Costs,
    gpu_tflops: float,
    interconnect_gbs: float,
    images: int,
    image_kb: float,
    read_ms: float,
    replicas: Sequence[int],
) -> List[str]:
    """The rows of what has to be read."""
    rows = []
    for r in replicas:
        for cached in (False, True):
            own = costs._replace(teachers=0) if cached else costs
            step = sum(step_seconds(own, gpu_tflops, interconnect_gbs, images, r))
            rate = r * images / step
            rows.append(
                {
                    "GPUs": r,
                    "teachers": "from the cache" if cached else "run",
                    "images/s": rate,
                    "images, MB/s": rate * image_kb / 1e3,
                    "cache, MB/s": rate * costs.cached / 1e6 if cached else 0,
                    "cores a GPU": rate * read_ms / 1e3 / r,
                    "9.6 M images, days": PAPER_IMAGES / rate / 86400,
                }
            )
    return _table(rows)


def step_seconds(
    costs: Costs, gpu_tflops: float, interconnect_gbs: float, images: int, replicas: int
):
    """Seconds of a cycle's arithmetic and of its all-reduce, not overlapped."""
    operations = 2 * (costs.teachers + costs.student) * images
    ring = 2 * (replicas - 1) / replicas * reduced_bytes(costs)
    return operations / (gpu_tflops * 1e12), ring / (interconnect_gbs * 1e9)


def reduced_bytes(costs: Costs) -> int:
    """Bytes that a cycle sums over the replicas."""
    return _FLOAT * (costs.parameters + costs.statistics + costs.norms)


def fixed_bytes(costs: Costs) -> int:
    """Bytes of a replica's memory that do not depend on the batch."""
    return _FLOAT * (4 * costs.parameters + costs.teacher_parameters)


def _scalars(network) -> int:
    return sum(v.shape.num_elements() for v in network.trainable_variables)


def _channels(network) -> int:
    """Channels that BatchNorm normalises."""
    return sum(
        v.shape.num_elements()
        for v in network.variables
        if v.name.split(":")[0].endswith("moving_mean")
    )


def _table(rows: List[Dict[str, object]]) -> List[str]:
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in rows:
        cells = [v if isinstance(v, str) else _digits(v) for v in row.values()]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _digits(value: float) -> str:
    """Whole numbers in full, others to three digits."""
    if value == int(value) or value >= 1000:
        return f"{round(value):,}".replace(",", " ")
    return f"{value:.3g}"


if __name__ == "__main__":
    cli.run(main, FLAGS)
