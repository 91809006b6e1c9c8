"""The notebooks of examples/: they run, each in its kernel, and carry no outputs."""

import json
import re
import tempfile

import nbclient
import nbformat
import pytest
from PIL import Image

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


def test_notebook_of_your_images_only_reads_a_folder_that_is_named(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("SOKA_TF_NOTEBOOK_SIZE", "tiny")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    photos = tmp_path / "photos" / "of_2026"
    photos.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(photos / "mine.png")
    notebook = nbformat.read(FOLDER / "your_images.ipynb", as_version=4)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"][:2]
    for named, drawn in ((str(tmp_path / "photos"), 0), (None, 6)):
        first = code[0].replace("PHOTOS = None", f"PHOTOS = {named!r}")
        assert named is None or first != code[0]
        names = {}
        exec(f"{first}\n{code[1]}", names)
        assert [path.name for path in photos.parent.rglob("*.*")] == ["mine.png"]
        assert len(list((tmp_path / "temporary").rglob("*.png"))) == drawn
        assert names["images_dir"].is_dir()
