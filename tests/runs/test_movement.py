"""What movement.json keeps, and what becomes of a damaged one."""

import pytest

from soka_tf.errors import UserError
from soka_tf.runs.movement import (
    StageMovement,
    as_markdown,
    read_movement,
    record_movement,
)

CYCLE = {
    # In the order of the alphabet, as Keras has it.
    "movement/collaboration/decoder/normal": 0.0,
    "movement/collaboration/encoder": 0.012,
    "movement/competition/decoder/normal": float("nan"),
    "movement/competition/encoder": 0.0,
    "movement_statistics/collaboration/encoder": 0.5,
    "loss/soft/normal": 3.0,
}


def test_movement_of_every_stage_is_kept_the_last_measured(tmp_path):
    path = tmp_path / "movement.json"
    assert record_movement(path, "joint", 1, {"loss/soft/normal": 1.0}) is None
    assert not path.exists()
    record_movement(path, "joint", 1, {"movement/joint/encoder": 0.5})
    record_movement(path, "joint", 2, {"movement/joint/encoder": 0.25})
    cycle = record_movement(path, "cycle", 9, CYCLE)
    assert cycle == StageMovement(
        "cycle",
        9,
        ("competition", "collaboration"),
        {
            "encoder": (0.0, 0.012),
            "decoder/normal": (None, 0.0),
            "encoder (statistics)": (None, 0.5),
        },
    )
    joint = StageMovement("joint", 2, ("joint",), {"encoder": (0.25,)})
    assert read_movement(path) == [joint, cycle]
    assert as_markdown(cycle).splitlines()[2:] == [
        "player | competition | collaboration",
        "--- | --- | ---",
        "encoder | rests | 1.2e-02",
        "decoder/normal | - | rests",
        "encoder (statistics) | - | 5.0e-01",
    ]


def test_movement_damaged_is_refused_by_name_and_written_anew(tmp_path):
    path = tmp_path / "movement.json"
    for content in ('{"joint": {"step": -1}}', "[", '{"joint": 3}'):
        path.write_text(content)
        with pytest.raises(UserError, match="movement.json: no movement of a run"):
            read_movement(path)
    record_movement(path, "joint", 1, {"movement/joint/encoder": 0.5})
    assert [moved.stage for moved in read_movement(path)] == ["joint"]


def test_movement_that_cannot_be_written_is_one_warning(tmp_path, caplog):
    (tmp_path / "movement.json").mkdir()
    logs = {"movement/joint/encoder": 0.5}
    path = tmp_path / "movement.json"
    assert record_movement(path, "joint", 4, logs).rows == {"encoder": (0.5,)}
    assert "the movement of step 4 was not written" in caplog.text
    assert "Training goes on" in caplog.text
