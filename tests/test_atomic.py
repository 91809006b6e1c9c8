"""Files that are written whole or not at all, and locks that a kill lets go."""

import os
import signal
import stat
import subprocess
import sys
import threading

import pytest

from soka_tf import atomic
from tests.tiny_runs import ROOT


def test_replacing_shows_the_new_file_only_once_it_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic.replacing(path) as temporary:
        assert temporary.endswith(".tmp")
        with open(temporary, "w", encoding="utf-8") as file:
            file.write("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_replacing_stopped_keeps_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(type(error)):
        with atomic.replacing(path) as temporary:
            with open(temporary, "w", encoding="utf-8") as file:
                file.write("ne")
            raise error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_replacing_never_opened_leaves_the_reason_to_be_seen(tmp_path):
    with pytest.raises(FileNotFoundError, match="a.txt"):
        with atomic.replacing(tmp_path / "a.txt"):
            pass


def test_written_files_may_be_read_by_whoever_the_umask_allows(tmp_path):
    before = os.umask(0o022)
    try:
        atomic.write_text(tmp_path / "new" / "a.txt", "ä\n")
    finally:
        os.umask(before)
    path = tmp_path / "new" / "a.txt"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert path.read_bytes() == "ä\n".encode()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_json_that_cannot_be_is_refused_and_the_old_one_stays(tmp_path, value):
    path = tmp_path / "a.json"
    atomic.write_json(path, {"b": 1})
    with pytest.raises((ValueError, TypeError)):
        atomic.write_json(path, {"b": value})
    assert path.read_text() == '{\n "b": 1\n}\n'


def test_lock_is_waited_for_and_a_kill_lets_it_go(tmp_path, monkeypatch):
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from soka_tf import atomic\n"
            "with atomic.locked(sys.argv[1], 'x'): print(flush=True); time.sleep(600)",
            str(tmp_path / "lock"),
        ],
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    order, said = [], []
    # Not caplog: where absl's records go depends on what ran before.
    monkeypatch.setattr(atomic.logging, "info", lambda text, *a: said.append(text % a))

    def wait():
        with atomic.locked(tmp_path / "lock", "holds it for long"):
            order.append("held")

    with holder:
        holder.stdout.readline()
        waiting = threading.Thread(target=wait)
        waiting.start()
        waiting.join(0.5)
        order.append("killed")
        holder.send_signal(signal.SIGKILL)
        waiting.join(60)
    assert order == ["killed", "held"]
    assert said == ["Waiting for another process that holds it for long ..."]
