"""Where a run computes: one device, several of one machine, or several machines."""

import contextlib
import glob
import os
from typing import Annotated, Iterator, List, Mapping, Optional, Sequence

import gin
import numpy as np
import tensorflow as tf
from absl import logging

from soka_tf.errors import LostWorker, UserError, counted, reason
from soka_tf.kinds import check_arguments, one_of, whole
from soka_tf.runs.cluster import EXAMPLE, in_cluster, read_cluster
from soka_tf.runs.meeting import meet, refuse_differences

STRATEGIES = ("auto", "one_device", "mirrored", "multi_worker")
# What the collective operations raise when another worker is gone or never came.
_LOST_WORKER = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)
# In others' texts; no single words, for devices of a cluster are named "/job:worker".
_LOST_PHRASES = (
    "collective ops",
    "socket closed",
    "connection reset",
    "failed to connect",
    "heartbeat",
)
_TEXT_BYTES = 256


@gin.configurable(denylist=["facts"])
def build_strategy(
    name: Annotated[str, one_of(STRATEGIES)] = "auto",
    logical_cpus: Annotated[Optional[int], whole(1, 1024)] = None,
    facts: Optional[Mapping[str, str]] = None,
) -> tf.distribute.Strategy:
    """Builds the distribution strategy; call it before TensorFlow computes anything.

    Args:
      name: "one_device"; "mirrored", every device of this machine; "multi_worker",
        every device of the machines that the variable TF_CONFIG of the environment
        names; or "auto", what fits: several workers, else several GPUs, else one
        device.
      logical_cpus: divides the processor into so many devices, in order to try a
        distributed run without GPUs; None for one. It is not faster.
      facts: names and values that must be the same on all workers.

    Raises:
      UserError: if the name is unknown, TF_CONFIG does not fit it, or workers differ in
        the facts.
    """
    check_arguments(build_strategy, name=name, logical_cpus=logical_cpus)
    cluster = read_cluster()
    workers = len(cluster.addresses)
    gpus = len(tf.config.list_physical_devices("GPU"))
    if name == "auto":
        several = gpus > 1 or (logical_cpus or 1) > 1
        name = "mirrored" if several else "one_device"
        name = "multi_worker" if workers > 1 else name
    if name == "multi_worker" and not workers:
        raise UserError(
            "strategy = 'multi_worker' needs the variable TF_CONFIG in the environment "
            f"of every worker, each with its own index, such as {EXAMPLE}. Received: "
            "none."
        )
    if name != "multi_worker" and workers > 1:
        raise UserError(
            f"TF_CONFIG names {workers} workers, but strategy = {name!r} would train "
            "on each alone. Bind strategy = 'multi_worker' or unset TF_CONFIG."
        )
    if logical_cpus is not None:
        _divide_processor(int(logical_cpus))
    _warn_of_missing_gpus(gpus)
    if name == "one_device":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        kind = "GPU" if gpus else "CPU"
        devices = [device.name for device in tf.config.list_logical_devices(kind)]
        return tf.distribute.MirroredStrategy(devices)
    if workers > 1:
        here = {"the list of workers in TF_CONFIG": ", ".join(cluster.addresses)}
        meet(cluster, {**here, "the number of GPUs": str(gpus), **(facts or {})})
    with lost_workers("While the workers met"):
        return tf.distribute.MultiWorkerMirroredStrategy()


def describe_devices(strategy: tf.distribute.Strategy, batch_size: int) -> str:
    """One line: how many replicas on which devices, and the images of each.

    Args:
      strategy: of `build_strategy`.
      batch_size: images of a step, over all replicas.

    Raises:
      UserError: if the batch cannot be divided evenly.
    """
    replicas = strategy.num_replicas_in_sync
    if batch_size % replicas:
        raise UserError(
            f"batch_size must be a multiple of the {replicas} replicas, for each takes "
            f"an equal share of it. Received: {batch_size}."
        )
    here = describe_machine()
    if replicas == 1:
        return f"One device ({here}), {counted(batch_size, 'image')} a step."
    workers = count_workers(strategy)
    machines = f" on {workers} workers, this one number {worker_index(strategy)}"
    return (
        f"{replicas} replicas{machines if workers > 1 else ''} ({here}), "
        f"{batch_size // replicas} of {batch_size} images a step each."
    )


def describe_machine() -> str:
    """The GPUs that TensorFlow sees, or the processor, in words."""
    kinds = [
        tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    here = ", ".join(f"{kinds.count(kind)} x {kind}" for kind in sorted(set(kinds)))
    return here or f"CPU, {os.cpu_count()} cores"


def count_workers(strategy: tf.distribute.Strategy) -> int:
    """How many processes train together."""
    resolver = strategy.cluster_resolver
    workers = resolver.cluster_spec().as_dict() if resolver else {}
    return max(sum(len(tasks) for tasks in workers.values()), 1)


def worker_index(strategy: tf.distribute.Strategy) -> int:
    """The number of this process; number 0 is the chief, which writes the results."""
    return 0 if count_workers(strategy) == 1 else read_cluster().number


@contextlib.contextmanager
def lost_workers(when: str) -> Iterator[None]:
    """Turns what TensorFlow raises when another worker is gone into a LostWorker.

    Args:
      when: the beginning of the message.
    """
    try:
        yield
    except (tf.errors.OpError, RuntimeError) as error:
        raise_if_worker_lost(error, when)
        raise


def raise_if_worker_lost(error: Exception, when: str = "During training") -> None:
    """Raises a LostWorker if that is what an error of TensorFlow means.

    Args:
      error: whatever was raised.
      when: the beginning of the message.
    """
    text = str(getattr(error, "message", error))
    lost = isinstance(error, _LOST_WORKER) or (
        isinstance(error, (tf.errors.InternalError, tf.errors.UnknownError))
        and any(phrase in text.lower() for phrase in _LOST_PHRASES)
    )
    # tf.data hands on what a reader raised as text of an error of its own.
    if not lost or "UserError: " in text or not in_cluster():
        return
    raise LostWorker(
        f"{when}, another worker was lost or did not answer ({reason(error)}). Start "
        "the command on all workers again: the run goes on from its last checkpoint "
        "(docs/reliability.md)."
    ) from error


def mean_over_workers(
    strategy: tf.distribute.Strategy, values: Sequence[float]
) -> List[float]:
    """The mean of every worker's values, the same on all; all workers must call it.

    Args:
      strategy: of `build_strategy`.
      values: as many everywhere.
    """
    if count_workers(strategy) == 1:
        return list(values)
    own = tf.constant(values, tf.float64)
    each = strategy.run(tf.function(lambda: tf.identity(own), autograph=False))
    mean = strategy.reduce(tf.distribute.ReduceOp.MEAN, each, axis=None)
    return [float(value) for value in mean]


def compare_workers(strategy: tf.distribute.Strategy, facts: Mapping[str, str]) -> None:
    """Refuses workers that know different things; all workers must call it.

    Args:
      strategy: of `build_strategy`.
      facts: names, the same everywhere, and values of some 200 bytes at most.

    Raises:
      UserError: naming the first that differs, on all workers the same.
    """
    if count_workers(strategy) == 1:
        return
    columns = [_of_all_workers(strategy, value) for value in facts.values()]
    try:
        refuse_differences(
            read_cluster(), [dict(zip(facts, values)) for values in zip(*columns)]
        )
    except UserError:
        # Who ends first would take what others have not yet received along.
        with contextlib.suppress(tf.errors.OpError, RuntimeError):
            mean_over_workers(strategy, [0.0])
        raise


def _of_all_workers(strategy: tf.distribute.Strategy, text: str) -> List[str]:
    """Every worker's text, sent as the mean of tables with one row each."""
    workers = count_workers(strategy)
    table = np.zeros((workers, _TEXT_BYTES))
    own = text.encode()[:_TEXT_BYTES]
    table[worker_index(strategy), : len(own)] = list(own)
    mean = mean_over_workers(strategy, table.ravel().tolist())
    rows = np.rint(np.reshape(mean, table.shape) * workers).astype(np.uint8)
    return [bytes(row).rstrip(b"\0").decode(errors="replace") for row in rows]


def _divide_processor(count: int) -> None:
    (processor,) = tf.config.list_physical_devices("CPU")
    try:
        tf.config.set_logical_device_configuration(
            processor, [tf.config.LogicalDeviceConfiguration()] * count
        )
    except RuntimeError as error:
        if len(tf.config.list_logical_devices("CPU")) != count:
            raise UserError(
                f"build_strategy.logical_cpus = {count} comes too late: TensorFlow has "
                "begun to compute in this process. Build the strategy first."
            ) from error


def _warn_of_missing_gpus(visible: int) -> None:
    """Warns where GPUs are there, or asked for, and TensorFlow finds none."""
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible or wanted in ("", "-1"):
        return
    there = glob.glob("/dev/nvidia[0-9]*") or glob.glob("/proc/driver/nvidia/*")
    if not wanted and not there:
        return
    asked = f"CUDA_VISIBLE_DEVICES is {wanted!r}" if wanted else ""
    seen = "There is an NVIDIA GPU" if there else ""
    logging.warning(
        "%s, but TensorFlow finds no GPU and will compute on the processor. %sWith a "
        "GPU and a driver of version 525 or newer this helps: "
        "pip install 'tensorflow[and-cuda]==%s'",
        " and ".join(filter(None, [seen, asked])),
        "CUDA counts GPUs from 0 and hides those after a name that it does not know; "
        "unset it to see all. "
        if wanted
        else "",
        tf.__version__,
    )
