"""The tool that packs a data set, as users run it."""

import pytest

from soka_tf.data.sources import records
from tests import tiny_runs
from tests.tools import run_tool


@pytest.fixture
def run(capsys):
    return lambda *arguments: run_tool("prepare_records", *arguments, capsys=capsys)


def test_prepare_records_packs_and_says_how_to_train(run, tmp_path):
    tiny_runs.write_images(tmp_path / "images", 5)
    out = tmp_path / "out"
    result = run(f"--images_dir={tmp_path / 'images'}", f"--out_dir={out}")
    assert result.code == 0
    assert f"records_dir = '{out}'" in result.out
    assert len(records.find(str(out), [])) == 5


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "Give --taskonomy_dir or --images_dir"),
        (["--images_dir=a", "--taskonomy_dir=b"], "one of both"),
        (["--images_dir=a", "--domains=rgb,normal"], "neither labels nor buildings"),
        (["--images_dir=a", "--antialias"], "--antialias needs --image_size"),
        (["--taskonomy_dir=a", "--domains=norml"], "normal"),
        (
            ["--taskonomy_dir=a", "--domains=my_edges"],
            "no task named 'my_edges'. Tasks: ",
        ),
        (
            ["--taskonomy_dir=a", "--domains=my_edges"],
            "your own are not packed",
        ),
    ],
)
def test_prepare_records_flags_that_do_not_fit_are_refused(
    run, tmp_path, arguments, message
):
    result = run(*arguments, f"--out_dir={tmp_path / 'out'}")
    assert result.code == 2
    assert message in result.err
    assert not (tmp_path / "out").exists()
