"""Trains one encoder with the decoders of one task or of several, on exact labels."""

import functools
import pathlib
import time
from typing import (
    Any,
    Callable,
    Dict,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

import numpy as np
import tensorflow as tf
from absl import logging
from tqdm import trange

from soka_tf.data.image_files import RGB, VANISHING_POINT
from soka_tf.data.pipeline import preprocess_images, shuffled_index
from soka_tf.errors import UserError
from soka_tf.networks.decoder import Decoder
from soka_tf.networks.encoder import Encoder
from soka_tf.runs.checkpoint_folder import CheckpointFolder, readable
from soka_tf.runs.optimizers import make_optimizer
from soka_tf.runs.schedules import poly_schedule
from soka_tf.soka.distillation import KINDS, soft_target_loss
from soka_tf.tasks import TASKS, Task, get_task
from tools.teachers.rooms import SEGMENTATION
from tools.teachers.settings import Settings

# Labels computed from the colours themselves are wrong for shifted colours.
_COLOUR_TASKS = ("edge_texture", "keypoints2d")
# Not mirrored: where the axes are, and what a lamp beside the camera lights.
_SIDED_TASKS = (VANISHING_POINT, "reshading")
_SAVE_EVERY_STEPS = 500
_LEAST_LOSS = 1e-6


class Networks(NamedTuple):
    """An encoder and, by task, what reads its representation."""

    encoder: Encoder
    heads: Dict[str, tf.keras.Model]

    @property
    def variables(self) -> List[tf.Variable]:
        """Of all of them."""
        return [v for net in self._all for v in net.variables]

    @property
    def trainable_variables(self) -> List[tf.Variable]:
        """Those that an optimizer moves."""
        return [v for net in self._all for v in net.trainable_variables]

    @property
    def _all(self) -> Sequence[tf.keras.Model]:
        return self.encoder, *self.heads.values()

    def __call__(self, images: tf.Tensor, training: bool) -> Dict[str, tf.Tensor]:
        """Images, float32 [B, S, S, 3] in [-1, 1], to predictions by task."""
        representation = self.encoder(images, training=training)["representation"]
        heads = self.heads.items()
        return {task: head(representation, training=training) for task, head in heads}


def together_tasks(settings: Settings) -> List[str]:
    """Tasks that an encoder learns at once: images whose labels stay when augmented."""
    tasks = [get_task(name) for name in settings.tasks]
    others = (*_COLOUR_TASKS, *_SIDED_TASKS)
    return [t.name for t in tasks if t.channels and t.name not in others]


def build_networks(tasks: Sequence[str], settings: Settings) -> Networks:
    """Networks of random weights; the head of vanishing_point is nine numbers.

    Args:
      tasks: a head each.
      settings: of all teachers.
    """
    tf.keras.utils.set_random_seed(settings.seed)
    encoder = Encoder(**settings.encoder)
    rows = [get_task(task) for task in tasks]
    return Networks(encoder, {row.name: _head(row, encoder, settings) for row in rows})


def _head(task: Task, encoder: Encoder, settings: Settings) -> tf.keras.Model:
    if task.channels:
        name = f"decoder_{task.name}"
        return Decoder(task.channels, name=name, **settings.decoder)
    head = tf.keras.Sequential(
        [tf.keras.layers.Flatten(), tf.keras.layers.Dense(9)], name=task.name
    )
    side = settings.image_size // encoder.output_stride
    head.build((None, side, side, encoder.representation_channels))
    return head


def train_together(
    networks: Networks,
    arrays: Mapping[str, np.ndarray],
    settings: Settings,
    folder: pathlib.Path,
) -> float:
    """Trains one encoder on all tasks of its heads at once; see `_train`."""
    losses = {task: loss_of(task, settings.losses) for task in networks.heads}
    steps, rate = settings.together_steps, settings.together_rate
    name = "all tasks at once"
    return _train(name, networks, losses, arrays, settings, steps, rate, folder)


def train_teacher(
    task: str,
    first: Optional[Networks],
    arrays: Mapping[str, np.ndarray],
    settings: Settings,
    folder: pathlib.Path,
) -> Tuple[Networks, float]:
    """Trains a teacher of one task, from what all tasks' networks know of it.

    Args:
      task: its task.
      first: what was trained together: lends its encoder, and its head of the task if
        it has one; None for random weights.
      arrays: of `rooms.draw`.
      settings: of all teachers.
      folder: of the checkpoints.

    Returns:
      The networks, and the minutes of processor time that it took.
    """
    networks = build_networks([task], settings)
    if first is not None:
        networks.encoder.set_weights(first.encoder.get_weights())
        if task in first.heads:
            networks.heads[task].set_weights(first.heads[task].get_weights())
    weight = settings.gradient_weights.get(task, 0.0)
    losses = {task: loss_of(task, settings.losses, weight)}
    name, steps = f"teacher of {task}", settings.steps[task]
    rate = settings.learning_rate
    minutes = _train(name, networks, losses, arrays, settings, steps, rate, folder)
    return networks, minutes


def _train(
    name: str,
    networks: Networks,
    losses: Mapping[str, Callable[..., tf.Tensor]],
    arrays: Mapping[str, np.ndarray],
    settings: Settings,
    steps: int,
    rate: float,
    folder: pathlib.Path,
) -> float:
    """Trains networks, or goes on where it was stopped; leaves them averaged.

    Several tasks' losses are each divided by their own present size, so that none is
    heard more than another (the gradient is that of the sum of the losses' logarithms).

    Args:
      name: for the bar.
      networks: to train.
      losses: of `loss_of`, by task.
      arrays: of `rooms.draw`.
      settings: of all teachers.
      steps: in all.
      rate: the learning rate at the start; it falls to 0.
      folder: of the checkpoints.

    Returns:
      Minutes of processor time that it took, those before an interruption included.
    """
    optimizer = make_optimizer("adam", poly_schedule(rate, steps))
    averages = [tf.Variable(v, trainable=False) for v in networks.variables]
    progress = _Progress(networks, averages, optimizer, folder)
    move = _step_function(networks, losses, optimizer, averages)
    rows, batch_size = len(arrays[RGB]), settings.batch_size
    start, frozen_from = progress.steps, round(steps * (1.0 - settings.frozen_share))
    bar = trange(start, steps, initial=start, total=steps, desc=name)
    for i in bar:
        chosen = batch_rows(i, rows, batch_size, settings.seed)
        batch = {t: tf.constant(arrays[t][chosen]) for t in (RGB, *networks.heads)}
        training = i < frozen_from
        # The running mean begins anew with the moving statistics, and forgets where
        # it began sooner.
        age = i if training else i - frozen_from
        decay = min(settings.average_decay, (1 + age) / (10 + age))
        seed = tf.constant([settings.seed, 2 * i])
        values = move(batch, seed, tf.constant(decay, tf.float32), training)
        if i % 50 == 0:
            shown = {t: f"{float(loss):.4f}" for t, loss in values.items()}
            bar.set_postfix(shown, refresh=False)
        if (i + 1) % _SAVE_EVERY_STEPS == 0 or i + 1 == steps:
            progress.save(i + 1)
    for variable, average in zip(networks.variables, averages):
        variable.assign(average)
    return progress.minutes


class _Progress:
    """How far a training is, in checkpoints; what it has cost until then."""

    def __init__(
        self,
        networks: Networks,
        averages: Sequence[tf.Variable],
        optimizer: tf.keras.optimizers.Optimizer,
        folder: pathlib.Path,
    ):
        """Restores the last checkpoint, if there is one."""
        self._step = tf.Variable(0, dtype=tf.int64)
        self._minutes = tf.Variable(0.0, dtype=tf.float64)
        checkpoint = tf.train.Checkpoint(
            encoder=networks.encoder,
            heads=networks.heads,
            averages=averages,
            optimizer=optimizer,
            step=self._step,
            minutes=self._minutes,
        )
        self._folder = CheckpointFolder(str(folder), checkpoint)
        self._folder.remove_leftovers()
        last = self._folder.last()
        if last is not None:
            with readable(last) as prefix:
                found = checkpoint.read(prefix)
            found.assert_existing_objects_matched().expect_partial()
            logging.info("%s: goes on from step %d.", folder.name, self.steps)
        self._since = time.process_time()

    @property
    def steps(self) -> int:
        """Steps done when it was saved last."""
        return int(self._step.numpy())

    @property
    def minutes(self) -> float:
        """Of processor time, until then."""
        return float(self._minutes.numpy())

    def save(self, steps: int) -> None:
        """Notes that so many steps are done."""
        now = time.process_time()
        self._step.assign(steps)
        self._minutes.assign_add((now - self._since) / 60)
        self._since = now
        self._folder.save(steps)


def batch_rows(step: int, rows: int, batch_size: int, seed: int) -> np.ndarray:
    """The rows of a step's batch, ascending, in the order that runs have."""
    first = tf.constant(step * batch_size, tf.int64)
    chosen = [shuffled_index(first + i, rows, seed) for i in range(batch_size)]
    return np.sort(np.array(chosen, np.int64))


def _step_function(
    networks: Networks,
    losses_of: Mapping[str, Callable[..., tf.Tensor]],
    optimizer: tf.keras.optimizers.Optimizer,
    averages: Sequence[tf.Variable],
) -> Callable[..., Dict[str, tf.Tensor]]:
    """One step: (batch, seed, decay of the averages, training) -> losses by task."""
    variables, trained = networks.variables, networks.trainable_variables

    @tf.function(autograph=False)
    def move(batch, seed, decay, training):
        images, labels = augment(batch, seed)
        with tf.GradientTape() as tape:
            predictions = networks(images, training)
            losses = {t: losses_of[t](predictions[t], labels[t]) for t in labels}
            total = tf.add_n(
                [share_of_all(loss, len(losses)) for loss in losses.values()]
            )
        optimizer.apply_gradients(zip(tape.gradient(total, trained), trained))
        for average, variable in zip(averages, variables):
            average.assign(decay * average + (1.0 - decay) * variable)
        return losses

    return move


def share_of_all(loss: tf.Tensor, tasks: int) -> tf.Tensor:
    """A loss divided by its own size, where there are others."""
    return loss if tasks == 1 else loss / (tf.stop_gradient(loss) + _LEAST_LOSS)


def loss_of(
    task: str, losses: Mapping[str, str], gradient_weight: float = 0.0
) -> Callable[..., tf.Tensor]:
    """The loss that is bound for a task: (prediction, label) -> scalar.

    Args:
      task: its name.
      losses: task -> kind.
      gradient_weight: of the mean squared error of the differences between neighbours.

    Raises:
      UserError: if none is bound, or one that there is not.
    """
    kind = losses.get(task)
    if kind not in KINDS:
        raise UserError(
            f"train_teachers.losses must be one of {KINDS}. Received: {kind!r} for "
            f"{task!r}."
        )
    plain = functools.partial(soft_target_loss, kind=kind)
    if not gradient_weight:
        return plain

    def with_gradients(prediction, label):
        down, right = tf.image.image_gradients(prediction - label)
        squares = tf.reduce_mean(down * down) + tf.reduce_mean(right * right)
        return plain(prediction, label) + gradient_weight * squares

    return with_gradients


def augment(
    batch: Mapping[str, tf.Tensor], seed: tf.Tensor
) -> Tuple[Any, Dict[str, Any]]:
    """Mirrors half of the images, with their labels, and shifts the colours.

    Colours stay where a label is computed from them, and images unmirrored where one
    tells left from right.

    Args:
      batch: "rgb" uint8 [B, S, S, 3], and by task labels of `rooms.draw`.
      seed: int [2].

    Returns:
      The images, float32 [B, S, S, 3] in [-1, 1], and the labels as the networks
      predict them: classes are 1 at theirs and -1 elsewhere.
    """
    images = preprocess_images(batch[RGB], batch[RGB].shape[1])
    labels = {task: _as_predicted(task, batch[task]) for task in batch if task != RGB}
    count = tf.shape(images)[0]
    if not set(_SIDED_TASKS) & set(labels):
        mirrored = tf.random.stateless_uniform([count, 1, 1, 1], seed) < 0.5
        images = tf.where(mirrored, tf.reverse(images, [2]), images)
        for task, values in labels.items():
            turned = tf.reverse(values, [2])
            if task == "normal":
                turned *= tf.constant([-1.0, 1.0, 1.0])
            labels[task] = tf.where(mirrored, turned, values)
    if not set(_COLOUR_TASKS) & set(labels):
        gain = tf.exp(tf.random.stateless_normal([count, 1, 1, 3], seed + 1) * 0.15)
        colours = tf.clip_by_value(gain * 0.5 * (images + 1.0), 0.0, 1.0)
        images = 2.0 * colours - 1.0
    return images, labels


def _as_predicted(task: str, label: tf.Tensor) -> tf.Tensor:
    if task != SEGMENTATION:
        return label
    classes = tf.cast(label[..., 0], tf.int32)
    return tf.one_hot(classes, TASKS[task].channels, 1.0, -1.0)
