"""Workers wait for each other by name and are refused where they differ."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from soka_tf.errors import UserError
from soka_tf.runs.cluster import Cluster, read_cluster
from soka_tf.runs.meeting import refuse_differences
from tests.tiny_runs import ROOT

_WORKER = """
import json, signal, sys
from absl import logging
from soka_tf.errors import UserError
from soka_tf.runs import meeting
from soka_tf.runs.cluster import read_cluster
logging.set_verbosity(logging.INFO)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job has none
meeting._QUIET_SECONDS = float(sys.argv[2])
try:
    meeting.meet(read_cluster(), json.loads(sys.argv[1]))
    print("met", flush=True)
except UserError as error:
    print(error, flush=True)
    sys.exit(2)
"""


@pytest.fixture
def addresses():
    """Of three workers, at ports that nobody has."""
    sockets = [socket.socket() for _ in range(3)]
    for each in sockets:
        each.bind(("localhost", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return [f"localhost:{port}" for port in ports]


@pytest.fixture
def start(addresses):
    """Starts a worker, which imports no TensorFlow."""
    started = []

    def start_worker(number, quiet_seconds=60.0, **facts):
        task = {"type": "worker", "index": number}
        config = {"cluster": {"worker": addresses}, "task": task}
        process = subprocess.Popen(
            [sys.executable, "-c", _WORKER, json.dumps(facts), str(quiet_seconds)],
            cwd=ROOT,
            env={**os.environ, "TF_CONFIG": json.dumps(config)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start_worker
    for process in started:
        process.kill()
        process.communicate()


def ends(*processes):
    """Status and output of each, which have logged nothing but for whom they wait."""
    said = [process.communicate(timeout=60) for process in processes]
    for _, log in said:
        assert all("Waiting for worker" in line for line in log.splitlines())
    return [(p.returncode, text.strip()) for p, (text, _) in zip(processes, said)]


def test_workers_that_were_told_the_same_meet_in_any_order(start):
    workers = [start(number, seed="0") for number in (2, 0, 1)]
    assert ends(*workers) == [(0, "met")] * 3


def test_workers_that_differ_all_say_in_what_with_both_values(start, addresses):
    rates = ["0.1", "0.1", "0.2"]
    workers = [start(n, seed="0", rate=rate, z=rate) for n, rate in enumerate(rates)]
    for status, said in ends(*workers):
        assert status == 2
        assert (
            f"rate is 0.1 for worker 0 ({addresses[0]}) and "
            f"0.2 for worker 2 ({addresses[2]})"
        ) in said
        assert "\n" not in said


def test_whoever_waits_says_for_whom_and_again_when_that_changes(start, addresses):
    second = start(1, 0)
    absent = f"Waiting for worker 0 ({addresses[0]}) of TF_CONFIG ..."
    assert absent in second.stderr.readline()
    first = start(0, 0)
    both = f"Waiting for worker 1 ({addresses[1]}), worker 2 ({addresses[2]}) of"
    assert both in first.stderr.readline()
    last = f"Waiting for worker 2 ({addresses[2]}) of TF_CONFIG ..."
    assert last in first.stderr.readline()
    assert last in second.stderr.readline()
    assert ends(start(2), second, first) == [(0, "met")] * 3


def test_worker_killed_while_it_waits_may_come_again(start, addresses):
    chief, killed = start(0, 0), start(1)
    here = f"Waiting for worker 2 ({addresses[2]}) of TF_CONFIG ..."
    while here not in chief.stderr.readline():
        pass
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert "Waiting for worker 1" in chief.stderr.readline()
    assert ends(chief, start(1), start(2))[0] == (0, "met")


def test_two_workers_of_one_index_are_refused(start):
    chief, worker = start(0, 0), start(1, 0)
    while "Waiting for worker 2" not in worker.stderr.readline():
        pass
    ((status, said),) = ends(start(1))
    assert status == 2 and "another process is worker 1" in said
    assert chief.poll() is None and worker.poll() is None


def test_chief_waits_for_its_port_and_hears_no_strangers(start, addresses):
    host, port = addresses[0].split(":")
    with socket.create_server(("", int(port))):
        chief = start(0, 0)
        assert "Address already in use" in chief.stderr.readline()
    workers = [start(1), start(2)]
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((host, int(port)), 5) as stranger:
                stranger.sendall(b"PRI * HTTP/2.0\r\n\r\n\xff")
            break
        except ConnectionRefusedError:
            time.sleep(0.05)
    assert ends(chief, *workers) == [(0, "met")] * 3


def test_chief_that_waits_ends_by_sigint(start):
    chief = start(0, 0)
    chief.stderr.readline()
    chief.send_signal(signal.SIGINT)
    assert chief.wait(10) != 0


def test_fact_that_one_worker_lacks_is_a_difference():
    cluster = Cluster(["a:1", "b:1"])
    with pytest.raises(UserError, match=r"x is not bound for .*a:1.* 'y' for .*b:1"):
        refuse_differences(cluster, [{}, {"x": "'y'"}])


def test_chief_of_its_own_kind_is_number_0(monkeypatch):
    cluster = {"worker": ["b:1", "c:1"], "chief": ["a:1"]}
    task = {"type": "worker", "index": 1}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))
    assert read_cluster() == Cluster(["a:1", "b:1", "c:1"], 2)
