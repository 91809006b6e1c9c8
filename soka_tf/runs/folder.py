"""A run's folder: who trains there, in which configuration and of which teachers."""

import contextlib
import os
import shutil
from typing import Dict, Iterator, List, Mapping, Optional, Set

import tensorflow as tf
from absl import logging

from soka_tf.atomic import locked, remove_leftovers, write_json, write_text
from soka_tf.data.documents import read_json
from soka_tf.errors import UserError
from soka_tf.runs.cluster import is_chief
from soka_tf.runs.gin_text import LAST_STEP, bindings_of, differing_bindings, read_text

CONFIG_FILE = "operative_config.gin"
TEACHERS_FILE = "teachers.json"
_LOCK_FILE = "lock"
_held: Set[str] = set()  # by this process
# A run may be continued with other values of these: they change no result.
# None of them are run.teacher_cache, which keeps what is rounded to float16, and
# run.validation_images, by which students are compared and the best one is kept.
FREE_BINDINGS = (
    "run.checkpoint_every_steps",
    "run.conflict_every_steps",
    "run.evaluation_batch_size",
    "run.export",
    "run.export_precision",
    "run.jit_compile",
    "run.keep_checkpoints",
    "run.log_every_steps",
    "run.movement_every_steps",
    "run.panel_every_steps",
    "run.panel_images",
    "run.teacher_cache_dir",
    "run.validate_every_steps",
    "build_data.check_files",
    "rooms.dir",
    "load_pool.trust_saved_model",
    "build_strategy.name",
    "build_strategy.logical_cpus",
    "strategy",
)


@contextlib.contextmanager
def training_in(model_dir: str) -> Iterator[None]:
    """Keeps other processes from training in a run's folder; reading is free.

    May be entered again within. Of several workers the chief alone holds the folder.

    Args:
      model_dir: the run's folder; made if need be.

    Raises:
      UserError: if another process trains there, or it is a file.
    """
    path = os.path.realpath(os.path.join(model_dir, _LOCK_FILE))
    if path in _held or not is_chief():
        yield
        return
    refuse_file(model_dir)
    new = not os.path.exists(model_dir)
    os.makedirs(model_dir, exist_ok=True)
    remedy = "Wait until it has ended, or choose another --model_dir."
    with locked(path, f"trains in {model_dir}", remedy):
        _held.add(path)
        try:
            for folder in (model_dir, os.path.join(model_dir, "panels")):
                remove_leftovers(folder)
            yield
        finally:
            _held.remove(path)
            if new and os.listdir(model_dir) == [_LOCK_FILE]:  # refused before it began
                shutil.rmtree(model_dir, ignore_errors=True)


def refuse_file(model_dir: str) -> None:
    """Refuses a run's folder that is a file."""
    if os.path.lexists(model_dir) and not os.path.isdir(model_dir):
        kind = "link to no folder" if os.path.islink(model_dir) else "file"
        raise UserError(
            "--model_dir must be a folder, or a name for a new one. Received: "
            f"{model_dir}, which is a {kind}."
        )


def config_of(model_dir: str) -> str:
    """The path of a run's stored configuration.

    Raises:
      UserError: if the folder is not a run's.
    """
    path = os.path.join(model_dir, CONFIG_FILE)
    if not os.path.isfile(path):
        raise UserError(
            f"{model_dir}: not the folder of a run, it has no {CONFIG_FILE}. Give the "
            "--model_dir of soka_tf.train."
        )
    return path


def claim(model_dir: str, config: str, chief: bool = True) -> None:
    """Stores the configuration (the chief does), or refuses to go on with another.

    Where the last step is a later one now, it is stored anew.
    """
    refuse_differences(model_dir, config)
    path = os.path.join(model_dir, CONFIG_FILE)
    new = not os.path.exists(path)
    longer = [] if new else _raised(read_text(path), config)
    if longer:
        logging.info(
            "%s is trained longer: %s. The learning rate is that of a run of so many "
            "steps from here on.",
            model_dir,
            "; ".join(longer),
        )
    if chief and (longer or new):
        write_text(path, config)


def refuse_differences(model_dir: str, config: str, of_both: bool = False) -> None:
    """Refuses a folder whose run has other bindings; see `differing_bindings`.

    Raises:
      UserError: naming each with both values, but for those that change no result and
        a last step that is a later one now.
    """
    path = os.path.join(model_dir, CONFIG_FILE)
    if not os.path.exists(path):
        return
    stored = read_text(path)
    free = FREE_BINDINGS + (LAST_STEP if _raised(stored, config) else ())
    differences = differing_bindings(stored, config, of_both, free)
    if differences:
        raise UserError(
            f"{model_dir} holds a run with another configuration: "
            + "; ".join(differences)
            + ". Bind the stored values or choose another --model_dir."
        )


def claim_teachers(
    model_dir: str, fingerprints: Mapping[str, str], chief: bool = True
) -> None:
    """Stores which teachers a run learns from (the chief does), or refuses others.

    Args:
      model_dir: the run's folder.
      fingerprints: task -> fingerprint of its teacher.
      chief: whether to store them, if they are not yet.

    Raises:
      UserError: naming each teacher that is another one than before.
    """
    path = os.path.join(model_dir, TEACHERS_FILE)
    if not os.path.exists(path):
        if chief:
            write_json(path, {"fingerprints": dict(fingerprints)})
        return
    shape = {"fingerprints": {str: (str, None)}}
    stored: Dict[str, Optional[str]] = read_json(path, shape, "Restore it.")[
        "fingerprints"
    ]
    # None: earlier versions did not ask for those of a single file.
    differences = [
        f"{task} (fingerprint {stored[task][:12]} -> {now[:12]})"
        for task, now in fingerprints.items()
        if stored.get(task) not in (None, now)
    ]
    if differences:
        raise UserError(
            f"{model_dir} holds a run that learnt from another teacher of "
            f"{', '.join(differences)}. Restore that teacher's files, or "
            "choose another --model_dir."
        )


def _raised(stored: str, config: str) -> List[str]:
    """How the last step differs from the stored one, if it is a later one."""
    before, now = (bindings_of(text, "configuration") for text in (stored, config))
    numbers = [
        (name, before[name], now[name])
        for name in LAST_STEP
        if all(isinstance(of.get(name), (int, float)) for of in (before, now))
    ]
    return [f"{name} {old} -> {new}" for name, old, new in numbers if new > old]


def open_folder(
    model_dir: str,
    config: str,
    fingerprints: Mapping[str, str],
    output_dir: str,
) -> tf.summary.SummaryWriter:
    """Claims the folder for configuration and teachers, before a run writes there.

    Args:
      model_dir: the run's folder.
      config: the run's bindings.
      fingerprints: of `claim_teachers`.
      output_dir: where this process writes: the same, but for workers beside the chief.

    Returns:
      TensorBoard's writer of this process.
    """
    is_first = output_dir == model_dir
    claim(model_dir, config, is_first)
    claim_teachers(model_dir, fingerprints, is_first)
    return tf.summary.create_file_writer(os.path.join(output_dir, "tensorboard"))
