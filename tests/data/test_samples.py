"""Samples of any source: damage, splits."""

import dataclasses
import json
import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from soka_tf.data.samples import (
    Sample,
    describe_samples,
    drop_damaged,
    split_samples,
)
from soka_tf.errors import UserError


def _samples(points=20, views=3):
    return [
        Sample(f"ada/point_{p}_view_{v}", f"ada/point_{p}", {"rgb": "x"})
        for p in range(points)
        for v in range(views)
    ]


def test_samples_are_described_by_names_that_are_no_utf8_too():
    odd = Sample("caf\udce9", "caf\udce9", {"rgb": "x"})
    told = [describe_samples([*_samples(1), *rest]) for rest in ([], [odd])]
    assert told[0].startswith(
        "3: 'ada/point_0_view_0' to 'ada/point_0_view_2' (sha256 "
    )
    assert told[1].startswith("4: ") and told[0][-17:] != told[1][-17:]
    told[1].encode()  # for other workers


# Leaving out what is damaged


def test_drop_damaged_leaves_out_images_and_labels_and_says_so(tmp_path, caplog):
    samples = []
    for point in (0, 1):
        for view in (0, 2):
            sample = Sample(f"ada/point_{point}_view_{view}", f"ada/point_{point}", {})
            samples.append(sample)
            for domain in ("rgb", "normal", "edge_texture", "depth_zbuffer"):
                path = tmp_path / f"{point}_{view}_{domain}.png"
                sample.files[domain] = str(path)
                depth = Image.fromarray(np.full((4, 4), 1000, np.uint16))
                image = Image.new("RGB", (4, 4), (10, 20, 30))
                (depth if domain == "depth_zbuffer" else image).save(path)
    image = tmp_path / "0_0_rgb.png"
    label = tmp_path / "0_2_edge_texture.png"
    mask = tmp_path / "1_0_depth_zbuffer.png"
    for path in (image, label, mask):
        path.write_bytes(b"")
    good, damaged = drop_damaged(samples, ["normal", "edge_texture"])
    assert {s.key: set(s.files) for s in good} == {
        "ada/point_0_view_2": {"rgb", "normal", "depth_zbuffer"},
        "ada/point_1_view_0": {"rgb", "edge_texture"},
        "ada/point_1_view_2": {"rgb", "normal", "edge_texture", "depth_zbuffer"},
    }
    assert set(damaged) == {str(image), str(label), str(mask)}
    assert set(damaged.values()) == {"the file is empty"}
    (record,) = caplog.records
    assert "Left out 3 damaged files of 4 samples" in record.getMessage()
    assert str(image) in record.getMessage()


def test_drop_damaged_label_that_a_reader_of_its_own_cannot_read_is_left_out(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    paths = {"rgb": str(tmp_path / "a.png"), "normal": str(tmp_path / "a.npy")}
    sample = Sample("a", "a", paths, lambda path, domain: np.load(path))
    (good,), damaged = drop_damaged([sample], ["normal"])
    assert set(good.files) == {"rgb"} and list(damaged) == [paths["normal"]]
    assert "No such file" in damaged[paths["normal"]]


def test_drop_damaged_nothing_left_is_an_error(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    samples = [Sample("a", "a", {"rgb": str(tmp_path / "a.png")})]
    with pytest.raises(UserError, match="No rgb file of 1 sample can"):
        drop_damaged(samples, [])


# Splitting


def test_split_samples_by_point_keeps_views_together():
    samples = _samples()
    train, validation = split_samples(samples, 0.25)
    assert {s.point for s in train}.isdisjoint(s.point for s in validation)
    assert len(validation) == 15
    assert sorted(train + validation, key=samples.index) == samples


def test_split_samples_random_splits_points():
    train, validation = split_samples(_samples(), 0.25, by="random")
    assert {s.point for s in train} & {s.point for s in validation}
    assert len(validation) == 15


def test_split_samples_depends_on_the_seed_alone():
    samples = _samples()
    first = split_samples(samples, 0.25, seed=1)
    assert first == split_samples(samples, 0.25, seed=1)
    assert first != split_samples(samples, 0.25, seed=2)
    shuffled = split_samples(samples[::-1], 0.25, seed=1)
    assert {s.key for s in shuffled[1]} == {s.key for s in first[1]}


def test_split_samples_written_file_is_obeyed_afterwards(tmp_path):
    path = tmp_path / "new" / "split.json"
    samples = _samples()
    train, validation = split_samples(samples, 0.25, path=str(path))
    assert os.listdir(path.parent) == ["split.json"]
    content = json.loads(path.read_text())
    moved = content["validation"].pop()
    content["train"].append(moved)
    path.write_text(json.dumps(content))
    again = split_samples(samples, 0.25, path=str(path))
    assert [s for s in validation if s.key != moved] == again[1]
    assert moved in {s.key for s in again[0]}


def test_split_samples_own_file_needs_only_the_two_lists(tmp_path):
    path = tmp_path / "split.json"
    keys = [s.key for s in _samples()]
    path.write_text(json.dumps({"train": keys[3:], "validation": keys[:3]}))
    _, validation = split_samples(_samples(), 0.2, path=str(path))
    assert [s.key for s in validation] == keys[:3]


def test_split_samples_file_with_gone_samples_is_used_with_a_warning(tmp_path, caplog):
    path = str(tmp_path / "split.json")
    _, validation = split_samples(_samples(), 0.25, path=path)
    rest = [s for s in _samples() if s != validation[0]]
    _, again = split_samples(rest, 0.25, path=path)
    assert again == validation[1:]
    assert "1 samples that are not in the data" in caplog.records[0].getMessage()


def test_split_samples_new_ones_are_trained_on_unless_their_point_is_held_back(
    tmp_path, caplog
):
    path = str(tmp_path / "split.json")
    train, validation = split_samples(_samples(), 0.25, path=path)
    before = pathlib.Path(path).read_text()
    seen = dataclasses.replace(validation[0], key="z_seen")
    new = dataclasses.replace(train[0], key="z_new", point="z_new")
    of_trained = dataclasses.replace(train[0], key="z_of_trained")
    added = [*_samples(), seen, new, of_trained]
    again = split_samples(added, 0.25, path=path)
    assert again == ([*train, new, of_trained], [*validation, seen])
    assert "3 samples are not in" in caplog.records[0].getMessage()
    assert "2 are trained on, 1 show" in caplog.records[0].getMessage()
    assert pathlib.Path(path).read_text() == before


@pytest.mark.parametrize(
    "content, text",
    [
        ("{", "is not a split file"),
        ("[]", "is not a split file"),
        ('{"train": []}', "is not a split file"),
        ('{"train": [], "validation": []}', "none of the 60 samples is in it"),
        ('{"train": ["a"], "validation": ["a"]}', "both in training and in"),
        ('{"train": [], "validation": [], "seed": 5}', "made with seed=5"),
        ('{"train": [[]], "validation": []}', "is not a split file"),
        ('{"train": "abc", "validation": []}', "train must be a list"),
        ("[" * 10**5, "nested too deeply"),
        ("\0", "is not a split file"),
    ],
)
def test_split_samples_file_that_does_not_fit_is_named(tmp_path, content, text):
    path = tmp_path / "split.json"
    path.write_text(content)
    with pytest.raises(UserError, match=text) as caught:
        split_samples(_samples(), 0.25, path=str(path))
    assert str(path) in str(caught.value)
    assert path.read_text() == content


def test_split_samples_without_validation_gives_all_to_training():
    assert split_samples(_samples(), 0.0) == (_samples(), [])


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_split_samples_impossible_fraction_is_refused(fraction):
    with pytest.raises(UserError, match="validation_fraction must be"):
        split_samples(_samples(), fraction)


def test_split_samples_unknown_kind_and_too_few_points_are_refused():
    with pytest.raises(UserError, match="by must be one of point, random"):
        split_samples(_samples(), 0.5, by="scene")
    with pytest.raises(UserError, match="one side would be empty"):
        split_samples(_samples(points=1), 0.5)
