"""docs/scaling.md against the command that makes its tables, and its arithmetic."""

import pathlib

import pytest

from tests.tools import load_tool, run_tool

DOCUMENT = pathlib.Path(__file__).resolve().parents[1] / "docs" / "scaling.md"


@pytest.fixture(scope="module")
def tool():
    return load_tool("scaling")


@pytest.fixture(scope="module")
def costs(tool):
    return tool.count(["depth_zbuffer", "edge_texture"], 1, cgan=False)


def test_scaling_document_holds_the_tables_of_its_command(capsys):
    flags = "--gpu_tflops=40 --interconnect_gbs=10 --images=16 --image_kb=414"
    result = run_tool("scaling", *flags.split(), "--read_ms=13.4", capsys=capsys)
    tables = result.out.strip().split("\n\n")
    assert len(tables) == 3
    document = DOCUMENT.read_text(encoding="utf-8")
    for table in tables:
        assert table in document


def test_scaling_cycle_is_teachers_encoder_and_decoders_twice(costs):
    encoder, decoder = 7.616e9, 4.464e9  # docs/performance.md
    assert costs.teachers == pytest.approx(3 * encoder + 2 * decoder, rel=1e-3)
    assert costs.student == pytest.approx(3 * encoder + 10 * decoder, rel=1e-3)


def test_scaling_step_by_hand(tool, costs):
    compute, reduce = tool.step_seconds(costs, 40.0, 10.0, 16, 8)
    operations = 2 * (costs.teachers + costs.student)
    assert compute == pytest.approx(16 * operations / 40e12)
    assert reduce == pytest.approx(2 * 7 / 8 * tool.reduced_bytes(costs) / 1e10)
    assert tool.step_seconds(costs, 40.0, 10.0, 16, 1)[1] == 0


def test_scaling_discriminators_are_counted_on_demand(tool, costs):
    more = tool.count(["depth_zbuffer", "edge_texture"], 1, cgan=True)
    assert more.student > costs.student and more.parameters > costs.parameters
    assert more.teachers == costs.teachers
