"""Strategies by name, TF_CONFIG, and what is said of the devices."""

import json

import pytest
import tensorflow as tf

from soka_tf.errors import LostWorker, UserError
from soka_tf.runs import strategy as strategies

TWO = {"cluster": {"worker": ["localhost:1", "localhost:2"]}}


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)


def set_cluster(monkeypatch, config):
    text = config if isinstance(config, str) else json.dumps(config)
    monkeypatch.setenv("TF_CONFIG", text)


@pytest.mark.parametrize("name", ["auto", "one_device"])
def test_strategy_without_cluster_and_gpus_is_the_default(name):
    strategy = strategies.build_strategy(name)
    assert strategy is tf.distribute.get_strategy()
    assert strategies.count_workers(strategy) == 1
    assert strategies.worker_index(strategy) == 0


def test_strategy_mirrored_on_one_processor_has_one_replica():
    assert strategies.build_strategy("mirrored").num_replicas_in_sync == 1


def test_strategy_unknown_name_lists_the_known_ones():
    with pytest.raises(UserError, match="must be one of auto, one_device.*'tpu'"):
        strategies.build_strategy("tpu")


def test_strategy_multi_worker_without_cluster_shows_an_example():
    with pytest.raises(UserError, match="needs the variable TF_CONFIG.*host1:12345"):
        strategies.build_strategy("multi_worker")


@pytest.mark.parametrize("name", ["one_device", "mirrored"])
def test_strategy_of_one_machine_in_a_cluster_is_refused(name, monkeypatch):
    set_cluster(monkeypatch, {**TWO, "task": {"type": "worker", "index": 0}})
    with pytest.raises(UserError, match="2 workers, but strategy = .* each alone"):
        strategies.build_strategy(name)


@pytest.mark.parametrize(
    "config",
    [
        "host1:1,host2:2",
        "[]",
        TWO,
        {**TWO, "task": {"type": "worker", "index": 2}},
        {**TWO, "task": {"type": "worker", "index": "0"}},
        {**TWO, "task": {"type": "ps", "index": 0}},
        {
            "cluster": {"ps": ["a:1"], "worker": ["b:1"]},
            "task": {"type": "worker", "index": 0},
        },
    ],
)
def test_strategy_with_a_wrong_cluster_fails_in_one_line(config, monkeypatch):
    set_cluster(monkeypatch, config)
    with pytest.raises(UserError, match="TF_CONFIG must look like"):
        strategies.build_strategy("auto")


@pytest.mark.parametrize("count", [0, 1.5, "2"])
def test_strategy_with_wrong_logical_cpus_names_the_binding(count):
    with pytest.raises(UserError, match="logical_cpus must be a whole number"):
        strategies.build_strategy("one_device", logical_cpus=count)


def test_strategy_with_late_logical_cpus_says_so():
    tf.constant(0)  # TensorFlow has begun
    with pytest.raises(UserError, match="comes too late"):
        strategies.build_strategy("mirrored", logical_cpus=7)


@pytest.mark.parametrize(
    "visible_devices, driver, warns",
    [
        (None, False, False),
        (None, True, True),
        ("0", False, True),
        ("-1", True, False),
        ("", True, False),
    ],
)
def test_strategy_warns_of_gpus_that_are_not_seen(
    visible_devices, driver, warns, monkeypatch, caplog
):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible_devices is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible_devices)
    monkeypatch.setattr(strategies.glob, "glob", lambda _: ["gpu"] if driver else [])
    strategies.build_strategy("one_device")
    assert ("pip install 'tensorflow[and-cuda]==" in caplog.text) == warns


@pytest.mark.parametrize("driver", [False, True])
def test_nonsense_in_place_of_gpus_is_not_told_as_one(driver, monkeypatch, caplog):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "nonsense")
    monkeypatch.setattr(strategies.glob, "glob", lambda _: ["gpu"] if driver else [])
    strategies.build_strategy("one_device")
    asked = "CUDA_VISIBLE_DEVICES is 'nonsense', but TensorFlow finds no GPU"
    assert asked in caplog.text
    assert ("There is an NVIDIA GPU" in caplog.text) == driver


def test_devices_line_tells_the_images_of_a_step():
    said = strategies.describe_devices(tf.distribute.get_strategy(), 16)
    assert said.startswith("One device (CPU, ") and "16 images a step" in said


class ThreeReplicas:
    num_replicas_in_sync = 3


def test_devices_line_refuses_a_batch_that_cannot_be_divided():
    with pytest.raises(UserError, match="multiple of the 3 replicas.*Received: 16"):
        strategies.describe_devices(ThreeReplicas, 16)


def test_lost_worker_in_a_cluster_says_how_to_go_on(monkeypatch):
    set_cluster(monkeypatch, {**TWO, "task": {"type": "worker", "index": 0}})
    with pytest.raises(LostWorker, match="Start the command on all workers again"):
        with strategies.lost_workers("During training"):
            raise tf.errors.UnavailableError(None, None, "Socket closed")


@pytest.mark.parametrize(
    "error",
    [
        tf.errors.ResourceExhaustedError(None, None, "OOM on /job:worker/task:0"),
        tf.errors.UnknownError(
            None, None, "UserError: None of the images; socket closed"
        ),
        RuntimeError("worker"),
    ],
)
def test_other_errors_of_a_cluster_are_no_lost_workers(error, monkeypatch):
    set_cluster(monkeypatch, {**TWO, "task": {"type": "worker", "index": 0}})
    with pytest.raises(type(error)):
        with strategies.lost_workers("During training"):
            raise error


def test_lost_worker_without_a_cluster_keeps_its_error():
    with pytest.raises(tf.errors.UnavailableError):
        with strategies.lost_workers("During training"):
            raise tf.errors.UnavailableError(None, None, "Socket closed")
