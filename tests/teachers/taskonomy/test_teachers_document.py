"""The table of docs/teachers.md against the table of tasks."""

import pathlib

from soka_tf.tasks import TASKS
from soka_tf.teachers.taskonomy.visual_prior import parse_name, published_files_of

DOCUMENT = pathlib.Path(__file__).resolve().parents[3] / "docs" / "teachers.md"


def test_document_lists_every_task_as_the_table_of_tasks_has_it():
    text = DOCUMENT.read_text(encoding="utf-8")
    body = text.split("## The tasks")[1].split("## Safety")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in body.splitlines()
        if line.startswith("| ")
    ]
    assert rows[0] == "task taskbank visual-prior channels role shown".split()
    assert rows[1:] == [
        [
            task.name,
            (*task.aliases, task.name)[0],
            " and ".join(parse_name(f).part for f in published_files_of(task.name)),
            str(task.channels) if task.channels else "-",
            task.role,
            task.released_input,
        ]
        for task in TASKS.values()
    ]
