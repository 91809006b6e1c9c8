"""tools/benchmark.py: its words, its refusals, and every benchmark at a tiny size."""

import json

import pytest
import tensorflow as tf
from tabulate import tabulate

from tests.soka import small
from tests.tools import load_tool, run_tool
from tools.benchmarks import cycle, input, measure, methods, roofline

# What `untraced` cannot reach: reading images stays traced.
pytestmark = pytest.mark.filterwarnings("ignore:Even though the .tf.config")

MEASURED = measure.Measurement(
    {"ours": 0.1, "plain": 0.2},
    {"ours_over_plain": 0.5},
    {"scale": "small"},
    notes=("A note.",),
    peak_gib={"ours": 1.5},
    tables={"A table": [{"layer": "conv1", "ms": 1.25}]},
)


@pytest.mark.parametrize("arguments", [[], ["cycel"], ["--scale=full"]])
def test_benchmark_without_a_known_word_names_them_in_one_line(arguments, capsys):
    done = run_tool("benchmark", *arguments, capsys=capsys)
    assert done.code == 2 and done.out == ""
    assert done.err.count("\n") == 1
    assert "must be one of cycle, " in done.err
    assert f"Received: {arguments[0] if arguments else 'nothing'}" in done.err


def test_benchmark_help_explains_every_word(capsys):
    done = run_tool("benchmark", "--help", capsys=capsys)
    assert done.code == 0
    for word in load_tool("benchmark").BENCHMARKS:
        assert f"\n    {word} " in done.out


@pytest.mark.parametrize("path", ["", "missing/numbers.json"])
def test_benchmark_json_that_cannot_be_written_is_refused_first(path, tmp_path, capsys):
    given = f"--json={tmp_path / path}"
    done = run_tool("benchmark", "cycle", given, capsys=capsys)
    assert done.code == 2 and done.err.count("\n") == 1
    assert f"{given}: must be a file in a folder that exists" in done.err


def test_benchmark_runs_the_named_one_and_reports_it(tmp_path, capsys, monkeypatch):
    asked = []

    def run(*arguments):
        asked.append(arguments)
        return MEASURED

    monkeypatch.setattr(roofline, "run", run)
    path = tmp_path / "numbers.json"
    options = ("--scale=full", "--repeats=2", f"--json={path}")
    done = run_tool("benchmark", "roofline", *options, capsys=capsys)
    assert done.code == 0 and asked == [("full", 2, "float32")]
    assert json.loads(path.read_text())["benchmark"] == "roofline"


def test_report_prints_and_writes_everything(tmp_path, capsys):
    path = tmp_path / "numbers.json"
    measure.report("cycle", MEASURED, str(path))
    printed = capsys.readouterr().out
    for part in ("100.0", "1.50", "0.500", "A note.", "A table", "conv1", "tensorflow"):
        assert part in printed
    content = json.loads(path.read_text())
    assert content["seconds"] == {"ours": 0.1, "plain": 0.2}
    assert content["ratio"] == {"ours_over_plain": 0.5}
    assert content["settings"] == {"scale": "small"}
    assert content["peak_gib"] == {"ours": 1.5}
    assert content["tables"] == {"A table": [{"layer": "conv1", "ms": 1.25}]}
    assert content["machine"]["cores"] >= 1
    assert [file.name for file in tmp_path.iterdir()] == ["numbers.json"]


def test_time_cases_take_turns_after_their_warm_up():
    called = []
    times = measure.time_cases(
        {name: lambda name=name: called.append(name) for name in "ab"}, repeats=3
    )
    assert called == ["a", "b"] + 3 * ["a", "b"]
    assert len(times.all_seconds["a"]) == 3
    fixed = measure.Times({"a": [5.0, 1.0, 2.0], "b": [4.0, 4.0, 1.0]}, {})
    assert fixed.over("a", "b") == 1.25  # the middle of 1.25, 0.25 and 2


def test_time_cases_show_no_progress_where_nobody_looks(capfd):
    measure.time_cases({"a": lambda: None}, repeats=1)
    assert capfd.readouterr().err == ""


# Every benchmark, as small as it goes


def _check(measured, cases, ratios):
    assert set(measured.seconds) == cases
    assert all(seconds > 0 for seconds in measured.seconds.values())
    assert set(measured.ratio) == ratios
    assert all(ratio > 0 for ratio in measured.ratio.values())
    json.dumps([measured.settings, measured.tables])
    for rows in measured.tables.values():
        assert tabulate(rows, headers="keys")


@pytest.fixture
def untraced():
    """Runs graphs operation by operation: for one call, to trace them takes longer."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.slow
def test_methods_of_a_tiny_study_measure_every_case(tiny, fresh_gin, untraced):
    measured = methods.measure_methods(["gin/rooms/study.gin"], tiny.params(), 1)
    cases = {"kd", "kd_mia", "soka"}
    pairs = {"kd_mia_over_kd", "soka_over_kd", "soka_over_kd_mia"}
    given = ", with teachers"
    _check(
        measured,
        cases | {case + given for case in cases},
        pairs | {pair + given for pair in pairs},
    )


def test_methods_of_full_size_name_the_benchmark_that_has_them(capsys):
    done = run_tool("benchmark", "methods", "--scale=full", capsys=capsys)
    assert done.code == 2 and "benchmark 'cycle'" in done.err


@pytest.mark.slow
def test_input_of_a_tiny_model_measures_every_case(untraced):
    model = small.build(run_eagerly=False)
    sizes = input.Scale(
        cycle.Scale(1.0, small.SIZE, 2, 1), 32, 2, 2, (16,), 2, small.SIZE
    )
    measured = input.measure_input(model, sizes)
    _check(
        measured,
        {
            "cycle, held batch",
            "cycle, fed from files",
            "reading images",
        },
        {"fed_over_held", "reading_over_cycle"},
    )
    speeds, files = measured.tables.values()
    for row in speeds:
        assert row["images/s"] == pytest.approx(2 / measured.seconds[row["case"]])
    assert [row["file"] for row in files] == ["PNG 16", "JPEG 16"]
    assert all(value > 0 for row in files for value in list(row.values())[1:])


def test_roofline_of_tiny_networks_measures_every_case(untraced):
    sizes = roofline.Scale(
        *((1, 1, 1, 1), 1 / 32, 32, 1, 8, 1), (1, 2), (32,), (1 / 32,)
    )
    measured = roofline.measure_roofline(sizes)
    parts = ("matrices", "convolution", "encoder", "decoder")
    kinds = ("float32", "bfloat16")
    _check(
        measured,
        {f"{part}, {kind}" for part in parts for kind in kinds},
        {f"{part}_{kind}_share_of_peak" for part in parts[2:] for kind in kinds},
    )
    arithmetic, costs = measured.tables.values()
    assert len(arithmetic) == 8
    for row in arithmetic:
        rate = row["G multiply-adds"] / row["ms"] * 1e3
        assert row["G multiply-adds/s"] == pytest.approx(rate)
        assert 0 < row["of the peak"]
    assert [row["tasks"] for row in costs] == [1, 2]


def test_roofline_cost_counts_the_passes_of_a_cycle():
    # 2 tasks: encoders of 2 teachers, an auxiliary and the student; decoders of 2
    # teachers and, twice, of the student.
    assert roofline.Cost(2, 256, 1.0).total(7.616, 4.464) == pytest.approx(
        4 * 7.616 + 6 * 4.464
    )
