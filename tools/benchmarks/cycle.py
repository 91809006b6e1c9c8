"""The training cycle against the plain distillation step and the naive cycle."""

import time
from typing import Any, Callable, Dict, NamedTuple, Optional

import numpy as np
import tensorflow as tf

from soka_tf.data.targets import Targets
from soka_tf.networks.decoder import Decoder
from soka_tf.networks.encoder import Encoder
from soka_tf.networks.precision import compute_in
from soka_tf.networks.processor import has_amx
from soka_tf.runs.optimizers import make_optimizer
from soka_tf.soka.amalgamation import Amalgamation
from soka_tf.soka.balancing.gradnorm import GradNorm
from soka_tf.soka.model import SokaModel
from soka_tf.soka.objective import Objective
from soka_tf.soka.schedule import Schedule
from soka_tf.soka.student import Student
from soka_tf.tasks import get_task
from soka_tf.teachers.pool import TeacherPool
from soka_tf.teachers.taskonomy.network import TaskonomyTeacher
from tests.soka import reference
from tools.benchmarks.measure import Measurement, time_cases, wait

TASKS = ("depth_zbuffer", "edge_texture")
AUXILIARY = "keypoints3d"
LAYERS = ("block3", "representation")
_PLAYERS = ("encoder", "decoders", "task_weights", "amalgamation")
_IN_BFLOAT16 = "cycle_bfloat16"


class Scale(NamedTuple):
    """Width of the networks, pixels, images a step, rounds."""

    width: float
    image_size: int
    batch_size: int
    repeats: int


SCALES = {"small": Scale(1.0, 128, 2, 5), "full": Scale(1.0, 256, 4, 7)}


def run(scale: str, repeats: Optional[int], precision: str) -> Measurement:
    """Times teachers, student-only step, joint step, cycles in several forms.

    Args:
      scale: one of `SCALES`.
      repeats: timed rounds, None for the scale's.
      precision: of the student, see `soka_tf.networks.precision`; the teachers compute
        likewise.
    """
    sizes = SCALES[scale]
    repeats = repeats or sizes.repeats
    random = np.random.default_rng(0)
    shape = (sizes.batch_size, sizes.image_size, sizes.image_size, 3)
    images = tf.constant(random.uniform(-1, 1, shape), tf.float32)
    cases = step_cases(build_model(sizes.width, precision), images)
    simultaneous = build_model(sizes.width, precision, "simultaneous")
    cases["simultaneous"] = step_case(simultaneous, "cycle", {"rgb": images})
    cases["cached_simultaneous"] = step_case(
        simultaneous,
        "cycle",
        with_outputs(images, simultaneous.teachers(images, LAYERS)),
    )
    compiled = build_model(sizes.width, precision, jit_compile=True)
    started = time.perf_counter()
    cases["compiled"] = step_case(compiled, "cycle", {"rgb": images})
    cases["compiled"]()
    notes = [f"XLA took {time.perf_counter() - started:.0f} s to compile the cycle."]
    if scale == "full" and precision == "float32":
        if has_amx():
            cases[_IN_BFLOAT16] = step_case(
                build_model(sizes.width, "mixed_bfloat16"), "cycle", {"rgb": images}
            )
        else:
            notes.append("No cycle in bfloat16 beside: this processor has no AMX.")
    times = time_cases(cases, repeats)
    ratio = {
        "cycle_over_joint": times.over("cycle", "joint"),
        "simultaneous_over_joint": times.over("simultaneous", "joint"),
        "cycle_over_naive": times.over("cycle", "naive"),
        "cached_over_student": times.over("cached", "student"),
        "cached_simultaneous_over_student": times.over(
            "cached_simultaneous", "student"
        ),
        "compiled_over_cycle": times.over("compiled", "cycle"),
    }
    if _IN_BFLOAT16 in cases:
        ratio["bfloat16_over_float32"] = times.over(_IN_BFLOAT16, "cycle")
    return Measurement(
        times.medians,
        ratio,
        {
            "scale": scale,
            "precision": precision,
            "tasks": len(TASKS),
            "auxiliaries": 1,
            **sizes._replace(repeats=repeats)._asdict(),
        },
        notes,
        times.peak_gib,
    )


def build_model(
    width: float,
    precision: str = "float32",
    order: str = "alternating",
    jit_compile: bool = False,
) -> SokaModel:
    """A compiled model, student and teachers of one width, at random weights."""
    tf.keras.utils.set_random_seed(0)
    teachers_precision = "float32" if precision == "float32" else "bfloat16"
    with compute_in(precision):
        model = _build_model(width, teachers_precision, order)
    optimizers = {player: make_optimizer("adam", 1e-4) for player in _PLAYERS}
    model.compile(optimizers, jit_compile)
    return model


def _build_model(width: float, teachers_precision: str, order: str) -> SokaModel:

    def encoder() -> Encoder:
        return Encoder(width=width)

    def decoder(task: str) -> Decoder:
        return Decoder(get_task(task).channels, width=width, name=f"decoder_{task}")

    teachers = TeacherPool(
        {task: TaskonomyTeacher(task, encoder(), decoder(task)) for task in TASKS},
        {AUXILIARY: TaskonomyTeacher(AUXILIARY, encoder())},
        precision=teachers_precision,
    )
    student = Student(encoder(), {task: decoder(task) for task in TASKS})
    channels = {layer: student.encoder.output[layer].shape[-1] for layer in LAYERS}
    amalgamation = Amalgamation(
        {layer: [channels[layer]] * len(teachers.teachers) for layer in LAYERS},
        channels,
        "reconstruction",
        auxiliaries=1,
    )
    return SokaModel(
        student,
        teachers,
        GradNorm(len(TASKS)),
        amalgamation,
        schedule=Schedule(order=order),
        objective=Objective(weight_decay=1e-6),
    )


def step_cases(model: SokaModel, images: tf.Tensor) -> Dict[str, Callable[[], Any]]:
    """The steps to be timed. All take the same losses on the same images.

    teachers: their pass alone. student: the joint step on given outputs of the
    teachers. joint: encoder and decoders together on all losses (KD with MIA).
    cycle: the three phases. cached: the three phases on given outputs of the teachers.
    naive: the three phases each on its own, as tests/soka/reference.py writes them.
    """
    teach = tf.function(lambda: model.teachers(images, LAYERS), autograph=False)
    outputs = teach()
    given = with_outputs(images, outputs)

    @tf.function(autograph=False)
    def naive():
        reference.cycle(model, images)
        return tf.identity(model.step)

    return {
        "teachers": lambda: wait(teach()),
        "student": step_case(model, "joint", given),
        "joint": step_case(model, "joint", {"rgb": images}),
        "cycle": step_case(model, "cycle", {"rgb": images}),
        "cached": step_case(model, "cycle", given),
        "naive": lambda: wait(naive()),
    }


def with_outputs(images: tf.Tensor, outputs: Targets) -> Dict[str, Any]:
    """A batch as a step takes it where the teachers need not be run."""
    # Tuples: of a list tf.data would make one tensor.
    features = {layer: tuple(values) for layer, values in outputs.features.items()}
    return {"rgb": images, "targets": outputs._replace(features=features)}


def step_case(model: SokaModel, stage: str, data: Dict[str, Any]) -> Callable[[], Any]:
    """One step of a stage on the same batch, again and again."""
    function = model.make_step(stage)
    iterator = iter(tf.data.Dataset.from_tensors(data).repeat())
    return lambda: wait(function(iterator))
