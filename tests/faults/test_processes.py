"""Signals are noted or end a command in order; workers end with their parent."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from soka_tf.processes import Interruption
from tests.tiny_runs import ROOT


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_is_noted_and_a_second_does_what_it_did(number):
    heard = []
    before = signal.signal(number, lambda *_: heard.append(number))
    try:
        with Interruption() as interruption:
            assert interruption.received is None
            send(number)
            assert interruption.received == number and not heard
            assert interruption.name == number.name
            send(number)
            assert heard == [number]
        with Interruption():
            pass
        send(number)
        assert heard == [number, number]
    finally:
        signal.signal(number, before)


def test_what_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            send(signal.SIGINT)
            assert interruption.received is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_hear_nothing():
    made = []

    def work():
        with Interruption() as interruption:
            made.append(interruption)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert made[0].received is None


_PARENT = """
import os, time
from soka_tf.data.rooms.room_files import drawing_pool, light_workers

if __name__ == "__main__":
    with drawing_pool(2) as pool:
        with light_workers():
            pids = {pool.submit(os.getpid).result() for _ in range(8)}
            waiting = [pool.submit(time.sleep, 600) for _ in range(2)]
        print(*pids, flush=True)
        time.sleep(600)
"""


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        return file.read().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_workers_end_when_their_parent_is_killed(tmp_path):
    (tmp_path / "parent.py").write_text(_PARENT)
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "parent.py"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert pids and all(map(alive, pids))
        parent.kill()
    until = time.monotonic() + 30
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.2)
    assert not any(map(alive, pids))
