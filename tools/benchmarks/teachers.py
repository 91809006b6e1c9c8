"""Our teacher against the published PyTorch network of the same weights."""

import os
import pathlib
import tempfile
from typing import Any, Callable, Mapping, NamedTuple, Optional, Sequence

import numpy as np
import tensorflow as tf

from soka_tf.networks.decoder import Decoder
from soka_tf.networks.encoder import Encoder
from soka_tf.tasks import get_task
from soka_tf.teachers.pool import TeacherPool
from soka_tf.teachers.taskonomy.network import TaskonomyTeacher, teacher_variables
from soka_tf.teachers.taskonomy.visual_prior import load_visual_prior
from tools.benchmarks.inference import (
    Predict,
    accuracy_in_rooms,
    draw_weights,
    fold_teacher,
)
from tools.benchmarks.measure import Measurement, relative_rmse, time_cases

TASK = get_task("depth_zbuffer")


class Scale(NamedTuple):
    """Sizes of a benchmark: pixels, batches, rounds. The networks have one width."""

    image_size: int
    batch_sizes: Sequence[int]
    repeats: int


SCALES = {"small": Scale(128, (1, 4), 9), "full": Scale(256, (1, 16), 7)}


def run(scale: str, repeats: Optional[int], precision: str) -> Measurement:
    """Times a teacher as a pool runs it, folded and in bfloat16, and the published one.

    Args:
      scale: one of `SCALES`.
      repeats: timed rounds, None for the scale's.
      precision: not used; float32 and mixed_bfloat16 are compared.
    """
    sizes = SCALES[scale]
    published = _published_network()
    if published is None:
        teacher = TaskonomyTeacher(TASK.name, Encoder(), Decoder(TASK.channels))
        draw_weights(teacher, 0)
    else:
        teacher = _with_weights_of(published)
    return measure_teacher(
        sizes._replace(repeats=repeats or sizes.repeats),
        teacher,
        published,
        accuracy_in_rooms({"mixed_bfloat16": in_bfloat16}),
    )


def measure_teacher(
    sizes: Scale,
    teacher: TaskonomyTeacher,
    published: Optional[Any] = None,
    accuracy: Sequence[Mapping[str, Any]] = (),
) -> Measurement:
    """Times a teacher at any size.

    Args:
      sizes: of the images and batches.
      teacher: ours.
      published: the torch network of the same weights, or None to leave it out.
      accuracy: rows for the last table.
    """
    notes = ["ours: as a pool runs teachers. visualpriors: the published package's."]
    if published is None:
        notes.append(
            "visualpriors was left out. To compare with it: pip install torch "
            "visualpriors (for developers only)."
        )
    cases = {
        "ours": _as_a_pool_runs(teacher),
        "ours_folded": tf.function(fold_teacher(teacher), autograph=False),
        "ours_bfloat16": _as_a_pool_runs(in_bfloat16(teacher)),
    }
    seconds, peaks, ratio, agreement = {}, {}, {}, []
    random = np.random.default_rng(0)
    for batch in sizes.batch_sizes:
        shape = (batch, sizes.image_size, sizes.image_size, 3)
        images = random.uniform(-1, 1, shape).astype(np.float32)
        calls = {name: _call(predict, images) for name, predict in cases.items()}
        if published is not None:
            calls["visualpriors"] = _call_torch(published, images)
        times = time_cases(calls, sizes.repeats, warm_up=2)
        at = f"batch_{batch}"
        seconds.update((f"{k}_{at}", v) for k, v in times.medians.items())
        peaks.update((f"{k}_{at}", v) for k, v in times.peak_gib.items())
        ratio[f"bfloat16_over_float32_{at}"] = times.over("ours_bfloat16", "ours")
        ratio[f"folded_over_unfolded_{at}"] = times.over("ours_folded", "ours")
        if published is not None:
            ratio[f"ours_over_visualpriors_{at}"] = times.over("ours", "visualpriors")
        if batch == sizes.batch_sizes[0]:
            answers = {name: call() for name, call in calls.items()}
            agreement = [
                {"case": name, "rmse": relative_rmse(answer, answers["ours"])}
                for name, answer in answers.items()
            ]
    return Measurement(
        seconds,
        ratio,
        {"threads": _threads(), **sizes._asdict()},
        notes,
        peaks,
        {
            "Predictions at random weights against ours, in its own deviations": (
                agreement
            ),
            "Shipped teachers in drawn rooms: rmse against the truth": accuracy,
        },
    )


def in_bfloat16(teacher: TaskonomyTeacher) -> TaskonomyTeacher:
    """Returns the same teacher under Keras' policy mixed_bfloat16."""
    before = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        twin = TaskonomyTeacher.from_config(teacher.get_config())
    finally:
        tf.keras.mixed_precision.set_global_policy(before)
    values = teacher_variables(teacher)
    for name, variable in teacher_variables(twin).items():
        variable.assign(values[name])
    return twin


def _threads() -> int:
    return len(os.sched_getaffinity(0))


def _as_a_pool_runs(teacher: TaskonomyTeacher) -> Predict:
    pool = TeacherPool({TASK.name: teacher})

    @tf.function(autograph=False)
    def predict(images):
        outputs = pool(images)
        (representation,) = outputs.features["representation"]
        prediction = outputs.maps[TASK.name]
        return {
            "block3": outputs.features["block3"],
            "representation": representation,
            "prediction": prediction,
        }

    return predict


def _call(predict: Predict, images: np.ndarray) -> Callable[[], np.ndarray]:
    images = tf.constant(images)
    return lambda: predict(images)["prediction"].numpy()


def _published_network() -> Optional[Any]:
    """The package's network at random weights, None without the package."""
    try:
        import torch
        from visualpriors.taskonomy_network import TaskonomyNetwork
    except ImportError:
        return None
    network = TaskonomyNetwork(out_channels=TASK.channels).eval()
    random = np.random.default_rng(0)
    for name, tensor in network.state_dict().items():
        noise = random.normal(size=tensor.shape)
        if name.endswith("num_batches_tracked"):
            continue
        if tensor.ndim == 4:
            value = noise * np.sqrt(1.5 * tensor.shape[0] / tensor.numel())
        elif name.endswith(("running_var", "weight")):
            value = 1.0 + 0.3 * np.tanh(noise)
        else:
            value = 0.1 * noise
        tensor.copy_(torch.from_numpy(np.asarray(value)))
    return network


def _with_weights_of(network: Any) -> TaskonomyTeacher:
    """Our teacher of the package's weights, by way of its files."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for part in ("encoder", "decoder"):
            paths.append(pathlib.Path(folder) / f"{part}.pth")
            state = getattr(network, part).state_dict()
            torch.save({"state_dict": state}, paths[-1])
        return load_visual_prior(TASK.name, *paths)[0]


def _call_torch(network: Any, images: np.ndarray) -> Callable[[], np.ndarray]:
    import torch

    torch.set_num_threads(_threads())
    tensor = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())

    def call():
        with torch.inference_mode():
            prediction = network.decoder(network.encoder(tensor))
        return prediction.numpy().transpose(0, 2, 3, 1)

    return call
