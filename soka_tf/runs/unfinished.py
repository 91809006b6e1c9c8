"""Runs whose training has not ended, told by their configuration and checkpoints."""

import os

from soka_tf.errors import UserError
from soka_tf.runs.checkpoints import last_step
from soka_tf.runs.declared import followed
from soka_tf.runs.folder import CONFIG_FILE
from soka_tf.runs.gin_text import bindings_of, read_text
from soka_tf.runs.next_command import export_command
from soka_tf.serving import exported


def unfinished(model_dir: str) -> str:
    """How far a run's training is, in words; "" if it has ended, or there is no run."""
    path = os.path.join(model_dir, CONFIG_FILE)
    if not os.path.isfile(path):
        return ""
    bound = bindings_of(read_text(path), path)
    last = followed("run.max_steps", bound.get("run.max_steps"), bound)[1]
    step = last_step(model_dir)
    if not isinstance(last, int) or step >= last:
        return ""
    return f"the training has not ended (step {step:,} of {last:,})"


def find_export(folder: str) -> str:
    """As `exported.find_export`, with a remedy for a run that has none yet."""
    try:
        return exported.find_export(folder)
    except UserError as error:
        folder = os.path.expanduser(folder)
        state = unfinished(folder)
        if not state:
            raise
        raise UserError(
            f"{folder!r} has no SavedModel yet: {state}. Give the command that trains "
            "it again, it exports at its end; or export the student as it is: "
            f"{export_command(folder)}"
        ) from error
