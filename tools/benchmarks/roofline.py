"""How close the networks come to the machine's peak, and what a cycle costs."""

from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

import tensorflow as tf

from soka_tf.networks.decoder import Decoder
from soka_tf.networks.encoder import ENCODER_50, Encoder
from soka_tf.networks.multiply_adds import total_multiply_adds
from tools.benchmarks.measure import Measurement, time_cases

_DTYPES = {"float32": tf.float32, "bfloat16": tf.bfloat16}
_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
# Of a convolution between the decoder's two largest layers: side, channels.
_SIDE, _CHANNELS = 16, 1024


class Cost(NamedTuple):
    """The sizes on which the cost of a cycle depends."""

    tasks: int
    image_size: int
    width: float

    def total(self, of_encoder: float, of_decoder: float) -> float:
        """The cost of a cycle's forward passes from that of one encoder and decoder.

        Encoders: the student's, every teacher's, the auxiliary teacher's. Decoders:
        every teacher's, and the student's own in competition and in collaboration.
        """
        return (self.tasks + 2) * of_encoder + 3 * self.tasks * of_decoder


class Scale(NamedTuple):
    """Sizes of a benchmark.

    Attributes:
      units: of the encoder.
      width: of the networks.
      image_size: side in pixels.
      batch_size: images a call.
      matrix_size: rows and columns of the matrices whose product is the peak.
      repeats: timed rounds.
      tasks: for the table of costs; the first of each is the middle of the others.
      image_sizes: the same.
      widths: the same.
    """

    units: Sequence[int]
    width: float
    image_size: int
    batch_size: int
    matrix_size: int
    repeats: int
    tasks: Sequence[int] = (2, 1, 3, 4)
    image_sizes: Sequence[int] = (128, 64, 256)
    widths: Sequence[float] = (0.25, 0.5, 1.0)


SCALES = {
    "small": Scale(ENCODER_50, 0.25, 128, 4, 2048, 5),
    "full": Scale(
        *(ENCODER_50, 1.0, 256, 4, 4096, 7),
        image_sizes=(256, 64, 128),
        widths=(1.0, 0.25, 0.5),
    ),
}


def run(scale: str, repeats: Optional[int], precision: str) -> Measurement:
    """Times the machine, the networks, and networks of other sizes.

    Args:
      scale: one of `SCALES`.
      repeats: timed rounds, None for the scale's.
      precision: Keras policy of the table of costs; all else is measured in both.
    """
    return measure_roofline(SCALES[scale], repeats, precision)


def measure_roofline(
    sizes: Scale, repeats: Optional[int] = None, precision: str = "float32"
) -> Measurement:
    """`run` at any size."""
    sizes = sizes._replace(repeats=repeats or sizes.repeats)
    networks = {kind: _networks(sizes, policy) for kind, policy in _POLICIES.items()}
    cases, work = _machine_cases(sizes)
    for kind, pair in networks.items():
        for name, network, shape in _parts(pair, sizes.image_size):
            cases[f"{name}, {kind}"] = _forward(network, sizes.batch_size, shape)
            macs = total_multiply_adds(network, shape)
            work[f"{name}, {kind}"] = sizes.batch_size * macs
    times = time_cases(cases, sizes.repeats)
    seconds = times.medians
    rates = {case: count / seconds[case] for case, count in work.items()}
    peaks = {
        kind: max(rates[f"{case}, {kind}"] for case in ("matrices", "convolution"))
        for kind in _DTYPES
    }
    return Measurement(
        seconds,
        {
            f"{name}_{kind}_share_of_peak": rates[f"{name}, {kind}"] / peaks[kind]
            for kind in _DTYPES
            for name in ("encoder", "decoder")
        },
        {"precision_of_costs": precision, **sizes._asdict()},
        notes=(
            "The peak is the better of matrices and convolution.",
            "A cycle's forward parts are (tasks + 2) encoders, of teachers, auxiliary "
            "teacher and student, and 3 x tasks decoders.",
        ),
        peak_gib=times.peak_gib,
        tables={
            "Arithmetic": [
                {
                    "case": case,
                    "G multiply-adds": count / 1e9,
                    "ms": 1e3 * seconds[case],
                    "G multiply-adds/s": rates[case] / 1e9,
                    "of the peak": rates[case] / peaks[case.split(", ")[1]],
                }
                for case, count in work.items()
            ],
            "A cycle's forward parts, one image": cost_table(sizes, precision),
        },
    )


def _networks(sizes: Scale, policy: str, width: Optional[float] = None):
    tf.keras.mixed_precision.set_global_policy(policy)
    width = width or sizes.width
    networks = Encoder(sizes.units, width), Decoder(1, width)
    tf.keras.mixed_precision.set_global_policy("float32")
    return networks


def _parts(networks: Sequence[tf.keras.Model], image_size: int):
    """Encoder and decoder, with their names and the shapes of their inputs."""
    encoder, decoder = networks
    side = image_size // encoder.output_stride
    yield "encoder", encoder, (image_size, image_size, encoder.image_channels)
    yield "decoder", decoder, (side, side, encoder.representation_channels)


def _forward(
    network: tf.keras.Model, batch_size: int, shape: Sequence[int]
) -> Callable[[], Any]:
    inputs = tf.random.uniform((batch_size, *shape), -1, 1)
    return _call(lambda x: network(x, training=False), inputs)


def _machine_cases(sizes: Scale):
    """Calls that are large products and nothing else; and their multiply-adds."""
    cases, work = {}, {}
    for kind, dtype in _DTYPES.items():
        matrix = tf.cast(tf.random.uniform([sizes.matrix_size] * 2), dtype)
        cases[f"matrices, {kind}"] = _call(lambda a, b: a @ b, matrix, matrix)
        work[f"matrices, {kind}"] = sizes.matrix_size**3
        shape = (sizes.batch_size, _SIDE, _SIDE, _CHANNELS)
        images = tf.cast(tf.random.uniform(shape), dtype)
        kernel = tf.cast(tf.random.uniform([3, 3, _CHANNELS, _CHANNELS], -1, 1), dtype)
        cases[f"convolution, {kind}"] = _call(
            lambda x, k: tf.nn.conv2d(x, k, 1, "SAME"), images, kernel
        )
        work[f"convolution, {kind}"] = images.shape.num_elements() * 9 * _CHANNELS
    return cases, work


def _call(operation: Callable, *inputs: tf.Tensor) -> Callable[[], Any]:
    def compute(*inputs: tf.Tensor) -> List[tf.Tensor]:
        # Reading one number of each output waits for it without copying it.
        outputs = tf.nest.flatten(operation(*inputs))
        return [tf.reshape(tensor, [-1])[0] for tensor in outputs]

    # Inputs are arguments: of constants the result might be computed once for all.
    # Traced here and now: TensorFlow would warn of so many functions.
    function = tf.function(compute, autograph=False).get_concrete_function(*inputs)
    return lambda: [number.numpy() for number in function(*inputs)]


def cost_table(sizes: Scale, precision: str) -> List[Dict[str, Any]]:
    """Multiply-adds and seconds against tasks, image size and width, one at a time."""
    tasks, image_size, width = sizes.tasks[0], sizes.image_sizes[0], sizes.widths[0]
    costs = [Cost(n, image_size, width) for n in sorted(sizes.tasks)]
    costs += [Cost(tasks, size, width) for size in sizes.image_sizes[1:]]
    costs += [Cost(tasks, image_size, other) for other in sizes.widths[1:]]
    by_width = {
        width: _networks(sizes, precision, width) for width in {c.width for c in costs}
    }
    cases: Dict[str, Callable[[], Any]] = {}
    macs: Dict[str, int] = {}
    for cost in costs:
        networks = _parts(by_width[cost.width], cost.image_size)
        for case, (_, network, shape) in zip(_cases_of(cost), networks):
            if case not in cases:
                cases[case] = _forward(network, sizes.batch_size, shape)
                macs[case] = total_multiply_adds(network, shape)
    seconds = time_cases(cases, sizes.repeats).medians
    rows = []
    for cost in costs:
        of_all = [
            cost.total(*(of[c] for c in _cases_of(cost))) for of in (macs, seconds)
        ]
        row = {
            "G multiply-adds": of_all[0] / 1e9,
            "ms": 1e3 * of_all[1] / sizes.batch_size,
        }
        rows.append({**cost._asdict(), **row})
    return rows


def _cases_of(cost: Cost) -> Sequence[str]:
    """The two cases that a cost is made of; tasks only count how often."""
    return [f"{name} {cost.width} {cost.image_size}" for name in ("encoder", "decoder")]
