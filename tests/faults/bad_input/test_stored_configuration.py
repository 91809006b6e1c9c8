"""A run's stored configuration that is not whole: `evaluate` and `export` say so."""

import pytest

from tests.tools import run_command

LINES = {
    "run.tasks": "['normal']",
    "run.image_size": "16",
    "run.batch_size": "1",
    "run.max_steps": "1",
}


@pytest.mark.parametrize("missing", [*([name] for name in LINES), list(LINES)])
@pytest.mark.parametrize("command", ["evaluate", "export"])
def test_missing_binding_is_one_line_and_nothing_is_written(
    command, missing, tmp_path, fresh_gin, capsys, monkeypatch
):
    run, out = tmp_path / "run", tmp_path / "out"
    run.mkdir()
    stored = run / "operative_config.gin"
    stored.write_text(
        "\n".join(f"{k} = {v}" for k, v in LINES.items() if k not in missing)
    )
    flag = "--export_dir" if command == "export" else "--out_dir"
    flags = [f"--model_dir={run}", f"{flag}={out}"]
    done = run_command(command, *flags, capsys=capsys, monkeypatch=monkeypatch)
    assert done.code == 2
    (line,) = done.err.strip().splitlines()
    assert f"{stored} is not whole: it does not bind {', '.join(missing)}" in line
    assert not out.exists() and list(run.iterdir()) == [stored]
