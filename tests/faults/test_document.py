"""docs/reliability.md names a test for each fault, and each test of faults."""

import ast
import re
import subprocess
import sys

from tests.tiny_runs import ROOT

TESTS = ROOT / "tests"
TEXT = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")


def names_in(path):
    """The names of a file's tests, and the file's own."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = (node.name for node in tree.body if isinstance(node, ast.FunctionDef))
    file = path.relative_to(TESTS).as_posix()
    return {file, *(f"{file}::{name}" for name in names if name.startswith("test_"))}


def test_every_row_names_tests_that_exist_and_no_test_of_faults_is_left_out():
    rows = re.findall(r"^\| (?!fault |---).*", TEXT, re.M)
    named = [re.findall(r"`([\w/]+\.py(?:::\w+)?)`", row) for row in rows]
    assert rows and all(named)
    there = set().union(*(names_in(path) for path in TESTS.rglob("test_*.py")))
    named = set().union(*named)
    assert named <= there
    own = {name for name in there if re.match("faults/.*::", name)}
    own -= names_in(TESTS / "faults" / "test_document.py")
    assert not {name for name in own if not named & {name, name.split("::")[0]}}


def test_cases_are_as_many_as_the_document_says():
    collected = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", ""),
            *("-p", "no:cacheprovider", "tests/faults"),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    cases = re.findall(
        r"^tests/faults/(bad_input/)?(?!test_document\.py)test_", collected, re.M
    )
    bad_input = len(list(filter(None, cases)))
    faults = len(cases) - bad_input
    assert faults >= 80 and bad_input >= 120
    assert (
        f"`tests/faults/` has {faults} cases of faults, "
        f"`tests/faults/bad_input/` {bad_input} of bad input;"
    ) in TEXT
