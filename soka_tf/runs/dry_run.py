"""What a run would do: its configuration, devices, sizes and files."""

from typing import List, Optional, Tuple

import gin
import tensorflow as tf
from tabulate import tabulate

from soka_tf.data.samples import Data
from soka_tf.errors import UserError, plain_message
from soka_tf.runs import advice, build_networks, build_parts
from soka_tf.runs.auxiliary import Comparison, Selection, select_auxiliary
from soka_tf.runs.build_data import build_data
from soka_tf.runs.build_run import assemble_model, check_parts, teacher_cache
from soka_tf.runs.config import bound_values
from soka_tf.runs.folder import refuse_differences
from soka_tf.runs.settings import Settings


def describe(model_dir: str) -> str:
    """Describes the bound run without teachers, images or a folder of its own.

    Args:
      model_dir: the run's folder, if there is one already.

    Returns:
      Several lines: the bindings, the devices, trainable parameters, the files of the
      teachers, how many images there are, what a cache of the teachers' outputs will
      take, and what a run would warn of; what is missing is named.

    Raises:
      UserError: for what a real run would refuse, such as another configuration than
        the folder's.
    """
    settings = Settings()
    check_parts(settings)
    refuse_differences(model_dir, gin.config_str(), of_both=True)
    selection = _selection(settings)
    data, missing = _find_data(settings)
    parts = [
        ("Configuration", gin.config_str().strip()),
        ("Devices", "\n".join(_devices())),
        ("Trainable parameters", _parameters(settings)),
        ("Teachers", _teachers(settings, selection)),
        ("Images", missing if data is None else _images(data)),
    ]
    if settings.teacher_cache:
        parts.append(("Teacher cache", _teacher_cache(settings, selection, data)))
    warnings = _warnings(settings, selection, data)
    if warnings:
        parts.append(("Warnings", "\n".join(warnings)))
    return "\n\n".join(f"{title}\n{'-' * len(title)}\n{text}" for title, text in parts)


def _devices() -> List[str]:
    devices = tf.config.list_logical_devices()
    return [f"{device.device_type}: {device.name}" for device in devices]


def _parameters(settings: Settings) -> str:
    student = build_networks.build_student(settings.task_names, seed=settings.seed)
    rows = [("encoder", build_networks.count_trainable(student.encoder))]
    for task in student.tasks:
        rows.append(
            (f"decoder {task}", build_networks.count_trainable(student.decoders[task]))
        )
    rows.append(("student", build_networks.count_trainable(student)))
    adversary = build_parts.build_adversary(settings.task_names)
    if adversary is not None:
        for task, network in adversary.discriminators.items():
            rows.append(
                (f"discriminator {task}", build_networks.count_trainable(network))
            )
    return tabulate(rows, tablefmt="plain", disable_numparse=True)


def _selection(settings: Settings) -> Selection:
    return select_auxiliary(
        settings.task_names, None, settings.image_size, settings.antialias, None
    )


def _teachers(settings: Settings, selection: Selection) -> str:
    rows = []
    found = build_parts.find_teachers(settings.task_names, selection.names)
    for role, files in (("target", found.targets), ("auxiliary", found.auxiliaries)):
        for name, path in files.items():
            state = "there" if path.is_file() else "MISSING, a real run needs it"
            rows.append((name, role, str(path), state))
    if selection.summary:
        rows.append(("auxiliary", selection.summary))
    return tabulate(rows, tablefmt="plain")


def _find_data(settings: Settings) -> Tuple[Optional[Data], str]:
    """The images; or none, and what is missing in words."""
    try:
        data = build_data(
            settings.task_names,
            settings.image_size,
            draw=False,
            train_labels=settings.by_labels,
            check_files=False,
        )
    except UserError as error:
        labels = ", ".join(settings.task_names)
        return None, (
            f"MISSING, a real run needs them: {plain_message(error)}\n"
            "It trains on <root>/<building>/rgb/point_<P>_view_<V>_domain_rgb.png "
            "alone;\nthe same of depth_zbuffer (mask), "
            f"{labels} of its validation images\nallow it to measure against truth."
        )
    return data, ""


def _images(data: Data) -> str:
    return (
        f"{data.source}: {len(data.train)} to train on, {len(data.validation)} to "
        f"validate on are there. {data.note}"
    ).strip()


def _teacher_cache(
    settings: Settings, selection: Selection, data: Optional[Data]
) -> str:
    found = build_parts.find_teachers(settings.task_names, selection.names)
    try:
        found.require()
    except UserError:
        return "Its size is known once the teachers are there."
    model = assemble_model(settings, build_parts.load_pool(found))
    cache = teacher_cache(settings, model)
    text = cache.describe(len(data.train) if data else 0)
    if selection.summary:
        text += "; an auxiliary teacher adds to that"
    return f"{text}."


def _warnings(
    settings: Settings, selection: Selection, data: Optional[Data]
) -> List[str]:
    found = advice.of_steps(bound_values())
    if data is not None and not data.note:  # rooms are yet to be drawn
        count = len(data.train)
        found += advice.of_images(count, settings.batch_size)
        if selection.summary:
            found += advice.of_comparison(min(count, Comparison().images))
    return found
