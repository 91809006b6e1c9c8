"""The exported student against its teachers: Table 3 of the paper's supplement."""

import functools
import os
import tempfile
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence

import numpy as np
import tensorflow as tf

from soka_tf.data import encodings
from soka_tf.data.pipeline import Batches, labelled_dataset
from soka_tf.data.rooms.room_files import generate_rooms
from soka_tf.data.sources import taskonomy
from soka_tf.evaluation.evaluator import evaluate
from soka_tf.networks.decoder import Decoder
from soka_tf.networks.encoder import ENCODER_26, ENCODER_50, Encoder
from soka_tf.networks.folding import PRECISIONS, fold
from soka_tf.networks.processor import has_amx
from soka_tf.serving.saved_model import export_student
from soka_tf.soka.student import Student
from soka_tf.tasks import get_task
from soka_tf.teachers.finding import load_teachers
from soka_tf.teachers.taskonomy.network import TaskonomyTeacher
from tools.benchmarks.measure import Measurement, relative_rmse, time_cases, wait

TASKS = tuple(get_task(n) for n in ("depth_zbuffer", "edge_texture", "normal"))
COUNTS = (2, 3)
_ROOMS_SIZE = 64  # of the shipped teachers


class Scale(NamedTuple):
    """Sizes of a benchmark: the encoders' units, width, pixels, batches, rounds."""

    units: Sequence[int]
    width: float
    image_size: int
    batch_sizes: Sequence[int]
    repeats: int


SCALES = {
    "small": Scale(ENCODER_50, 0.25, 128, (1, 4), 9),
    "full": Scale(ENCODER_50, 1.0, 256, (1, 16), 5),
}
Predict = Callable[[tf.Tensor], Mapping[str, tf.Tensor]]


def run(scale: str, repeats: Optional[int], precision: str) -> Measurement:
    """Times students of two and three tasks and as many teachers.

    Args:
      scale: one of `SCALES`.
      repeats: timed rounds, None for the scale's.
      precision: not used; float32 and what this processor is best at are compared.
    """
    sizes = SCALES[scale]
    accuracy = accuracy_in_rooms(
        {p: functools.partial(fold_teacher, precision=p) for p in PRECISIONS}
    )
    return measure_inference(sizes._replace(repeats=repeats or sizes.repeats), accuracy)


def measure_inference(
    sizes: Scale, accuracy: Sequence[Mapping[str, Any]] = ()
) -> Measurement:
    """`run` at any size; the cases are those of `build_cases`."""
    networks = Networks.build(sizes.units, sizes.width)
    random = np.random.default_rng(0)
    seconds, peaks, ratio, errors = {}, {}, {}, []
    with tempfile.TemporaryDirectory() as folder:
        cases = build_cases(networks, sizes.image_size, folder)
        for batch in sizes.batch_sizes:
            shape = (batch, sizes.image_size, sizes.image_size, 3)
            images = tf.constant(random.uniform(-1, 1, shape), tf.float32)
            times = time_cases(
                {name: _call(predict, images) for name, predict in cases.items()},
                # Single images are over soon, and their times differ more.
                sizes.repeats * (3 if batch == 1 else 1),
                warm_up=4,  # kernels are made anew for every thread that meets them
            )
            at = f"batch_{batch}"
            seconds.update((f"{k}_{at}", v) for k, v in times.medians.items())
            peaks.update((f"{k}_{at}", v) for k, v in times.peak_gib.items())
            for count in COUNTS:
                of = f"{count}_tasks"
                for name, (case, other) in _RATIOS.items():
                    ratio[f"{name}_{of}_{at}"] = times.over(
                        f"{case}_{of}", f"{other}_{of}"
                    )
            if batch == sizes.batch_sizes[0]:
                errors = _errors(cases, images)
    best = "bfloat16" if has_amx() else "float32"
    return Measurement(
        seconds,
        ratio,
        {"exported_precision": best, **sizes._asdict()},
        notes=[
            "student, teachers: both folded, in float32. unfolded: both as Keras runs "
            "them, in float32; single students (n-to-n): the same, with encoders of 26 "
            f"layers. exported: by export_student(precision='auto'), {best}, uint8 "
            "images to maps in physical units."
        ],
        peak_gib=peaks,
        tables={
            "Students against Keras' own: rmse in the map's deviations": errors,
            "Shipped teachers in drawn rooms: rmse against the truth": accuracy,
        },
    )


_UNFOLDED = ("unfolded_student", "unfolded_teachers")
_SINGLE = "unfolded_single_students"
_RATIOS = {
    "student_over_teachers": ("student", "teachers"),
    "folded_over_unfolded_student": ("student", _UNFOLDED[0]),
    "unfolded_student_over_teachers": _UNFOLDED,
    "single_students_over_teachers": (_SINGLE, _UNFOLDED[1]),
    "exported_over_teachers": ("exported", _UNFOLDED[1]),
}


class Networks(NamedTuple):
    """Teachers of `TASKS`, students of one each and of all; random weights."""

    teachers: Dict[str, TaskonomyTeacher]
    singles: Dict[str, TaskonomyTeacher]
    student: Student

    @classmethod
    def build(cls, units: Sequence[int], width: float) -> "Networks":
        """Builds the networks of an encoder's units and a width."""

        def decoder(task):
            return Decoder(task.channels, width, name=f"decoder_{task.name}")

        def each(units):
            return {
                task.name: TaskonomyTeacher(
                    task.name, Encoder(units, width), decoder(task)
                )
                for task in TASKS
            }

        teachers, singles = each(units), each(ENCODER_26)
        student = Student(
            Encoder(units, width), {task.name: decoder(task) for task in TASKS}
        )
        networks = [student, *teachers.values(), *singles.values()]
        for seed, network in enumerate(networks):
            draw_weights(network, seed)
        return cls(teachers, singles, student)


def draw_weights(network: tf.keras.Model, seed: int) -> None:
    """Draws weights that neither blow activations up nor let them vanish."""
    random = np.random.default_rng(seed)
    for variable in network.variables:
        noise = random.normal(size=variable.shape)
        if "kernel" in variable.name:
            value = noise * np.sqrt(1.5 / np.prod(variable.shape[:-1]))
        elif "variance" in variable.name or "gamma" in variable.name:
            value = 1.0 + 0.3 * np.tanh(noise)
        else:
            value = 0.1 * noise
        variable.assign(value)


def build_cases(networks: Networks, image_size: int, folder: str) -> Dict[str, Predict]:
    """Returns case and number of tasks -> images float32 in [-1, 1] to answers.

    Args:
      networks: what is compared.
      image_size: of the exports.
      folder: where these are written.
    """
    student, teachers = networks.student, networks.teachers

    # Every network is traced once, for any batch, and shared by the cases.
    def graph(function, channels=3):
        spec = tf.TensorSpec([None, None, None, channels])
        return tf.function(function, autograph=False).get_concrete_function(spec)

    def each(of):
        graphs = {
            n: graph(functools.partial(_prediction, teacher))
            for n, teacher in of.items()
        }
        return lambda images, names: {n: graphs[n](images) for n in names}

    def one(encoder, decoders):
        encode = graph(lambda x: encoder(x, training=False)["representation"])
        graphs = {
            n: graph(functools.partial(d, training=False), encode.outputs[0].shape[-1])
            for n, d in decoders.items()
        }

        def predict(images, names):
            representation = encode(images)
            return {n: graphs[n](representation) for n in names}

        return predict

    predictions = {
        "teachers": each({name: fold_teacher(t) for name, t in teachers.items()}),
        "student": one(
            fold(student.encoder),
            {n: fold(d) for n, d in student.decoders.items()},
        ),
        "unfolded_teachers": each(teachers),
        _SINGLE: each(networks.singles),
        "unfolded_student": one(student.encoder, student.decoders),
    }
    cases = {}
    for count in COUNTS:
        tasks = TASKS[:count]
        names = [task.name for task in tasks]
        for case, predict in predictions.items():
            cases[f"{case}_{count}_tasks"] = functools.partial(predict, names=names)
        export_dir = os.path.join(folder, str(count))
        export_student(student, tasks, image_size, export_dir, precision="auto")
        cases[f"exported_{count}_tasks"] = _exported(export_dir)
    return cases


def _prediction(teacher: Predict, images: tf.Tensor) -> tf.Tensor:
    return teacher(images)["prediction"]


def fold_teacher(teacher: TaskonomyTeacher, precision: str = "float32") -> Predict:
    """A folded teacher: images to "representation" and "prediction"."""
    encoder = fold(teacher.encoder, precision)
    decoder = fold(teacher.decoder, precision)

    def predict(images):
        representation = encoder(images, training=False)["representation"]
        prediction = decoder(representation, training=False)
        return {"representation": representation, "prediction": prediction}

    return predict


def _exported(folder: str) -> Predict:
    loaded = tf.saved_model.load(folder)
    serve = loaded.signatures["serving_default"]

    def predict(images):
        return serve(images=_as_bytes(images))

    predict.loaded = loaded  # a signature alone does not keep its graph
    return predict


def _as_bytes(images: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.round(127.5 * (images + 1)), tf.uint8)


def _call(predict: Predict, images: tf.Tensor) -> Callable[[], None]:
    return lambda: wait(predict(images))


def _errors(cases: Mapping[str, Predict], images: tf.Tensor) -> List[Dict[str, Any]]:
    """How far the folded and the exported student are from the Keras student."""
    # The images that the export sees, in steps of 1 / 255.
    images = tf.cast(_as_bytes(images), tf.float32) / 127.5 - 1
    of = f"{COUNTS[-1]}_tasks"
    keras, folded = cases[f"unfolded_student_{of}"], cases[f"student_{of}"]
    expected, found = keras(images), folded(images)
    exported = cases[f"exported_{of}"](images)
    rows = []
    for task in TASKS:
        wanted = encodings.decode(task, expected[task.name]).numpy()
        same = encodings.decode(task, found[task.name]).numpy()
        rows.append(
            {
                "task": task.name,
                "folded, float32": relative_rmse(same, wanted),
                "exported": relative_rmse(exported[task.name].numpy(), wanted),
            }
        )
    return rows


def accuracy_in_rooms(
    variants: Mapping[str, Callable[[TaskonomyTeacher], Predict]],
    names: Sequence[str] = ("depth_zbuffer", "edge_texture", "normal"),
    rooms: int = 12,
) -> List[Dict[str, Any]]:
    """What other ways to compute cost the shipped teachers, against drawn truth.

    Args:
      variants: name -> how it is made of a teacher.
      names: tasks.
      rooms: how many are drawn, each seen four times.

    Returns:
      Rows of task, variant, the rmse of both, and the change in percent.
    """
    tasks = [get_task(name) for name in names]
    teachers = load_teachers(names)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        domains = ["rgb", *names]
        generate_rooms(folder, 3, rooms, 4, _ROOMS_SIZE, domains, progress=False)
        data = labelled_dataset(
            taskonomy.find(folder, names), tasks, Batches(_ROOMS_SIZE, 16)
        )
        for variant, make in variants.items():
            made = {name: make(teacher) for name, teacher in teachers.items()}

            def predict(images, training, made=made):
                return {n: made[n](images)["prediction"] for n in names}

            found = evaluate(
                predict, teachers, data, tasks, "rooms", 0, {}, baseline=False
            )
            for name in names:
                before = found["tasks"][name]["teacher"]["rmse"]
                after = found["tasks"][name]["student"]["rmse"]
                rows.append(
                    {
                        "task": name,
                        "variant": variant,
                        "rmse, float32": before,
                        "rmse": after,
                        "change %": 100 * (after / before - 1),
                    }
                )
    return rows
