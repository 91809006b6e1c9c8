"""Of a folder of exports, soka_tf's own files are replaced, at once and no others."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

from soka_tf import atomic
from soka_tf.errors import UserError
from soka_tf.serving import export_folder
from tests.tiny_runs import ROOT

NAMES = export_folder.SAVED_MODEL_FILES
MANIFEST = export_folder.MANIFEST


def export(directory, content, names=NAMES, whole=True):
    with export_folder.replacing(str(directory), names, whole) as folder:
        for name in names:
            os.makedirs(os.path.dirname(os.path.join(folder, name)), exist_ok=True)
            with open(os.path.join(folder, name), "w") as file:
                file.write(content)


def contents(directory):
    """What there is but the manifest, folders included, by name."""
    return {
        path.relative_to(directory).as_posix(): path.read_text()
        if path.is_file()
        else None
        for path in directory.rglob("*")
        if path.name != MANIFEST
    }


def loadable(directory):
    """The content of the export that a reader would find; None for none."""
    if not (directory / "saved_model.pb").exists():
        return None
    found = {(directory / name).read_text() for name in NAMES}
    assert len(found) == 1, "saved_model.pb beside files of another export"
    return found.pop()


class Killed(BaseException):
    pass


CALLS = [("replace", n) for n in range(1, 16)] + [("remove", 1), ("rmdir", 1)]


def fail_at(monkeypatch, function, number, error, forever):
    calls = []
    real = getattr(os, function)

    def fails(*args, **kwargs):
        calls.append(args)
        if len(calls) == number or (forever and len(calls) > number):
            raise error
        return real(*args, **kwargs)

    monkeypatch.setattr(os, function, fails)
    return calls


@pytest.fixture
def former(tmp_path):
    """A folder with somebody's file and an export, one file of which becomes stale."""
    folder = tmp_path / "export"
    export(folder, "former", (*NAMES, "assets/words"))
    (folder / "thesis.pdf").write_text("years of work")
    return folder


def names_at_rest(folder):
    return {"thesis.pdf", "assets.extra", "variables", *NAMES} | (
        {"assets", "assets/words"} if (folder / "assets").exists() else set()
    )


@pytest.mark.parametrize("function, number", CALLS[:-1])  # an empty folder may stay
def test_failure_at_any_move_leaves_the_former_or_the_new_export_whole(
    former, monkeypatch, function, number
):
    with monkeypatch.context() as patch:
        fail_at(patch, function, number, OSError("disk"), forever=False)
        try:
            export(former, "new")
        except OSError as error:
            assert str(error) == "disk"
    assert loadable(former) in ("former", "new")
    assert set(contents(former)) == names_at_rest(former)


@pytest.mark.parametrize("function, number", CALLS)
def test_kill_at_any_move_is_made_good_by_the_next_export(
    former, monkeypatch, function, number
):
    with monkeypatch.context() as patch:
        fail_at(patch, function, number, Killed(), forever=True)
        patch.setattr(export_folder.shutil, "rmtree", lambda *_, **__: None)
        try:
            export(former, "new")
        except Killed:
            pass
    # No mixture is ever loaded; what is begun is named as such.
    assert loadable(former) or export_folder.is_interrupted(str(former))
    export_folder.refuse_others(str(former), NAMES)
    # The next one fails in its turn: the former or the new one is back by then.
    with pytest.raises(UserError):
        with export_folder.replacing(str(former), NAMES):
            raise UserError("no student")
    assert loadable(former) in ("former", "new")
    assert set(contents(former)) == names_at_rest(former)
    export(former, "newest")
    assert loadable(former) == "newest"
    expected = {name: "newest" for name in NAMES}
    expected |= {"thesis.pdf": "years of work", "assets.extra": None, "variables": None}
    assert contents(former) == expected


def test_every_move_is_among_those_tried(former, monkeypatch):
    with monkeypatch.context() as patch:
        calls = fail_at(patch, "replace", 0, None, forever=False)
        export(former, "new")
    assert len(calls) == max(n for name, n in CALLS if name == "replace")


def test_process_killed_between_two_moves_is_made_good(former):
    child = textwrap.dedent(
        """
        import os, signal, sys
        from soka_tf.serving import export_folder
        from tests.faults.test_export_folder import export
        import pathlib
        real, moves = os.replace, []
        def replace(*paths):
            moves.append(paths)
            if len(moves) == int(sys.argv[2]):
                os.kill(os.getpid(), signal.SIGKILL)
            real(*paths)
        os.replace = replace
        export(pathlib.Path(sys.argv[1]), "new")
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", child, str(former), "8"], cwd=ROOT, timeout=120
    )
    assert done.returncode == -9
    assert export_folder.is_interrupted(str(former))
    export(former, "newest")
    assert loadable(former) == "newest"
    assert (former / "thesis.pdf").read_text() == "years of work"
    assert sorted(p.name for p in former.iterdir()) == sorted(
        ["assets.extra", MANIFEST, "fingerprint.pb", "saved_model.pb", "thesis.pdf"]
        + ["variables"]
    )


@pytest.mark.parametrize("kind", ["link", "mount"])
def test_folder_that_cannot_be_renamed_is_a_target(former, tmp_path, monkeypatch, kind):
    target = former
    if kind == "link":
        target = tmp_path / "link"
        target.symlink_to(former)
    real = os.replace

    def replace(source, destination):
        fixed = {os.path.realpath(former), os.path.realpath(tmp_path)}
        assert not fixed & {os.path.realpath(source), os.path.realpath(destination)}
        # Nothing leaves the folder, which may be another file system.
        inside = os.path.join(os.path.realpath(former), "")
        assert os.path.realpath(source).startswith(inside)
        real(source, destination)

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(os, "rename", replace)
    export(target, "new")
    assert loadable(former) == "new"
    assert target.is_symlink() == (kind == "link")


def test_files_of_others_are_refused_by_name_before_anything_is_written(tmp_path):
    (tmp_path / "saved_model.pb").write_text("of somebody")
    with pytest.raises(UserError, match="saved_model.pb there was not written by soka"):
        export(tmp_path, "new")
    assert contents(tmp_path) == {"saved_model.pb": "of somebody"}


def test_files_of_others_that_come_meanwhile_are_refused(tmp_path):
    with pytest.raises(UserError, match="fingerprint.pb there was not written by"):
        with export_folder.replacing(str(tmp_path), []) as folder:
            (tmp_path / "fingerprint.pb").write_text("of somebody")
            with open(os.path.join(folder, "fingerprint.pb"), "w"):
                pass
    assert contents(tmp_path) == {"fingerprint.pb": "of somebody"}


def test_added_file_leaves_the_others_and_a_whole_export_takes_it_away(former):
    export_folder.put(str(former), {"student.onnx": b"former"})
    assert loadable(former) == "former" and (former / "student.onnx").exists()
    export(former, "new")
    assert loadable(former) == "new" and not (former / "student.onnx").exists()


@pytest.mark.parametrize("name", ["thesis.pdf", "../beside", "/etc/x", "variables", 3])
def test_manifest_that_names_other_files_moves_none(former, name):
    beside = former.parent / "beside"
    beside.write_text("of somebody")
    path = former / MANIFEST
    manifest = json.loads(path.read_text())
    manifest["files"].append(name)
    path.write_text(json.dumps(manifest))
    export(former, "new")
    assert (former / "thesis.pdf").exists() and beside.exists()
    assert loadable(former) == "new"


def test_plan_of_somebody_moves_no_other_files(former):
    work = former / ".soka_export"
    (work / "former").mkdir(parents=True)
    names = ["../../beside", "thesis.pdf"]
    atomic.write_json(work / "plan.json", {"new": names, "former": names})
    (work / "former" / "thesis.pdf").write_text("another")
    export(former, "new")
    assert (former / "thesis.pdf").read_text() == "years of work"
    assert not work.exists() and not (former.parent / "beside").exists()


@pytest.mark.parametrize("what", ["variables", ".soka_export"])
def test_links_to_other_folders_within_the_target_are_refused(tmp_path, what):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "variables.index").write_text("of somebody")
    target = tmp_path / "export"
    target.mkdir()
    (target / what).symlink_to(elsewhere)
    with pytest.raises(UserError, match=f"{what} there is a link"):
        export(target, "new")
    assert (elsewhere / "variables.index").read_text() == "of somebody"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"files": 3}', '{"other": 1}'])
def test_manifest_that_is_not_ours_is_not_replaced(tmp_path, text):
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(UserError, match=f"{MANIFEST} there was not written"):
        export(tmp_path, "new")
    assert (tmp_path / MANIFEST).read_text() == text


def test_export_of_a_version_without_manifest_is_replaced(former):
    (former / "assets.extra" / "metadata.json").write_text('{"soka_tf": "0.1.0"}')
    (former / "student.onnx").write_text("former")
    (former / MANIFEST).unlink()
    export(former, "new")
    assert loadable(former) == "new"
    assert not (former / "student.onnx").exists()
    assert (former / "thesis.pdf").exists()


def test_link_to_nowhere_is_refused(tmp_path):
    (tmp_path / "export").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match="a link to nowhere"):
        export(tmp_path / "export", "new")


def test_files_are_flushed_before_the_first_of_them_moves(former, monkeypatch):
    done = []
    flush, replace = export_folder.flush, os.replace
    monkeypatch.setattr(
        export_folder, "flush", lambda path: (done.append(path), flush(path))
    )
    monkeypatch.setattr(
        os, "replace", lambda a, b: (done.append("move"), replace(a, b))
    )
    export(former, "new")
    moves = [i for i, what in enumerate(done) if what == "move"][2:]  # manifest, plan
    flushed = {os.path.basename(path) for path in done[: moves[0]]}
    assert {os.path.basename(name) for name in NAMES} <= flushed
