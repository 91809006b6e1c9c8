"""The best student outlives restarts (`assert_same_run`) and is taken on demand."""

import pytest

from soka_tf import evaluate, export


@pytest.mark.parametrize(
    "command, out",
    [
        pytest.param(evaluate, "--out_dir", marks=pytest.mark.slow),
        pytest.param(export, "--export_dir", marks=pytest.mark.slow),
    ],
)
def test_command_takes_the_best_student_where_told(
    command, out, whole, tmp_path, capsys
):
    """That of step 2, by the rows of the undisturbed run; the last is that of 6."""
    arguments = [f"--model_dir={whole}", "--checkpoint=best", f"{out}={tmp_path}/out"]
    command.FLAGS(["command", *arguments])
    try:
        command.main()
    finally:
        for name in command.FLAGS:
            command.FLAGS[name].unparse()
    assert "step 2" in capsys.readouterr().out
