"""The training cycle against the plain distillation step and the naive cycle."""

from typing import Any, Callable, Dict, NamedTuple, Optional

import numpy as np
import tensorflow as tf

from soka_tf.networks.decoder import Decoder
from soka_tf.networks.encoder import Encoder
from soka_tf.soka.amalgamation import Amalgamation
from soka_tf.soka.gradnorm import GradNorm
from soka_tf.soka.model import SokaModel
from soka_tf.soka.student import Student
from soka_tf.tasks import get_task
from soka_tf.teachers.pool import TeacherPool
from soka_tf.teachers.teacher import Teacher
from soka_tf.training.optimizers import make_optimizer
from tests.soka import reference
from tools.benchmarks.measure import Measurement, time_cases

TASKS = ("depth_zbuffer", "edge_texture")
AUXILIARY = "keypoints3d"
LAYERS = ("block3", "representation")


class Scale(NamedTuple):
    """Sizes of a benchmark: the networks' width, pixels, images a step, rounds."""

    width: float
    image_size: int
    batch_size: int
    repeats: int


SCALES = {"small": Scale(0.5, 256, 2, 7), "full": Scale(1.0, 256, 4, 7)}


def run(scale: str, repeats: Optional[int], precision: str) -> Measurement:
    """Times teachers, student-only step, joint step, cycle, cached and naive cycle.

    Args:
      scale: one of `SCALES`.
      repeats: timed rounds, None for the scale's.
      precision: Keras policy of all networks.
    """
    sizes = SCALES[scale]
    repeats = repeats or sizes.repeats
    tf.keras.mixed_precision.set_global_policy(precision)
    model = build_model(sizes.width)
    random = np.random.default_rng(0)
    shape = (sizes.batch_size, sizes.image_size, sizes.image_size, 3)
    images = tf.constant(random.uniform(-1, 1, shape), tf.float32)
    times = time_cases(step_cases(model, images), repeats)
    tf.keras.mixed_precision.set_global_policy("float32")
    return Measurement(
        times.medians,
        {
            "cycle_over_joint": times.over("cycle", "joint"),
            "cycle_over_naive": times.over("cycle", "naive"),
            "cached_over_student": times.over("cached", "student"),
        },
        {
            "scale": scale,
            "precision": precision,
            "tasks": len(TASKS),
            "auxiliaries": 1,
            **sizes._replace(repeats=repeats)._asdict(),
        },
        peak_gib=times.peak_gib,
    )


def build_model(width: float) -> SokaModel:
    """A compiled model of the paper's networks, of this width, at random weights."""
    tf.keras.utils.set_random_seed(0)

    def encoder() -> Encoder:
        return Encoder(width=width)

    def decoder(task: str) -> Decoder:
        return Decoder(get_task(task).channels, width=width, name=f"decoder_{task}")

    teachers = TeacherPool(
        {task: Teacher(task, encoder(), decoder(task)) for task in TASKS},
        {AUXILIARY: Teacher(AUXILIARY, encoder())},
    )
    student = Student(encoder(), {task: decoder(task) for task in TASKS})
    channels = {layer: student.encoder.output[layer].shape[-1] for layer in LAYERS}
    amalgamation = Amalgamation(
        {layer: [channels[layer]] * len(teachers.teachers) for layer in LAYERS},
        channels,
        auxiliaries=1,
    )
    model = SokaModel(
        student,
        teachers,
        GradNorm(len(TASKS)),
        amalgamation,
        joint_amalgamation=True,
        weight_decay=1e-6,
    )
    model.compile({player: make_optimizer("adam", 1e-4) for player in _PLAYERS})
    return model


_PLAYERS = ("encoder", "decoders", "task_weights", "amalgamation")


def step_cases(model: SokaModel, images: tf.Tensor) -> Dict[str, Callable[[], Any]]:
    """The steps to be timed. All take the same losses on the same images.

    teachers: their pass alone. student: the joint step on given outputs of the
    teachers. joint: encoder and decoders together on all losses (KD with MIA).
    cycle: the three phases. cached: the three phases on given outputs of the teachers.
    naive: the three phases each on its own, as tests/soka/reference.py writes them.
    """
    teach = tf.function(lambda: model.teachers(images, LAYERS), autograph=False)
    outputs = teach()
    # Tuples: of a list tf.data would make one tensor.
    features = {layer: tuple(values) for layer, values in outputs.features.items()}
    taught = {"predictions": outputs.predictions, "features": features}
    given = {"rgb": images, "teachers": taught}

    @tf.function(autograph=False)
    def naive():
        reference.cycle(model, images)
        return tf.identity(model.step)

    def step(stage: str, data: Dict[str, Any]) -> Callable[[], Any]:
        function = model.make_step(stage)
        iterator = iter(tf.data.Dataset.from_tensors(data).repeat())
        return lambda: _wait(function(iterator))

    return {
        "teachers": lambda: _wait(teach()),
        "student": step("joint", given),
        "joint": step("joint", {"rgb": images}),
        "cycle": step("cycle", {"rgb": images}),
        "cached": step("cycle", given),
        "naive": lambda: _wait(naive()),
    }


def _wait(outputs: Any) -> None:
    for tensor in tf.nest.flatten(outputs):
        tensor.numpy()
