"""What tests/recorded_runs.py says of two recordings."""

import numpy as np
import pytest

from tests import recorded_runs

VALUE = np.float32(0.1)
NEXT = np.nextafter(VALUE, np.float32(1))


@pytest.mark.parametrize(
    "other, said",
    [
        ({"w": VALUE, "b": VALUE}, "cycle: the same bits in 2 arrays\n"),
        ({"w": NEXT, "b": VALUE}, "cycle: differs in w\n"),
        ({"w": VALUE}, "cycle: differs in b\n"),
        ({"w": np.float64(VALUE), "b": VALUE}, "cycle: differs in w\n"),
        (None, "cycle: not recorded in "),
    ],
)
def test_recordings_are_compared_to_the_last_bit(tmp_path, capsys, other, said):
    folders = tmp_path / "before", tmp_path / "after"
    for folder, arrays in zip(folders, ({"w": VALUE, "b": VALUE}, other)):
        folder.mkdir()
        if arrays is not None:
            np.savez(folder / "cycle.npz", **arrays)
    status = recorded_runs.main("compare", *map(str, folders))
    assert capsys.readouterr().out.startswith(said)
    assert status == (0 if "same bits" in said else 1)


def test_folder_without_recordings_is_no_agreement(tmp_path, capsys):
    assert recorded_runs.main("compare", str(tmp_path), str(tmp_path)) == 1
    assert "nothing is recorded" in capsys.readouterr().out
