"""Where a run computes: one device, several of one machine, or several machines."""

import contextlib
import glob
import os
from typing import Iterator, List, Optional, Sequence

import gin
import tensorflow as tf
from absl import logging

from soka_tf.data.documents import parse_json
from soka_tf.errors import LostWorker, UserError, reason

STRATEGIES = ("auto", "one_device", "mirrored", "multi_worker")
_CLUSTER = {"cluster": {str: [str]}, "task": {"type": str, "index": int}}
_EXAMPLE = (
    '{"cluster": {"worker": ["host1:12345", "host2:12345"]}, '
    '"task": {"type": "worker", "index": 0}}'
)
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


@gin.configurable
def build_strategy(
    name: str = "auto", logical_cpus: Optional[int] = None
) -> tf.distribute.Strategy:
    """Builds the distribution strategy; call it before TensorFlow computes anything.

    Args:
      name: "one_device"; "mirrored", every device of this machine; "multi_worker",
        every device of the machines that the variable TF_CONFIG of the environment
        names; or "auto", what fits: several workers, else several GPUs, else one
        device.
      logical_cpus: divides the processor into so many devices, in order to try a
        distributed run without GPUs; None for one. It is not faster.

    Raises:
      UserError: if the name is unknown or TF_CONFIG does not fit it.
    """
    if name not in STRATEGIES:
        raise UserError(
            f"strategy must be one of {', '.join(STRATEGIES)}. Received: {name!r}."
        )
    workers = _count_workers()
    gpus = len(tf.config.list_physical_devices("GPU"))
    if name == "auto":
        several = gpus > 1 or (logical_cpus or 1) > 1
        name = "mirrored" if several else "one_device"
        name = "multi_worker" if workers > 1 else name
    if name == "multi_worker" and not workers:
        raise UserError(
            "strategy = 'multi_worker' needs the variable TF_CONFIG in the environment "
            f"of every worker, each with its own index, such as {_EXAMPLE}. Received: "
            "none."
        )
    if name != "multi_worker" and workers > 1:
        raise UserError(
            f"TF_CONFIG names {workers} workers, but strategy = {name!r} would train "
            "on each alone. Bind strategy = 'multi_worker' or unset TF_CONFIG."
        )
    if logical_cpus is not None:
        _divide_processor(logical_cpus)
    _warn_of_missing_gpus(gpus)
    if name == "one_device":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        kind = "GPU" if gpus else "CPU"
        devices = [device.name for device in tf.config.list_logical_devices(kind)]
        return tf.distribute.MirroredStrategy(devices)
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
    gpus = tf.config.list_physical_devices("GPU")
    kinds = [
        tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
        for gpu in gpus
    ]
    here = ", ".join(f"{kinds.count(kind)} x {kind}" for kind in sorted(set(kinds)))
    here = here or f"CPU, {os.cpu_count()} cores"
    if replicas == 1:
        return f"One device ({here}), {batch_size} images a step."
    workers = count_workers(strategy)
    machines = f" on {workers} workers, this one number {worker_index(strategy)}"
    return (
        f"{replicas} replicas{machines if workers > 1 else ''} ({here}), "
        f"{batch_size // replicas} of {batch_size} images a step each."
    )


def count_workers(strategy: tf.distribute.Strategy) -> int:
    """How many processes train together."""
    resolver = strategy.cluster_resolver
    workers = resolver.cluster_spec().as_dict() if resolver else {}
    return max(sum(len(tasks) for tasks in workers.values()), 1)


def worker_index(strategy: tf.distribute.Strategy) -> int:
    """The number of this process; number 0 is the chief, which writes the results."""
    if count_workers(strategy) == 1:
        return 0
    resolver = strategy.cluster_resolver
    # A "chief", where the cluster has one, comes before all workers.
    chiefs = len(resolver.cluster_spec().as_dict().get("chief", []))
    return resolver.task_id + (chiefs if resolver.task_type == "worker" else 0)


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


def in_cluster() -> bool:
    """Whether this process is one of several workers."""
    return _count_workers() > 1


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


def _count_workers() -> int:
    """The workers that TF_CONFIG names; 0 without one."""
    text = os.environ.get("TF_CONFIG")
    if not text:
        return 0
    wrong = f"TF_CONFIG must look like {_EXAMPLE}, "
    try:
        config = parse_json(text, _CLUSTER)
        cluster, task = config["cluster"], config["task"]
        kinds = set(cluster)
        addresses = cluster[task["type"]]
        there = 0 <= task["index"] < len(addresses)
    except (ValueError, KeyError) as error:
        raise UserError(f"{wrong}and be JSON. Received: {text[:200]!r}.") from error
    if kinds - {"worker", "chief"} or not there:
        raise UserError(
            f"{wrong}with workers only and an index among them. Received: "
            f"{text[:200]!r}."
        )
    return sum(len(addresses) for addresses in cluster.values())


def _divide_processor(count: int) -> None:
    if not isinstance(count, int) or count < 1:
        raise UserError(
            "build_strategy.logical_cpus must be a whole number of 1 or more, or None. "
            f"Received: {count!r}."
        )
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
    """Warns where the machine has GPUs that TensorFlow does not find."""
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible or wanted in ("", "-1"):
        return
    if wanted or glob.glob("/dev/nvidia[0-9]*") or glob.glob("/proc/driver/nvidia/*"):
        logging.warning(
            "There is an NVIDIA GPU, but TensorFlow finds none and will compute on the "
            "processor. With a driver of version 525 or newer this helps: "
            "pip install 'tensorflow[and-cuda]==%s'",
            tf.__version__,
        )
