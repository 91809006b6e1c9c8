"""The notebooks of examples/: they run, each in its kernel, and carry no outputs."""

import json
import re

import nbclient
import nbformat
import pytest

from tests.documented_commands import ROOT

FOLDER = ROOT / "examples" / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
# The others use what other tests of the default suite use, too.
_ALWAYS = ("method",)


@pytest.mark.parametrize("name", NAMES)
def test_notebook_is_without_outputs_and_paths_of_a_machine(name):
    notebook = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None
        assert not re.search(r"(?<![\w./}])/[a-z]+/", "".join(cell["source"]))
    named = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"({name}.ipynb)" in named


@pytest.mark.parametrize(
    "name",
    [n if n in _ALWAYS else pytest.param(n, marks=pytest.mark.slow) for n in NAMES],
)
def test_notebook_runs_at_its_tiny_size(name, tmp_path, monkeypatch):
    monkeypatch.setenv("SOKA_TF_NOTEBOOK_SIZE", "tiny")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    pictures = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) >= 3
