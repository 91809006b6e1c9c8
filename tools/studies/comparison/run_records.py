"""One small file a run: what it was, what it took, its errors room by room."""

import hashlib
import json
import pathlib
from typing import Any, Dict, List, Mapping, Optional, Sequence

from soka_tf.atomic import write_text
from soka_tf.data.documents import Number, read_json
from soka_tf.errors import UserError, short
from soka_tf.runs.gin_text import (
    bindings_of,
    differing_bindings,
    format_gin,
    read_gin,
)
from tools.studies.comparison.protocol import VERSION, Job
from tools.studies.methods import PAIR
from tools.studies.training import Runs, Training

_COUNT = Number(int, 0, 1e15)
_SUM = Number(float, 0, 1e300)
_SUMS = {str: {"units": [_SUM], "network": [_SUM]}}
_MANY = 1 << 20  # bytes: some ten times what a record of the test rooms has
RECORD_SHAPE = {
    "protocol": _COUNT,
    "run": str,
    "portion": str,
    "method": str,
    "task": (str, None),
    "budget": _COUNT,
    "trial": _COUNT,
    "seed": _COUNT,
    "steps": _COUNT,
    "cpu_seconds": (_SUM, None),
    "seconds": (_SUM, None),
    "processor": str,
    "cores": (int, None),
    "versions": {str: str},
    "commit": (str, None),
    "teachers": {str: str},
    "bindings_sha256": str,
    "bindings": str,
    "failed": (str, None),
    "errors": (_SUMS, None),
}
REFERENCE_SHAPE = {
    "protocol": _COUNT,
    "rooms": [str],
    "pixels": {str: [_COUNT]},
    "teacher": _SUMS,
    "median": _SUMS,
    "teachers": {str: str},
    "teachers_cpu_seconds_an_image": _SUM,
}
OPENED_SHAPE = {
    "protocol": _COUNT,
    "protocol_sha256": str,
    "opened": str,
    "commit": (str, None),
    "chosen": {str: _COUNT},
}
# Words of a run that ended without a student: so does training (`NotFinite`).
NOT_FINITE = "NaN or infinite"
OPENED = "test_rooms_opened.json"
# Where files lie on a machine: all that a run may be told.
OF_THE_MACHINE = ("rooms.dir", "run.teacher_cache_dir")
# These, teachers being known by their content, and what is written or checked beside
# training: no number depends on it.
_WITHOUT_EFFECT = (
    *(*OF_THE_MACHINE, "teachers_dir"),
    *("build_data.check_files", "run.log_every_steps", "run.checkpoint_every_steps"),
    *("run.keep_checkpoints", "run.panel_images", "run.export_precision"),
)


def identity(runs: Runs, training: Training) -> Dict[str, Any]:
    """What makes a run's numbers what they are, as records hold it."""
    bound = runs.setting.bound(training)
    kept = {name: bound[name] for name in bound if name not in _WITHOUT_EFFECT}
    text = format_gin(kept)
    return {
        "teachers": runs.teachers_of(training),
        "bindings_sha256": _sha256(text),
        "bindings": text,
    }


def digest_of_rooms(who: Mapping[str, Any], job: Job) -> str:
    """Tells apart what teachers and median image were measured on, in a few digits.

    Args:
      who: of `identity`.
      job: a run on these rooms.
    """
    bound = bindings_of(who["bindings"], "the run's bindings")
    rooms = {n: v for n, v in bound.items() if n.startswith(("rooms.valid", "image_"))}
    teachers = [who["teachers"].get(f"{t}.safetensors") for t in (job.task, *PAIR) if t]
    return _sha256(repr((sorted(rooms.items()), teachers)))[:8]


def record_of(
    job: Job, steps: int, who: Mapping[str, Any], found: Mapping[str, Any]
) -> Dict[str, Any]:
    """The content of a record.

    Args:
      job: the run.
      steps: of it.
      who: of `identity`.
      found: what the run left: "cpu_seconds", "seconds", "processor", "cores",
        "versions", "commit", "failed" and "errors".
    """
    return {
        "protocol": VERSION,
        "run": job.name,
        **job._asdict(),
        "method": job.method.name,
        "steps": steps,
        **found,
        **who,
    }


def write(path: pathlib.Path, content: Mapping[str, Any]) -> None:
    """Writes a record, a line a field."""
    lines = (f"{json.dumps(k)}: {json.dumps(v)}" for k, v in content.items())
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def read(
    path: pathlib.Path, shape: Any, versions: Sequence[int] = (VERSION,)
) -> Optional[Dict[str, Any]]:
    """The content of a record of these versions of the protocol; None if there is none.

    Raises:
      UserError: if it is none, has been changed, or is of another version.
    """
    if not path.exists():
        return None
    content = read_json(path, shape, _REMEDY, "it is not a record", _MANY)
    if content["protocol"] not in versions:
        _refuse(path, f"of protocol version {content['protocol']}, not {VERSION}")
    text = content.get("bindings")
    if text is not None and _sha256(text) != content["bindings_sha256"]:
        _refuse(path, "changed: its bindings are not those of its bindings_sha256")
    return content


def check(
    path: pathlib.Path,
    content: Mapping[str, Any],
    job: Job,
    steps: int,
    who: Optional[Mapping[str, Any]],
    rooms: Optional[int],
) -> None:
    """Refuses a record that is not of this run.

    Args:
      path: of the record.
      content: of `read`.
      job: the run that its name means.
      steps: of that run.
      who: of `identity`; None for whatever bindings and teachers it has.
      rooms: how many rooms its portion measures on; None where not known yet.

    Raises:
      UserError: naming what differs.
    """
    wanted = {**job._asdict(), "method": job.method.name, "run": job.name}
    for name, value in {**wanted, "steps": steps}.items():
        if content[name] != value:
            _refuse(path, f"of {name} {short(content[name])}, not {short(value)}")
    if who is not None:
        others = []
        if content["bindings_sha256"] != who["bindings_sha256"]:
            others = differing(content["bindings"], who["bindings"])
        if others:
            _refuse(path, f"of other bindings ({'; '.join(others[:3])})")
        check_teachers(path, content, who["teachers"])
    if (content["errors"] is None) == (content["failed"] is None):
        _refuse(path, "damaged: a run has either errors or a reason why it has none")
    for sums in (content["errors"] or {}).values():
        if rooms is not None and {len(sums["units"]), len(sums["network"])} != {rooms}:
            _refuse(path, f"of other rooms: not {rooms} of them")


def check_teachers(
    path: pathlib.Path, content: Mapping[str, Any], teachers: Mapping[str, str]
) -> None:
    """Refuses what was measured with other teachers.

    Raises:
      UserError: naming them.
    """
    found = content["teachers"]
    names = [n for n in {**found, **teachers} if found.get(n) != teachers.get(n)]
    if names:
        _refuse(path, f"of other teachers ({', '.join(names)})")


def differing(stored: str, present: str) -> List[str]:
    """Bindings in which a record differs from the same run as it would be now.

    One that is new since, and is bound by gin/base.gin only, does not count: defaults
    are what was done before.
    """
    before = bindings_of(stored, "the record")
    now = bindings_of(present, "the present bindings")
    base = read_gin(["base.gin"])
    new = {n for n in set(now) - set(before) if repr(now[n]) == repr(base.get(n))}
    return differing_bindings(stored, present, free={*new, *_WITHOUT_EFFECT})


_REMEDY = (
    "Remove it to train that run anew, or give another --records_dir; records of two "
    "kinds are never mixed."
)


def _refuse(path: pathlib.Path, why: str) -> None:
    raise UserError(f"{path}: it is {why}. {_REMEDY}")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
