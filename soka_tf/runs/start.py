"""A run from its bindings to its end, as the command and a notebook start it."""

import os
from typing import Sequence

from absl import logging

from soka_tf.errors import UserError
from soka_tf.runs import build_run, config
from soka_tf.runs.finish import complete
from soka_tf.runs.folder import CONFIG_FILE, training_in
from soka_tf.runs.gin_text import LAST_STEP, read_gin
from soka_tf.runs.strategy import lost_workers


def bind_run(
    model_dir: str, gin_files: Sequence[str], gin_params: Sequence[str]
) -> None:
    """Binds what a run is told, after what its folder has of it.

    Args:
      model_dir: the run's folder; it need not exist.
      gin_files: as of `soka_tf.runs.config.parse_gin`.
      gin_params: likewise.

    Raises:
      UserError: as `soka_tf.runs.config.parse_gin`; or for a new run if nothing says
        how long it is.
    """
    stored = os.path.join(model_dir, CONFIG_FILE)
    resumed = stored if os.path.isfile(stored) else None
    config.parse_gin(gin_files, gin_params, stored=resumed)
    if not (resumed or gin_files or set(LAST_STEP) & set(read_gin((), gin_params))):
        steps, side = map(config.bound_value, ("run.max_steps", "run.image_size"))
        raise UserError(
            f"{model_dir} holds no run to go on with, and a new one needs a gin file: "
            f"gin/base.gin alone is the paper's full size ({side} pixels, {steps:,} "
            "steps). Give --gin_file=gin/rooms/soka.gin to begin with, or "
            "--gin_file=gin/base.gin if that size is meant."
        )


def train_run(model_dir: str) -> str:
    """Builds the bound run, trains it to its end, measures and exports it.

    Args:
      model_dir: the run's folder.

    Returns:
      As `soka_tf.runs.finish.complete`.

    Raises:
      UserError: as `build_run` and `complete`.
    """
    with training_in(model_dir), lost_workers("Before or after training"):
        logging.info("Loading teachers, finding or drawing images ...")
        run = build_run.build_run(model_dir)
        for name in config.unused_bindings():
            logging.warning("The binding %s is used by nothing in this run.", name)
        return complete(run, model_dir)
