r"""Trains the small teachers for the procedural rooms that come with soka_tf.

Example (about a quarter of an hour a task on one core; one task: --task=normal):

    python tools/train_teachers.py --gin_file=gin/rooms/teachers.gin \
        --out_dir=runs/teachers

Each task's encoder and decoder are trained on labelled rooms, measured on rooms never
seen, and written as <task>.safetensors in float16 beside manifest.json (sha256,
command, scores against a median image).
"""

import datetime
import json
import os
import pathlib
from typing import Any, Callable, Dict, Mapping, NamedTuple, Sequence, Tuple

from absl import flags, logging

from soka_tf import cli
from soka_tf.atomic import write_json
from soka_tf.errors import UserError
from soka_tf.runs.config import read_gin

FLAGS = flags.FlagValues()
_GIN_FILE = flags.DEFINE_multi_string(
    "gin_file", ["gin/rooms/teachers.gin"], "gin files", flag_values=FLAGS
)
_GIN_PARAM = flags.DEFINE_multi_string(
    "gin_param",
    [],
    'single bindings, e.g. "train_teachers.steps = 100"',
    flag_values=FLAGS,
)
_OUT_DIR = flags.DEFINE_string(
    "out_dir", "runs/teachers", "folder of the teachers", flag_values=FLAGS
)
_TASK = flags.DEFINE_multi_string(
    "task", [], "only these tasks; all of the gin file otherwise", flag_values=FLAGS
)

# Labels computed from the colours themselves are wrong for shifted colours.
_COLOUR_TASKS = ("edge_texture", "keypoints2d")


class Settings(NamedTuple):
    """The bindings of train_teachers; see gin/rooms/teachers.gin.

    Attributes:
      tasks: to train a teacher of.
      losses: task -> "l1"; or "l2", for sparse maps, whose median, all that l1 finds,
        is empty.
      encoder: arguments of `Encoder`.
      decoder: arguments of `Decoder`.
      image_size: side in pixels.
      data_dir: where rooms are drawn.
      rooms_seed: of the rooms.
      rooms: to train on.
      views: of each.
      test_rooms: to measure on.
      test_views: of each.
      steps: of each teacher.
      batch_size: images a step.
      learning_rate: at the start; it falls to 0.
      frozen_share: of the steps, at the end, run with BatchNorm's moving statistics, as
        the teacher is used: an unusual image, which a batch's own statistics would
        tame, otherwise drives a small network to its limits.
      seed: of weights, batches and augmentation.
    """

    tasks: Sequence[str]
    losses: Mapping[str, str]
    encoder: Mapping[str, Any]
    decoder: Mapping[str, Any]
    image_size: int
    data_dir: str
    rooms_seed: int
    rooms: int
    views: int
    test_rooms: int
    test_views: int
    steps: int
    batch_size: int
    learning_rate: float
    frozen_share: float
    seed: int = 0


def read_settings(gin_files: Sequence[str], gin_params: Sequence[str]) -> Settings:
    """Reads the bindings of train_teachers.

    Raises:
      UserError: for other bindings, and where one is missing.
    """
    bound = read_gin(gin_files, gin_params)
    known = [f"train_teachers.{name}" for name in Settings._fields]
    unknown = [name for name in bound if name not in known]
    missing = [name for name in known[:-1] if name not in bound]
    if unknown or missing:
        wrong = [f"unknown {name}" for name in unknown]
        wrong += [f"missing {name}" for name in missing]
        raise UserError(
            f"--gin_file, --gin_param: {', '.join(wrong)}. gin/rooms/teachers.gin "
            "binds all that there is."
        )
    return Settings(**{name.split(".")[1]: value for name, value in bound.items()})


def augment(batch: Mapping[str, Any], task: str, seed) -> Dict[str, Any]:
    """Mirrors half of the images, with their labels, and shifts the colours.

    Args:
      batch: of `labelled_dataset`; not changed.
      task: whose labels are in it, an image.
      seed: int [2].
    """
    import tensorflow as tf

    count = tf.shape(batch["rgb"])[0]
    mirrored = tf.random.stateless_uniform([count, 1, 1, 1], seed) < 0.5
    batch = dict(batch)
    for key in ("rgb", "mask", task):
        turned = tf.reverse(batch[key], axis=[2])
        if key == "normal":
            turned *= tf.constant([-1.0, 1.0, 1.0])
        batch[key] = tf.where(mirrored, turned, batch[key])
    if task not in _COLOUR_TASKS:
        gain = tf.exp(tf.random.stateless_normal([count, 1, 1, 3], seed + 1) * 0.15)
        colours = tf.clip_by_value(gain * 0.5 * (batch["rgb"] + 1.0), 0.0, 1.0)
        batch["rgb"] = 2.0 * colours - 1.0
    return batch


def rooms_samples(
    tasks: Sequence[str], settings: Settings
) -> Tuple[Sequence[Any], Sequence[Any]]:
    """Draws what is missing of the labelled rooms; returns train and test samples."""
    from soka_tf.data.rooms import room_files as drawing
    from soka_tf.data.sources import taskonomy

    seed, size, rooms = settings.rooms_seed, settings.image_size, settings.rooms
    domains = sorted({"rgb", "depth_zbuffer", *tasks})
    parts = []
    for part, first, count, views in (
        ("train", 0, rooms, settings.views),
        ("test", rooms, settings.test_rooms, settings.test_views),
    ):
        folder = drawing.rooms_folder_name(seed, size)
        root = os.path.join(settings.data_dir, part, folder)
        numbers = range(first, first + count)
        drawing.generate_rooms(root, seed, numbers, views, size, domains)
        parts.append(taskonomy.find(root, domains))
    return tuple(parts)


def train_teacher(task: str, samples: Sequence[Any], settings: Settings):
    """Trains one teacher; returns it, frozen, and the head it was trained with.

    Raises:
      UserError: if the task has no loss, or one that there is not.
    """
    import tensorflow as tf
    from tqdm import trange

    from soka_tf.data.pipeline import Batches, labelled_dataset
    from soka_tf.runs.optimizers import make_optimizer
    from soka_tf.runs.schedules import poly_schedule
    from soka_tf.tasks import get_task
    from soka_tf.teachers.taskonomy.network import TaskonomyTeacher

    row, size, steps = get_task(task), settings.image_size, settings.steps
    loss_of = _loss(row, settings.losses)
    tf.keras.utils.set_random_seed(settings.seed)
    encoder, head = _networks(row, settings)
    variables = encoder.trainable_variables + head.trainable_variables
    optimizer = make_optimizer("adam", poly_schedule(settings.learning_rate, steps))
    dataset = labelled_dataset(
        *(samples, [row], Batches(size, settings.batch_size)),
        cache_in_memory=True,
        seed=settings.seed,
        repeat=True,
    )

    @tf.function
    def step(batch, seed, training):
        if row.channels:
            batch = augment(batch, row.name, seed)
        with tf.GradientTape() as tape:
            representation = encoder(batch["rgb"], training=training)["representation"]
            loss = loss_of(head(representation, training=training), batch)
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
        return loss

    iterator = iter(dataset)
    bar = trange(steps, desc=f"teacher of {row.name}", mininterval=2.0)
    for i in bar:
        training = i < round(steps * (1.0 - settings.frozen_share))
        loss = step(next(iterator), tf.constant([settings.seed, 2 * i]), training)
        if i % 50 == 0:
            bar.set_postfix(loss=f"{float(loss):.4f}")
    return TaskonomyTeacher(
        row.name, encoder, head if row.channels else None, size
    ), head


def _networks(task: Any, settings: Settings) -> Tuple[Any, Any]:
    import tensorflow as tf

    from soka_tf.networks.decoder import Decoder
    from soka_tf.networks.encoder import Encoder

    encoder = Encoder(**settings.encoder)
    if task.channels:
        return encoder, Decoder(task.channels, **settings.decoder)
    # vanishing_point: nine numbers, read from the whole representation
    head = tf.keras.Sequential(
        [tf.keras.layers.Flatten(), tf.keras.layers.Dense(9)], name="head"
    )
    side = settings.image_size // encoder.output_stride
    head.build((None, side, side, encoder.representation_channels))
    return encoder, head


def _loss(task: Any, losses: Mapping[str, str]) -> Callable[[Any, Any], Any]:
    """The loss of a prediction on a batch, where labels are valid."""
    import tensorflow as tf

    from soka_tf.soka.distillation import KINDS, soft_target_loss

    kind = losses.get(task.name)
    if kind not in KINDS:
        raise UserError(
            f"train_teachers.losses must be one of {KINDS}. Received: {kind!r} for "
            f"{task.name!r}."
        )

    def loss(prediction, batch):
        weight = tf.cast(batch[f"valid/{task.name}"], tf.float32)
        weight = tf.reshape(weight, [-1, *[1] * (prediction.shape.rank - 1)])
        if task.channels and task.masked:
            weight *= batch["mask"]
        return soft_target_loss(prediction, batch[task.name], kind, weight)

    return loss


def measure(teacher, test_samples: Sequence[Any], image_size: int) -> Dict[str, Any]:
    """Scores of a teacher and of the median image on unseen rooms."""
    from soka_tf.data.pipeline import Batches, labelled_dataset
    from soka_tf.evaluation.evaluator import evaluate

    dataset = labelled_dataset(test_samples, [teacher.task], Batches(image_size, 32))
    name = teacher.task.name
    result = evaluate(
        lambda images, training: {name: teacher(images)["prediction"]},
        {name: teacher},
        dataset,
        [teacher.task],
        split="unseen rooms",
        step=0,
        parameters={},
    )["tasks"][name]
    return {"teacher": result["teacher"], "median": result["baseline_median"]}


def measure_directions(
    teacher, head, test_samples: Sequence[Any], image_size: int
) -> Dict[str, Any]:
    """Mean angle of the three vanishing directions and of their constant answer."""
    import numpy as np

    from soka_tf.data.pipeline import Batches, labelled_dataset
    from soka_tf.evaluation.metrics import angle_deg

    name = teacher.task.name
    predicted, wanted = [], []
    for batch in labelled_dataset(
        test_samples, [teacher.task], Batches(image_size, 32)
    ):
        answer = head(teacher(batch["rgb"])["representation"], training=False)
        predicted.append(answer.numpy().reshape(-1, 3, 3))
        wanted.append(batch[name].numpy().reshape(-1, 3, 3))
    predicted, wanted = np.concatenate(predicted), np.concatenate(wanted)
    constant = np.broadcast_to(np.median(wanted, axis=0), wanted.shape)
    return {
        "teacher": {"mean_angle_deg": float(angle_deg(predicted, wanted).mean())},
        "median": {"mean_angle_deg": float(angle_deg(constant, wanted).mean())},
    }


def write_manifest(out_dir: pathlib.Path, entry: Mapping[str, Any], task: str) -> None:
    """Adds one teacher to the folder's manifest.json."""
    path = out_dir / "manifest.json"
    manifest = {"teachers": {}}
    if path.exists():
        manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["teachers"][task] = dict(entry)
    manifest["teachers"] = dict(sorted(manifest["teachers"].items()))
    write_json(path, manifest, indent=2)


def main() -> None:
    """Trains, measures and writes every teacher asked for."""
    from soka_tf.tasks import get_task
    from soka_tf.teachers.taskonomy.teacher_file import load_teacher, save_teacher

    settings = read_settings(_GIN_FILE.value, _GIN_PARAM.value)
    out_dir = pathlib.Path(_OUT_DIR.value)
    command = "python tools/train_teachers.py " + " ".join(
        [f"--gin_file={name}" for name in _GIN_FILE.value]
        + [f'--gin_param="{param}"' for param in _GIN_PARAM.value]
    )
    tasks = [get_task(name).name for name in _TASK.value or settings.tasks]
    train, test = rooms_samples(tasks, settings)
    for task in tasks:
        teacher, head = train_teacher(task, train, settings)
        details = {
            "source": "procedural rooms of soka_tf",
            "command": f"{command} --task={task}",
            "date": datetime.date.today().isoformat(),
        }
        path = out_dir / f"{task}.safetensors"
        sha256 = save_teacher(teacher, path, dtype="float16", details=details)
        entry = {"file": path.name, "sha256": sha256, **details}
        # The file's own weights are measured: float16 is what users get.
        teacher = load_teacher(path, sha256)
        if teacher.decoder is not None:
            entry["scores"] = measure(teacher, test, settings.image_size)
        else:
            entry["scores"] = measure_directions(
                teacher, head, test, settings.image_size
            )
        logging.info("%s: %s", task, json.dumps(entry["scores"]))
        write_manifest(out_dir, entry, task)


if __name__ == "__main__":
    cli.run(main, FLAGS)
