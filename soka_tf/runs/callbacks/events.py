"""TensorBoard's events: their names, and what happens where they are not written."""

from typing import Any, Callable, Mapping

import tensorflow as tf
from absl import logging

from soka_tf.errors import reason
from soka_tf.runs.callbacks.step import FAILURES

# TensorBoard shows groups, what stands before the first slash, in the order of names,
# and opens the first two. The first beginning that fits is replaced.
_PLACES = {
    "loss/soft/": "1_loss/soft/",
    "validation/": "1_loss/validation/",
    "panels/": "2_panels/",
    "task_weight/": "3_task_weight/",
    "soft_weight": "3_soft_weight",
    "loss/": "4_further_loss/",
    "accuracy/": "4_further_accuracy/",
    "gradient_norm/": "5_gradient_norm/",
    "encoder_share/": "5_encoder_share/",
    "cosine/": "5_cosine/",
    "learning_rate": "6_learning_rate",
}


def tag(name: str) -> str:
    """The name of a log for TensorBoard: "1_loss/soft/normal", losses first."""
    for beginning, place in _PLACES.items():
        if name.startswith(beginning):
            return place + name[len(beginning) :]
    return name


def warn_of_tensorboard(step: int, error: Exception) -> None:
    """Says that events are missing, and that it does not matter."""
    logging.warning(
        "TensorBoard's events were not written at step %d (%s). Training goes on; "
        "metrics.csv has the same values.",
        step,
        reason(error),
    )


def write_scalars(
    writer: tf.summary.SummaryWriter, values: Mapping[str, float], step: int
) -> None:
    """Writes logs, by their names in metrics.csv."""
    tagged = {tag(name): value for name, value in values.items()}
    _write(tf.summary.scalar, writer, tagged, step)


def write_texts(
    writer: tf.summary.SummaryWriter, texts: Mapping[str, str], step: int
) -> None:
    """Writes texts in Markdown."""
    _write(tf.summary.text, writer, texts, step)


def _write(
    kind: Callable[[str, Any], Any],
    writer: tf.summary.SummaryWriter,
    named: Mapping[str, Any],
    step: int,
) -> None:
    try:
        with writer.as_default(step=step):
            for name, value in named.items():
                kind(name, value)
    except FAILURES as error:
        warn_of_tensorboard(step, error)


def code_block(text: str) -> str:
    """A text as Markdown that leaves it as it is, such as the bound configuration."""
    return "\n".join("    " + line for line in text.splitlines())
