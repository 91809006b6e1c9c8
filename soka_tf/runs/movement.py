"""movement.json: who moved in which phase, as last measured in every stage."""

import math
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from absl import logging

from soka_tf.atomic import PathLike, write_json
from soka_tf.data.documents import Number, read_json
from soka_tf.errors import UserError, reason
from soka_tf.soka.ledger import PHASE_OF_PLAYER, PHASES

MOVEMENT_FILE = "movement.json"
# Log names begin with one of these; "<kind>/<phase>/<player>".
_KINDS = {"movement": "weights", "movement_statistics": "statistics"}
_OF_STAGE = {
    "step": Number(int, 0),
    "weights": {str: {str: (float, None)}},
    "statistics": {str: {str: (float, None)}},
}
# Keras hands logs on in the order of the alphabet.
_PHASES = list(dict.fromkeys(["joint", *PHASES.values()]))
_PLAYERS = list(PHASE_OF_PLAYER)
_REMEDY = "Remove it: it is written anew while a run trains."


class StageMovement(NamedTuple):
    """Who moved in the phases of a stage's step.

    Attributes:
      stage: "joint", "cycle" or "cycle_gan".
      step: at which it was measured, steps done.
      phases: the names of the columns.
      rows: player, with "(statistics)" for BatchNorm's moving ones -> the relative
        change in each phase: |change| / |before|; 0 is no movement at all, None what
        is not finite or was not measured.
    """

    stage: str
    step: int
    phases: Tuple[str, ...]
    rows: Mapping[str, Tuple[Optional[float], ...]]


def record_movement(
    path: PathLike, stage: str, step: int, logs: Mapping[str, Any]
) -> Optional[StageMovement]:
    """Keeps what a step's logs say of movement; a failure is a warning.

    Args:
      path: of movement.json; other stages in it are kept.
      stage: of the step.
      step: steps done.
      logs: with names "movement/<phase>/<player>" and "movement_statistics/...".

    Returns:
      The same; None if the logs have no movement.
    """
    found: Dict[str, Dict[str, Dict[str, Optional[float]]]] = {}
    for name, value in logs.items():
        kind, _, rest = name.partition("/")
        if kind in _KINDS:
            phase, _, player = rest.partition("/")
            number = float(value)
            of_phase = found.setdefault(_KINDS[kind], {}).setdefault(phase, {})
            of_phase[player] = number if math.isfinite(number) else None
    if not found:
        return None
    new = {"step": step, **dict.fromkeys(_KINDS.values(), {}), **found}
    try:
        before = _read(path)
    except UserError:  # none yet, or damaged
        before = {}
    try:
        write_json(path, {**before, stage: new})
    except OSError as error:
        logging.warning(
            "%s: the movement of step %d was not written (%s). Training goes on.",
            path,
            step,
            reason(error),
        )
    return _of_stage(stage, new)


def read_movement(path: PathLike) -> List[StageMovement]:
    """Reads movement.json, a table a stage.

    Raises:
      UserError: if it cannot be read.
    """
    return [_of_stage(stage, content) for stage, content in _read(path).items()]


def as_markdown(moved: StageMovement) -> str:
    """The table in Markdown."""
    lines = [
        f"step {moved.step:,}, {moved.stage}: relative change of each player a phase",
        "",
        " | ".join(["player", *moved.phases]),
        " | ".join(["---"] * (1 + len(moved.phases))),
    ]
    for player, changes in moved.rows.items():
        lines.append(" | ".join([player, *map(in_words, changes)]))
    return "\n".join(lines)


def in_words(change: Optional[float]) -> str:
    """A relative change: "rests" where there is none at all, "-" if unknown."""
    if change is None:
        return "-"
    return f"{change:.1e}" if change else "rests"


def _read(path: PathLike) -> Dict[str, Any]:
    return read_json(path, {str: _OF_STAGE}, _REMEDY, "no movement of a run's players")


def _of_stage(stage: str, content: Mapping[str, Any]) -> StageMovement:
    phases = sorted(content["weights"], key=lambda phase: _place(phase, _PHASES))
    rows = {}
    for kind, ending in (("weights", ""), ("statistics", " (statistics)")):
        of_phases = content[kind]
        players = dict.fromkeys(p for of in of_phases.values() for p in of)
        for player in sorted(players, key=lambda p: _place(p.split("/")[0], _PLAYERS)):
            changes = [of_phases.get(phase, {}).get(player) for phase in phases]
            rows[player + ending] = tuple(changes)
    return StageMovement(stage, content["step"], tuple(phases), rows)


def _place(name: str, order: Sequence[str]) -> int:
    return order.index(name) if name in order else len(order)
