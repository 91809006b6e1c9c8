"""The tool that breaks runs: its cheapest faults, its table, its refusals."""

import pytest

from tests.tools import load_tool, run_tool

DOCUMENT = """before
<!-- begin: python tools/inject_faults.py --out=docs/reliability.md -->
old
<!-- end -->
after
"""


@pytest.mark.distributed
def test_kill_costs_nothing_and_its_table_is_put_into_the_document(
    tmp_path, monkeypatch
):
    """Real processes; the joint start only, which is the cheapest."""
    tool = load_tool("inject_faults")
    shorter = ("build_model.joint_steps = 100", "max_steps = 4")
    monkeypatch.setattr(tool, "BINDINGS", (*tool.BINDINGS, *shorter))
    document = tmp_path / "reliability.md"
    document.write_text(DOCUMENT)
    tool.FLAGS(["inject_faults", "--faults=kill_joint", f"--out={document}"])
    assert tool.main() == 0, document.read_text()
    text = document.read_text()
    assert text.startswith("before\n<!-- begin") and text.endswith(
        "<!-- end -->\nafter\n"
    )
    assert "old" not in text and "1 of 1 faults cost nothing." in text
    assert "| `kill_joint`: SIGKILL in" in text
    assert "| nothing; it began anew | OK |" in text


def test_table_says_which_fault_cost_something(tmp_path):
    tool = load_tool("inject_faults")
    outcome = tool.Outcome("kill", "", "weights differ by 1", False)
    table = tool.table_of({"kill_joint": outcome}, tmp_path)
    assert table.splitlines()[-1].endswith("| weights differ by 1 | FAILED |")


def test_difference_of_runs_names_the_variable_and_the_rows(tmp_path):
    import tensorflow as tf

    tool = load_tool("inject_faults")
    runs = []
    for name, weight, row in (("a", 1.0, "1"), ("b", 1.5, "1"), ("c", 1.0, "2")):
        run = tmp_path / name
        checkpoint = tf.train.Checkpoint(weight=tf.Variable(weight))
        tf.train.CheckpointManager(checkpoint, str(run / "checkpoints"), 1).save()
        (run / "metrics.csv").write_text(f"step,seconds\n{row},{weight}\n")
        runs.append(run)
    assert tool.difference_of(runs[0], runs[0]) == ""
    assert tool.difference_of(runs[0], runs[1]).startswith("weight/")
    assert "metrics.csv has 1 and 1 rows" in tool.difference_of(runs[0], runs[2])


def test_unknown_fault_names_those_there_are(capsys):
    result = run_tool("inject_faults", "--faults=earthquake", capsys=capsys)
    assert result.code == 2 and "earthquake is none of kill_joint" in result.err


def test_document_without_markers_is_refused(tmp_path):
    tool = load_tool("inject_faults")
    (tmp_path / "a.md").write_text("nothing")
    with pytest.raises(tool.UserError, match="it needs the lines"):
        tool.put_between_markers(tmp_path / "a.md", "table")
