"""docs/metrics.md repeats the table of tasks for readers; it must not drift."""

import pathlib
from fractions import Fraction

import pytest

from soka_tf.tasks import TASKS

DOCUMENT = pathlib.Path(__file__).parents[2] / "docs" / "metrics.md"


def documented_rows():
    section = DOCUMENT.read_text().split("## Units, shifts, floors, masks")[1]
    lines = [line for line in section.split("- **Mask")[0].splitlines() if "|" in line]
    for line in lines[2:]:
        names, _, shift, floor, masked = (c.strip() for c in line.strip("|").split("|"))
        for name in names.split(", "):
            yield name, float(shift), float(Fraction(floor)), masked == "yes"


def test_document_states_the_shift_floor_and_mask_of_every_target():
    rows = {name: rest for name, *rest in documented_rows()}
    targets = {
        name: t for name, t in TASKS.items() if "rel" in t.metrics and t.encoding
    }
    assert set(rows) == set(targets)
    for name, (shift, floor, masked) in rows.items():
        task = targets[name]
        assert shift == task.ratio_shift, name
        assert floor == pytest.approx(task.ratio_floor), name
        assert masked == task.masked, name


def test_every_metric_of_the_table_is_defined():
    text = DOCUMENT.read_text()
    for task in TASKS.values():
        for metric in task.metrics:
            assert f"`{metric}`" in text, metric
