"""TensorBoard's events: their names, and what happens where they are not written."""

from typing import Mapping

import tensorflow as tf
from absl import logging

from soka_tf.errors import reason
from soka_tf.runs.callbacks.step import FAILURES

# TensorBoard shows groups in the order of their names, and opens the first ones.
_GROUPS = (
    ("loss",),
    ("validation",),
    ("panels",),
    ("task_weight",),
    ("gradient_norm", "encoder_share"),
    ("learning_rate",),
)
_NUMBERS = {kind: i for i, kinds in enumerate(_GROUPS, 1) for kind in kinds}


def tag(name: str) -> str:
    """The name of a log for TensorBoard: "1_loss/soft/normal", losses first."""
    number = _NUMBERS.get(name.partition("/")[0])
    return name if number is None else f"{number}_{name}"


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
    try:
        with writer.as_default(step=step):
            for name, value in values.items():
                tf.summary.scalar(tag(name), value)
    except FAILURES as error:
        warn_of_tensorboard(step, error)


def write_texts(
    writer: tf.summary.SummaryWriter, texts: Mapping[str, str], step: int
) -> None:
    """Writes texts in Markdown."""
    try:
        with writer.as_default(step=step):
            for name, text in texts.items():
                tf.summary.text(name, text)
    except FAILURES as error:
        warn_of_tensorboard(step, error)


def code_block(text: str) -> str:
    """A text as Markdown that leaves it as it is, such as the bound configuration."""
    return "\n".join("    " + line for line in text.splitlines())
