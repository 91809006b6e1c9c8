"""docs/reliability.md names a test for each fault, and each test of faults."""

import ast
import re

from tests.tiny_runs import ROOT

TESTS = ROOT / "tests"


def names_in(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = (node.name for node in tree.body if isinstance(node, ast.FunctionDef))
    return {
        f"{path.relative_to(TESTS).as_posix()}::{name}"
        for name in names
        if name.startswith("test_")
    }


def test_every_row_names_tests_that_exist_and_no_test_of_faults_is_left_out():
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (?!fault |---).*", text, re.M)
    named = [re.findall(r"`([\w/]+\.py::\w+)`", row) for row in rows]
    assert rows and all(named)
    there = set().union(*(names_in(path) for path in TESTS.rglob("test_*.py")))
    assert set().union(*named) <= there
    own = set().union(*(names_in(p) for p in TESTS.glob("faults/test_*.py")))
    own -= names_in(TESTS / "faults" / "test_document.py")
    assert own <= set().union(*named)
