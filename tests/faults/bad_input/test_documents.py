"""JSON and CSV: of the right shape, or one line of error; never anything else."""

import json
import math
import os
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from soka_tf.data import documents
from soka_tf.data.documents import ANY, Number
from soka_tf.errors import UserError
from tests.tiny_runs import ROOT

SHAPE = {
    "format": int,
    "size?": (Number(int, 1, 4096), None),
    "tasks": {str: {"shape": [ANY], "weight": float}},
    "name": (str, None),
}
GOOD = {
    **{"format": 1, "size": 64, "name": None},
    "tasks": {"depth": {"shape": [None, 64, 64, 1], "weight": 1, "more": True}},
}
quick = settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=12,
)


def fits(value):
    """What the shape says, written out."""
    size = value.get("size")
    assert type(value["format"]) is int
    assert size is None or (type(size) is int and 1 <= size <= 4096)
    assert value["name"] is None or type(value["name"]) is str
    for task in value["tasks"].values():
        assert type(task["shape"]) is list
        assert type(task["weight"]) in (int, float) and math.isfinite(task["weight"])


def read(path, content):
    """The value, or None where the file was refused in one short line."""
    path.write_bytes(content)
    try:
        return documents.read_json(path, SHAPE, "Do this.")
    except UserError as error:
        message = str(error)
        assert message.startswith(f"{path}: cannot be read (")
        assert message.endswith("). Do this.")
        assert "\n" not in message and len(message) < len(str(path)) + 400
        return None


@quick
@given(content=st.binary(max_size=64))
def test_random_bytes_are_refused_in_one_line(tmp_path, content):
    assert read(tmp_path / "a.json", content) is None


@quick
@given(value=VALUES)
def test_random_json_fits_or_is_refused_in_one_line(tmp_path, value):
    found = read(tmp_path / "a.json", json.dumps(value).encode())
    assert found is None or fits(found) is None


@quick
@given(
    name=st.sampled_from(["format", "size", "name", "tasks", "weight"]), value=VALUES
)
def test_mutated_file_fits_or_is_refused_in_one_line(tmp_path, name, value):
    content = json.loads(json.dumps(GOOD))
    holder = content["tasks"]["depth"] if name == "weight" else content
    holder[name] = value
    found = read(tmp_path / "a.json", json.dumps(content).encode())
    assert found is None or fits(found) is None


@quick
@given(place=st.integers(0, 200), byte=st.integers(0, 255))
def test_file_with_another_byte_fits_or_is_refused_in_one_line(tmp_path, place, byte):
    content = bytearray(json.dumps(GOOD).encode())
    content[place % len(content)] = byte
    found = read(tmp_path / "a.json", bytes(content))
    assert found is None or fits(found) is None


@pytest.mark.parametrize(
    "content, why",
    [
        (b"[" * 10**6, "nested too deeply"),
        (b"[" * 60 + b"]" * 60, "nested too deeply"),
        (b'{"a":' * 10**5, "nested too deeply"),
        (b'{"format": Infinity}', "a number is Infinity, which is not finite"),
        (b'{"format": NaN}', "a number is NaN, which is not finite"),
        (b'{"format": 1e999}', "a number is 1e999, which is not finite"),
        (b'{"format": 4611686018427387904}', "a number is 4611686018427387904"),
        (b'{"format": ' + b"9" * 5000 + b"}", "beyond 18 digits"),
        (b'{"format": true, "tasks": {}, "name": ""}', "format must be a whole number"),
        (b'{"format": 1, "tasks": {}}', "it has no name"),
        (b'{"format": 1, "tasks": [], "name": ""}', "tasks has no names"),
        (b'{"tasks": {"x": {"weight": 1}}, "format": 1, "name": ""}', "x has no shape"),
        (b'{"size": 0, "format": 1, "tasks": {}, "name": ""}', "from 1 to 4096"),
        (b"\xff\xfe{}", "not text in UTF-8"),
        (b"\x89PNG\r\n\x1a\n", "not text in UTF-8"),
        (b"", "Expecting value"),
        (b"[1]", "it has no format, tasks, name"),
    ],
)
def test_hostile_json_is_refused_with_the_reason(tmp_path, content, why):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.json: cannot be read \(.*{why}.*Do th"):
        documents.read_json(path, SHAPE, "Do this.")


def test_file_too_large_missing_or_no_file_is_not_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"{}")
    os.truncate(path, 1 << 40)  # of no byte on the disk
    os.mkfifo(tmp_path / "pipe")
    for name, why in (
        ("a.json", "1099511627776 bytes, more than the 67108864"),
        ("none", "No such file"),
        ("pipe", "it is a named pipe"),
        ("", "it is a folder"),
    ):
        with pytest.raises(UserError, match=rf"\({why}.*\)\. Do this\.$"):
            documents.read_json(tmp_path / name, {}, "Do this.")


def test_good_files_are_read_as_they_are(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(GOOD))
    assert documents.read_json(path, SHAPE, "") == GOOD
    path.write_text(json.dumps([-(10**18) + 1, 0.1, "\udce9"]))
    assert documents.read_json(path, [ANY], "") == [-(10**18) + 1, 0.1, "\udce9"]


# CSV


def table(path, content):
    path.write_bytes(content)
    try:
        rows = documents.read_csv(path, ["step", "seconds"], "Do this.")
    except UserError as error:
        assert str(error).startswith(f"{path}: cannot be read (")
        assert "\n" not in str(error)
        return None
    for row in rows:
        assert {"step", "seconds"} <= row.keys()
        assert all(type(cell) is str for pair in row.items() for cell in pair)
    return rows


@quick
@given(content=st.binary(max_size=64) | st.text(max_size=64).map(str.encode))
def test_random_table_is_read_or_refused_in_one_line(tmp_path, content):
    table(tmp_path / "a.csv", content)
    table(tmp_path / "a.csv", b"step,seconds,loss\n1,2.0,3\n" + content)


def test_table_without_its_columns_or_of_other_bytes_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    for content, why in (
        (b"1,2,3\n", "its first row has no column step, seconds"),
        (b"step\n1\n", "has no column seconds"),
        (b"\x89PNG\r\n\x1a\n\0", "not text in UTF-8"),
        (b"step,seconds\n" + b"9" * (1 << 18), "field larger"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"a\.csv: cannot be read \(.*{why}"):
            documents.read_csv(path, ["step", "seconds"], "Do this.")


def test_rows_of_a_table_that_are_cut_off_are_left_out(tmp_path):
    content = b"\xef\xbb\xbfstep,seconds\r\n1,2.5\r\n\r\n3\r\n4,5,6\r\n7,"
    assert table(tmp_path / "a.csv", content) == [
        {"step": "1", "seconds": "2.5"},
        {"step": "7", "seconds": ""},
    ]
    assert table(tmp_path / "a.csv", b"") == []


def test_cells_are_finite_numbers_or_none():
    numbers = [documents.finite(text) for text in ("1e3", " 2", "-0.5")]
    assert numbers == [1000.0, 2.0, -0.5]
    for text in ("", "nan", "inf", "1e999", "x", None, "9" * 5000, "\u00b2"):
        assert documents.finite(text) is None


# The one place

# What is written; what is dumped is loaded again.
_WRITES = re.compile(r"json\.dumps|json\.loads\(json\.dumps|csv\.DictWriter")


@pytest.mark.parametrize("folder", ["soka_tf", "tools"])
def test_no_other_module_parses_json_or_csv(folder):
    for path in (ROOT / folder).rglob("*.py"):
        text = _WRITES.sub("", path.read_text(encoding="utf-8"))
        if path.name != "documents.py":
            assert not re.search(r"\bjson\.loads?\b|\bcsv\.\w*[rR]eader\b", text), path
