"""Files that are written whole or not at all, and locks that a kill lets go."""

import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
import threading

import pytest

from soka_tf import atomic
from soka_tf.errors import UserError
from tests.lock_holder import held


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


def test_leftovers_of_killed_processes_are_removed_and_nothing_else(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    dead, alive = process.pid, os.getpid()
    gone = [f"curves.png.{dead}.tmp", f"metrics.csv.{dead}.tmp"]
    gone += [f"report.html.{dead}.tmp", "a.json.9" + "9" * 30]
    gone[-1] += ".tmp"
    stay = [f"curves.png.{alive}.tmp", f"notes.txt.{dead}.tmp", "curves.png", "a.tmp"]
    for name in (*gone, *stay):
        (tmp_path / name).write_text("half")
    atomic.remove_leftovers(tmp_path)
    atomic.remove_leftovers(tmp_path / "not_there")
    assert sorted(os.listdir(tmp_path)) == sorted(stay)


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
    order, said = [], []
    # Not caplog: where absl's records go depends on what ran before.
    monkeypatch.setattr(atomic.logging, "info", lambda text, *a: said.append(text % a))

    def wait():
        with atomic.locked(tmp_path / "lock", "holds it for long"):
            order.append("held")

    with held(tmp_path / "lock") as holder:
        waiting = threading.Thread(target=wait)
        waiting.start()
        waiting.join(0.5)
        order.append("killed")
        holder.send_signal(signal.SIGKILL)
        waiting.join(60)
    assert order == ["killed", "held"]
    assert said == ["Waiting for another process that holds it for long ..."]


def test_lock_that_another_holds_is_refused_where_a_remedy_is_given(tmp_path):
    with held(tmp_path / "lock"):
        with pytest.raises(UserError, match="^Another process draws. Wait for it.$"):
            with atomic.locked(tmp_path / "lock", "draws", "Wait for it."):
                pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_file_system_without_locks_is_told_and_done_without(
    number, tmp_path, monkeypatch
):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    said = []
    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(
        atomic.logging, "warning", lambda text, *a: said.append(text % a)
    )
    with atomic.locked(tmp_path / "lock", "draws"):
        pass
    (warning,) = said
    assert f"{tmp_path}/lock cannot be locked here ({os.strerror(number)})" in warning


def flushes(monkeypatch):
    """What is flushed and what is put in place, in order."""
    done, real = [], os.replace
    monkeypatch.setattr(atomic, "flush", lambda path: done.append(str(path)))
    monkeypatch.setattr(
        os, "replace", lambda a, b: (done.append("in place"), real(a, b))
    )
    return done


def test_file_is_flushed_before_it_is_in_place_and_its_name_afterwards(
    tmp_path, monkeypatch
):
    done = flushes(monkeypatch)
    atomic.write_json(tmp_path / "split.json", {})
    temporary, *then = done
    assert temporary.endswith(".tmp") and then == ["in place", str(tmp_path)]


def test_what_can_be_made_again_is_not_flushed(tmp_path, monkeypatch):
    done = flushes(monkeypatch)
    with atomic.replacing(tmp_path / "a", flushed=False) as temporary:
        open(temporary, "wb").close()
    assert done == ["in place"]


def test_folders_that_cannot_be_flushed_are_no_error_and_a_broken_disk_is_one(
    tmp_path, monkeypatch
):
    def fail(number):
        def fsync(_):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", fsync)

    fail(errno.EINVAL)
    atomic.flush(tmp_path)
    fail(errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        atomic.flush(tmp_path)
