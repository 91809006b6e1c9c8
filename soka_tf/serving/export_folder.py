"""A folder of exports: what soka_tf wrote into it is replaced, all else stays.

`export_manifest.json` names the files that are ours. New ones are written to a folder
inside, so that a mount point or a link may be the target. Then the former ones move out
of the way and the new ones into place, saved_model.pb first out and last in: a reader
finds a whole export or none. A plan of the moves lies there meanwhile, by which whoever
exports next ends or undoes what a kill has left.
"""

import contextlib
import os
import re
import shutil
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Set

import soka_tf
from soka_tf.atomic import flush, locked, write_json
from soka_tf.data.documents import read_json
from soka_tf.errors import UserError
from soka_tf.networks.untrusted import GRAPH

METADATA = os.path.join("assets.extra", "metadata.json")
MANIFEST = "export_manifest.json"
SAVED_MODEL_FILES = (
    GRAPH,
    "fingerprint.pb",
    METADATA,
    os.path.join("variables", "variables.index"),
    os.path.join("variables", "variables.data-00000-of-00001"),
)
_WORK = ".soka_export"
# All that an export may hold. A manifest comes with an export, from anywhere: nothing
# else is moved or deleted, whatever it says.
_NAMES = re.compile(
    r"saved_model\.pb|fingerprint\.pb|assets/\w[\w.-]*|assets\.extra/metadata\.json|"
    r"variables/variables\.(index|data-\d{5}-of-\d{5})|"
    r"student(_float16\.tflite|_int8\.tflite|\.onnx)|"
    r"export_(report\.json|report\.md|manifest\.json)|model_card\.(json|md)"
)

Describe = Callable[[Mapping[str, str]], Mapping[str, bytes]]


@contextlib.contextmanager
def replacing(
    directory: str,
    names: Iterable[str],
    whole: bool = False,
    describe: Optional[Describe] = None,
) -> Iterator[str]:
    """Yields a folder to write to; its files are the export once the block has ended.

    After an exception the former export is there as it was.

    Args:
      directory: the folder of the export, made if need be.
      names: what will be written, as far as it is known before.
      whole: whether all of the former export goes, not only what is replaced.
      describe: given all that the export will have, name -> path where it lies now,
        returns further files, name -> content, of the same export.

    Raises:
      UserError: if the folder is a file, or a file that is not ours is in the way.
      OSError: if the disk refuses.
    """
    directory = os.path.abspath(os.path.expanduser(directory))
    made = _make(directory)
    with contextlib.ExitStack() as stack:
        if made:
            stack.callback(_remove_if_empty, directory)
        stack.enter_context(locked(directory, f"exports to {directory}"))
        _settle(directory)
        refuse_others(directory, names)
        stack.callback(_settle, directory)
        new = os.path.join(directory, _WORK, "new")
        os.makedirs(new)
        yield new
        _swap(directory, whole, describe)


def put(
    directory: str, files: Mapping[str, bytes], describe: Optional[Describe] = None
) -> None:
    """Adds files to an export, all or none; see `replacing`."""
    with replacing(directory, files, describe=describe) as folder:
        for name, content in files.items():
            with open(os.path.join(folder, name), "wb") as file:
                file.write(content)


def refuse_others(directory: str, names: Iterable[str]) -> None:
    """Refuses to write where something lies that soka_tf has not written.

    Raises:
      UserError: naming it.
    """
    ours = _ours(directory)
    for name in [*names, MANIFEST]:
        below = os.path.dirname(name)
        folder = os.path.join(directory, below)
        if below and os.path.islink(folder):
            _refuse(directory, below, "is a link")
        if below and os.path.lexists(folder) and not os.path.isdir(folder):
            _refuse(directory, below, "is a file")
        if name not in ours and os.path.lexists(os.path.join(directory, name)):
            _refuse(directory, name, "was not written by soka_tf")


def is_interrupted(directory: str) -> bool:
    """Whether an export there is going on, or was killed while files moved."""
    return os.path.lexists(_plan_file(directory))


def _refuse(directory: str, name: str, why: str) -> None:
    raise UserError(
        f"Cannot export to {directory!r}: {name} there {why}. Move it away or name "
        "another folder."
    )


def _make(directory: str) -> bool:
    """Makes the folder; returns whether there was none."""
    if os.path.isdir(directory):
        return False
    if os.path.lexists(directory):
        raise UserError(
            f"Cannot export to {directory!r}: it is a file or a link to nowhere. Name "
            "a folder."
        )
    os.makedirs(directory)
    return True


def _ours(directory: str) -> Set[str]:
    """What is there and was written by soka_tf, by name."""
    names = _json(os.path.join(directory, MANIFEST)).get("files")
    if isinstance(names, list):
        names = [*names, MANIFEST]
    elif _json(os.path.join(directory, METADATA)).get("soka_tf"):
        names = _files_in(directory)  # of a version without a manifest
    plan = _json(_plan_file(directory))
    names = _valid(names) + _valid(plan.get("new")) + _valid(plan.get("former"))
    return {
        name for name in _valid(names) if os.path.lexists(os.path.join(directory, name))
    }


def _files_in(directory: str) -> List[str]:
    folders = ("", "variables", os.path.dirname(METADATA))
    return [
        os.path.join(folder, name)
        for folder in folders
        if os.path.isdir(os.path.join(directory, folder))
        for name in os.listdir(os.path.join(directory, folder))
    ]


def _valid(names: Any) -> List[str]:
    names = names if isinstance(names, list) else []
    return [n for n in names if isinstance(n, str) and _NAMES.fullmatch(n)]


def _json(path: str) -> Dict[str, Any]:
    """The object in a file; empty if it is missing or damaged."""
    try:
        return read_json(path, {}, "", "")
    except UserError:
        return {}


def _swap(directory: str, whole: bool, describe: Optional[Describe]) -> None:
    """Puts the new files in the place of the former ones."""
    new = os.path.join(directory, _WORK, "new")
    if describe is not None:
        _add_description(directory, new, whole, describe)
    names = _names_below(new)
    refuse_others(directory, names)
    former = _ours(directory) - {MANIFEST}
    files = set(names) if whole else former | set(names)
    content = {"soka_tf": soka_tf.__version__, "files": sorted(files)}
    write_json(os.path.join(new, MANIFEST), content)
    names.append(MANIFEST)
    out = sorted(former if whole else former & set(names))
    if os.path.lexists(os.path.join(directory, MANIFEST)):
        out.append(MANIFEST)
    for name in names:
        flush(os.path.join(new, name))
    write_json(_plan_file(directory), {"new": names, "former": out})
    kept = os.path.join(directory, _WORK, "former")
    for name in _graph_last(out)[::-1]:
        _move(name, directory, kept)
    for name in _graph_last(names):
        _move(name, new, directory)
    flush(directory)
    _end(directory, [*names, *out])


def _add_description(directory: str, new: str, whole: bool, describe: Describe) -> None:
    files = {} if whole else {n: os.path.join(directory, n) for n in _ours(directory)}
    files.update((name, os.path.join(new, name)) for name in _names_below(new))
    for name, content in describe(files).items():
        with open(os.path.join(new, name), "wb") as file:
            file.write(content)


def _names_below(root: str) -> List[str]:
    return [
        os.path.relpath(os.path.join(folder, name), root)
        for folder, _, files in os.walk(root)
        for name in files
    ]


def _settle(directory: str) -> None:
    """Ends or undoes an export that was killed, and removes what it has left."""
    work = os.path.join(directory, _WORK)
    if not os.path.lexists(work):
        return
    folders = [os.path.join(at, d) for at, below, _ in os.walk(work) for d in below]
    if not os.path.isdir(work) or any(map(os.path.islink, [work, *folders])):
        _refuse(directory, _WORK, "is a link, has links or is a file")
    if is_interrupted(directory):
        plan = _json(_plan_file(directory))
        _undo(directory, _valid(plan.get("new")), _valid(plan.get("former")))
    shutil.rmtree(work)


def _undo(directory: str, names: List[str], out: List[str]) -> None:
    """Moves everything back, unless all has been in place."""
    new, kept = (os.path.join(directory, _WORK, one) for one in ("new", "former"))
    waiting = {n for n in names if os.path.lexists(os.path.join(new, n))}
    if waiting:
        for name in _graph_last(names)[::-1]:
            if os.path.lexists(os.path.join(directory, name)) and name not in waiting:
                _move(name, directory, new)
        for name in _graph_last(out):
            if os.path.lexists(os.path.join(kept, name)):
                _move(name, kept, directory)
    _end(directory, [*names, *out])


def _end(directory: str, names: Iterable[str]) -> None:
    for folder in sorted({os.path.dirname(name) for name in names} - {""}):
        _remove_if_empty(os.path.join(directory, folder))
    os.remove(_plan_file(directory))


def _move(name: str, source: str, target: str) -> None:
    path = os.path.join(target, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    os.replace(os.path.join(source, name), path)


def _graph_last(names: Iterable[str]) -> List[str]:
    return sorted(names, key=lambda name: (name == GRAPH, name))


def _remove_if_empty(directory: str) -> None:
    with contextlib.suppress(OSError):
        os.rmdir(directory)


def _plan_file(directory: str) -> str:
    return os.path.join(directory, _WORK, "plan.json")
