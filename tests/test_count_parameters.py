"""The paper's counts, and docs/parameters.md against the command that makes it."""

import pathlib

import pytest

from tests.tools import load_tool

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def tool():
    return load_tool("count_parameters")


@pytest.fixture(scope="module")
def blocks(tool):
    return tool.report()


def cells(table):
    """First cell -> the other cells, of the body of a Markdown table."""
    rows = [line.strip("| ").split("|") for line in table.splitlines()[2:]]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


def test_networks_built_at_full_size_have_the_releases_scalars(blocks):
    assert cells(blocks[0]) == {
        "encoder-50": ["23,508,032", "23,561,152"],
        "encoder-26": ["13,109,056", "13,138,368"],
        "compress1": ["147,472", "147,488"],
        "decoder C=1": ["16,453,009", "16,459,921"],
        "decoder C=3": ["16,453,299", "16,460,211"],
        "discriminator C=1": ["3,137,601", "3,139,393"],
        "discriminator C=3": ["3,140,801", "3,142,593"],
    }


@pytest.mark.parametrize(
    "name, paper",
    [
        ("teachers of 2 tasks", "246.46"),
        ("the same with W and C (a reading)", "175.75"),
        ("MTL without discriminators' statistics", "175.73"),
        ("KD 2-to-2", "177.74"),
        ("teachers of 3 tasks", "360.27"),
        ("student of 3 tasks; KD", "221.96"),
        ("KD 3-to-3", "266.61"),
    ],
)
def test_count_equals_the_papers_to_the_second_decimal(blocks, name, paper):
    ours, printed, agrees, _ = cells(blocks[1])[name]
    assert f"{float(ours):.2f}" == paper
    assert (printed, agrees) == (paper, "yes")


@pytest.mark.parametrize(
    "name, ours",
    [("student of 2 tasks, no W and C", "175.735"), ("MTL of 2 tasks", "175.735")],
)
def test_count_that_misses_the_paper_says_so(blocks, name, ours):
    assert cells(blocks[1])[name][::2] == [ours, "no"]


def test_arithmetic_worked_out_gives_the_sum_beside_it(blocks):
    for line in blocks[2].splitlines():
        name, equation = line.split(": ", 1)
        words, total = equation.replace(",", "").split(" = ")
        for word in ("encoder", "decoder", "moving statistics", "compress1"):
            words = words.replace(word, "")
        for word in ("discriminator", "W and C"):
            words = words.replace(word, "")
        assert eval(words.replace("x", "*")) == int(total), name
        assert f"{int(total) / 1e6:.3f}" == cells(blocks[1])[name[2:]][0]


def test_inference_counts_every_scalar_of_the_networks_once(tool, blocks):
    table = cells(blocks[1])
    encoder, decoder, of_normals = 23_561_152 + 147_488, 16_459_921, 16_460_211
    for name, scalars in {
        "teachers of 2 tasks": 2 * (encoder + decoder),
        "student of 2 tasks, no W and C": encoder + 2 * decoder,
        "student of 3 tasks; KD": encoder + 2 * decoder + of_normals,
    }.items():
        assert table[name][3] == f"{scalars / 1e6:.3f}"


def test_training_only_counts_are_those_of_the_matrices(tool):
    block3, shared = 1024, 8
    squares = block3**2 + shared**2
    assert tool.training_only_counts() == {
        "build_amalgamation.variant = 'reconstruction'": 6 * squares + block3 + shared,
        "build_amalgamation.variant = 'literal'": 3 * squares + block3 + shared,
        "build_amalgamation.variant = 'hints'": 3 * squares,
        "transfer.adapter = True": squares + block3 + shared,
    }


def test_document_holds_what_the_command_prints(blocks):
    document = (ROOT / "docs" / "parameters.md").read_text(encoding="utf-8")
    for block in blocks:
        assert block in document
