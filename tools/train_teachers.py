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
from typing import Any, Callable, Dict, Mapping, Sequence, Tuple

from absl import flags, logging

from soka_tf import cli
from soka_tf.disk import write_json
from soka_tf.errors import UserError
from soka_tf.runs.config import parse_gin

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


# Labels drawn from the colours themselves must keep them.
_COLOUR_TASKS = ("edge_texture", "keypoints2d")


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
    tasks: Sequence[str],
    data_dir: str,
    image_size: int,
    seed: int,
    rooms: int,
    views: int,
    test_rooms: int,
    test_views: int,
) -> Tuple[Sequence[Any], Sequence[Any]]:
    """Draws what is missing of the labelled rooms; returns train and test samples."""
    from soka_tf.data.rooms import draw as drawing
    from soka_tf.data.sources import taskonomy

    domains = sorted({"rgb", "depth_zbuffer", *tasks})
    roots = []
    for part, first, count, each in (
        ("train", 0, rooms, views),
        ("test", rooms, test_rooms, test_views),
    ):
        folder = drawing.rooms_folder_name(seed, image_size)
        root = os.path.join(data_dir, part, folder)
        drawing.generate_rooms(
            root, seed, range(first, first + count), each, image_size, domains
        )
        roots.append(root)
    return tuple(taskonomy.find(root, domains) for root in roots)


def train_teacher(
    task: str,
    train_samples: Sequence[Any],
    losses: Mapping[str, str],
    encoder: Mapping[str, Any],
    decoder: Mapping[str, Any],
    image_size: int,
    steps: int,
    batch_size: int,
    learning_rate: float,
    frozen_share: float,
    seed: int,
):
    """Trains one teacher; returns it, frozen, and the head it was trained with.

    The last `frozen_share` of the steps runs with the moving statistics of BatchNorm,
    as the teacher will be used: an unusual image, which a batch's own statistics
    would tame, otherwise drives a small network to its limits.
    """
    import tensorflow as tf
    from tqdm import trange

    from soka_tf.data.pipeline import Batches, labelled_dataset
    from soka_tf.networks.decoder import Decoder
    from soka_tf.networks.encoder import Encoder
    from soka_tf.runs.optimizers import make_optimizer
    from soka_tf.runs.schedules import poly_schedule
    from soka_tf.soka.distillation import KINDS, soft_target_loss
    from soka_tf.tasks import get_task
    from soka_tf.teachers.taskonomy.network import TaskonomyTeacher

    row = get_task(task)
    # "l1"; or "l2" for sparse maps, whose median, all that l1 finds, is empty.
    kind = losses[row.name]
    if kind not in KINDS:
        raise UserError(
            f"train_teachers.losses must be one of {KINDS}. Received: {kind!r} for "
            f"{row.name!r}."
        )
    tf.keras.utils.set_random_seed(seed)
    network = Encoder(**encoder)
    if row.channels:
        head = Decoder(row.channels, **decoder)
    else:  # vanishing_point: nine numbers, read from the whole representation
        head = tf.keras.Sequential(
            [tf.keras.layers.Flatten(), tf.keras.layers.Dense(9)], name="head"
        )
        side = image_size // network.output_stride
        head.build((None, side, side, network.representation_channels))
    variables = network.trainable_variables + head.trainable_variables
    optimizer = make_optimizer("adam", poly_schedule(learning_rate, steps))
    dataset = labelled_dataset(
        train_samples,
        [row],
        Batches(image_size, batch_size),
        cache_in_memory=True,
        seed=seed,
        repeat=True,
    )

    @tf.function
    def step(batch, seed, training):
        if row.channels:
            batch = augment(batch, row.name, seed)
        valid = tf.cast(batch[f"valid/{row.name}"], tf.float32)
        with tf.GradientTape() as tape:
            representation = network(batch["rgb"], training=training)["representation"]
            prediction = head(representation, training=training)
            if row.channels:
                weight = valid[:, None, None, None]
                if row.masked:
                    weight *= batch["mask"]
            else:
                weight = valid[:, None]
            loss = soft_target_loss(prediction, batch[row.name], kind, weight)
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
        return loss

    iterator = iter(dataset)
    bar = trange(steps, desc=f"teacher of {row.name}", mininterval=2.0)
    for i in bar:
        training = i < round(steps * (1.0 - frozen_share))
        loss = step(next(iterator), tf.constant([seed, 2 * i]), training)
        if i % 50 == 0:
            bar.set_postfix(loss=f"{float(loss):.4f}")
    decoder = head if row.channels else None
    return TaskonomyTeacher(row.name, network, decoder, image_size), head


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


def _bind() -> Callable[[], Dict[str, Any]]:
    import gin

    @gin.configurable(module="tools")
    def train_teachers(
        tasks=gin.REQUIRED,
        losses=gin.REQUIRED,
        encoder=gin.REQUIRED,
        decoder=gin.REQUIRED,
        image_size=gin.REQUIRED,
        data_dir=gin.REQUIRED,
        rooms_seed=gin.REQUIRED,
        rooms=gin.REQUIRED,
        views=gin.REQUIRED,
        test_rooms=gin.REQUIRED,
        test_views=gin.REQUIRED,
        steps=gin.REQUIRED,
        batch_size=gin.REQUIRED,
        learning_rate=gin.REQUIRED,
        frozen_share=gin.REQUIRED,
        seed=0,
    ):
        return locals()

    return train_teachers


def main() -> None:
    """Trains, measures and writes every teacher asked for."""
    settings = _bind()
    parse_gin(_GIN_FILE.value, _GIN_PARAM.value, base=None)
    config = settings()

    from soka_tf.tasks import get_task
    from soka_tf.teachers.taskonomy.network import load_teacher, save_teacher

    out_dir = pathlib.Path(_OUT_DIR.value)
    command = "python tools/train_teachers.py " + " ".join(
        [f"--gin_file={name}" for name in _GIN_FILE.value]
        + [f'--gin_param="{param}"' for param in _GIN_PARAM.value]
    )
    tasks = [get_task(name).name for name in _TASK.value or config["tasks"]]
    train, test = rooms_samples(
        tasks,
        config["data_dir"],
        config["image_size"],
        config["rooms_seed"],
        config["rooms"],
        config["views"],
        config["test_rooms"],
        config["test_views"],
    )
    for task in tasks:
        training = {
            key: config[key]
            for key in (
                "losses",
                "encoder",
                "decoder",
                "image_size",
                "steps",
                "batch_size",
                "learning_rate",
                "frozen_share",
                "seed",
            )
        }
        teacher, head = train_teacher(task, train, **training)
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
            entry["scores"] = measure(teacher, test, config["image_size"])
        else:
            entry["scores"] = measure_directions(
                teacher, head, test, config["image_size"]
            )
        logging.info("%s: %s", task, json.dumps(entry["scores"]))
        write_manifest(out_dir, entry, task)


if __name__ == "__main__":
    cli.run(main, FLAGS)
