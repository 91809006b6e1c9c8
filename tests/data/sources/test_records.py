"""Records give what the files give; what is damaged is noticed; packing goes on."""

import json
import os
import re
import shutil

import gin
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from soka_tf.data import file_writing, filesystem, image_files, pipeline
from soka_tf.data.pipeline import Batches
from soka_tf.data.rooms import room_files
from soka_tf.data.sources import records, taskonomy
from soka_tf.data.sources.folder import find as find_images
from soka_tf.errors import UserError
from soka_tf.runs.build_data import build_data
from soka_tf.tasks import get_targets

TASKS = ["depth_zbuffer", "edge_texture"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("taskonomy")
    views = dict(folder=str(root), seed=3, rooms=3, views=2, size=16)
    room_files.generate_rooms(domains=["rgb", *TASKS, "vanishing_point"], **views)
    # A label that is not there, and one that is damaged.
    os.remove(root / "rooms/edge_texture/point_0_view_0_domain_edge_texture.png")
    bad = root / "rooms/depth_zbuffer/point_1_view_1_domain_depth_zbuffer.png"
    bad.write_bytes(bad.read_bytes()[:99])
    return root


@pytest.fixture(scope="module")
def packed(folder, tmp_path_factory):
    out = str(tmp_path_factory.mktemp("records") / "here")
    samples = taskonomy.find(folder, [*TASKS, "vanishing_point"])
    records.write_records(samples, out, "rooms", shards=2)
    return out


@pytest.fixture
def copied(packed, tmp_path):
    return shutil.copytree(packed, tmp_path / "copied")


def _same(one, other):
    tf.nest.map_structure(np.testing.assert_array_equal, list(one), list(other))


@pytest.mark.usefixtures("fresh_gin")
def test_records_give_the_splits_and_batches_of_the_files_bit_for_bit(folder, packed):
    gin.bind_parameter("split.validation_fraction", 0.34)
    gin.bind_parameter("folders.taskonomy_dir", str(folder))
    here = build_data(TASKS, 16)
    gin.bind_parameter("folders.records_dir", packed)
    there = build_data(TASKS, 16)
    for one, other in zip(here[:2], there[:2]):
        assert [s.key for s in one] == [s.key for s in other]
        assert [s.point for s in one] == [s.point for s in other]
        assert all(filesystem.parse_part(p) for s in other for p in s.files.values())
    shown = dict(batches=Batches(8, 4), seed=2, start_step=3, steps=5)
    _same(*(pipeline.image_dataset(data.train, **shown) for data in (here, there)))
    tasks = get_targets(TASKS)
    measured = [
        list(
            pipeline.labelled_dataset(
                data.validation + data.train, tasks, Batches(16, 3)
            )
        )
        for data in (here, there)
    ]
    _same(*measured)
    flags = np.concatenate([b["valid/depth_zbuffer"] for b in measured[1]])
    assert flags.sum() == len(flags) - 1  # the damaged label is as damaged


def test_records_hold_numbers_and_tf_examples_too(folder, packed):
    samples = records.find(packed, ["vanishing_point"])
    key = samples[0].key
    path = samples[0].files["vanishing_point"]
    original = taskonomy.find(folder, ["vanishing_point"])[0]
    assert original.key == key
    np.testing.assert_array_equal(
        image_files.read_vanishing_point(path),
        image_files.read_vanishing_point(original.files["vanishing_point"]),
    )
    shard = filesystem.parse_part(samples[0].files["rgb"]).file
    for record in tf.data.TFRecordDataset(shard):
        read = tf.train.Example.FromString(record.numpy()).features.feature
        if read["key"].bytes_list.value[0].decode() == key:
            break
    content = filesystem.read_bytes(original.files["rgb"])
    assert read["content"].bytes_list.value[0] == content
    assert read["domain"].bytes_list.value[0] == b"rgb"


def test_records_in_another_file_system_give_the_same(folder, packed):
    samples = taskonomy.find(folder, TASKS)
    try:
        records.write_records(samples, "ram://records", "rooms", shards=2)
        here, there = (
            records.find(where, TASKS) for where in (packed, "ram://records")
        )
        shown = dict(batches=Batches(8, 4), seed=2, steps=2)
        _same(*(pipeline.image_dataset(found, **shown) for found in (here, there)))
    finally:
        tf.io.gfile.rmtree("ram://records")


def test_records_one_flipped_byte_is_one_warning_and_the_next_image(copied, caplog):
    samples = records.find(str(copied), ["rgb"])
    part = filesystem.parse_part(samples[2].files["rgb"])
    with open(part.file, "r+b") as file:
        file.seek(part.offset + part.length // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    replaced = [*samples[:2], samples[3], *samples[3:]]
    shown = dict(batches=Batches(8, 4), seed=2, steps=6)
    caplog.clear()
    _same(*(pipeline.image_dataset(found, **shown) for found in (replaced, samples)))
    assert len(caplog.records) == 1
    message = caplog.records[0].getMessage()
    assert "its bytes are not those that were written" in message
    assert os.path.basename(part.file) in message and part.name in message


def test_write_records_goes_on_where_it_was_and_mends_what_is_damaged(
    folder, copied, packed, caplog
):
    samples = taskonomy.find(folder, [*TASKS, "vanishing_point"])
    shards = sorted(copied.glob("*.tfrecord"))
    lost, spoilt, *kept = shards
    lost.with_suffix(".json").unlink()
    content = bytearray(spoilt.read_bytes())
    content[200] ^= 1
    spoilt.write_bytes(content)
    (copied / "x.tfrecord.0.tmp").write_bytes(b"left by a kill")
    before = {path: path.stat().st_mtime_ns for path in kept}
    with pytest.raises(UserError, match=f"{lost.name}: missing, unfinished"):
        records.find(str(copied), TASKS)
    records.write_records(samples, str(copied), "rooms")
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    names = sorted(os.listdir(copied))
    assert names == sorted(os.listdir(packed))
    for name in names:
        assert (copied / name).read_bytes() == filesystem.read_bytes(f"{packed}/{name}")


def test_write_records_damaged_image_is_named_and_left_out(tmp_path, caplog):
    for i in range(3):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"{i}.png")
    (tmp_path / "1.png").write_bytes(b"garbage")
    out = str(tmp_path / "out")
    records.write_records(find_images(tmp_path), out, "photos")
    assert [s.key for s in records.find(out, [])] == ["0", "2"]
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == 1 and "1.png" in warnings[0]
    assert "It is left out" in warnings[0]


def test_find_without_labels_warns_of_none_and_of_missing_ones_where_there_are_some(
    tiny, packed, tmp_path, caplog
):
    out = str(tmp_path / "unlabelled")
    records.write_records(find_images(str(tiny.images)), out, "photographs")
    caplog.clear()
    assert len(records.find(out, ["depth_zbuffer", "normal"])) == 6
    assert not caplog.records
    records.find(packed, ["normal", "edge_texture"])
    (warning,) = [r.getMessage() for r in caplog.records]
    assert warning == f"{packed}: the records have no domain normal."


def test_write_records_resized_are_small_pngs_rounded_to_8_bits(folder, tmp_path):
    samples = taskonomy.find(folder, ["depth_zbuffer"])
    out = str(tmp_path / "small")
    records.write_records(samples, out, "rooms", image_size=8)
    small = records.find(out, ["depth_zbuffer"])
    pixels = image_files.read_pixels(small[0].files["rgb"], "rgb")
    assert pixels.shape == (8, 8, 3)
    shown = dict(batches=Batches(8, 4), seed=2, steps=2)
    for one, other in zip(
        pipeline.image_dataset(samples, **shown), pipeline.image_dataset(small, **shown)
    ):
        difference = np.abs(one["rgb"] - other["rgb"]).max()
        assert 0 < difference <= 1 / 255 + 1e-6  # half a step of 2 / 255
    label = samples[0].files["depth_zbuffer"]
    assert filesystem.read_bytes(
        small[0].files["depth_zbuffer"]
    ) == filesystem.read_bytes(label)


def test_write_records_other_flags_or_too_small_a_disk_are_refused(
    folder, copied, tmp_path, monkeypatch
):
    samples = taskonomy.find(folder, [*TASKS, "vanishing_point"])
    with pytest.raises(UserError, match="with shards = 2. Received: 3. Give the same"):
        records.write_records(samples, str(copied), "rooms", shards=3)
    monkeypatch.setattr(file_writing, "free_bytes", lambda folder: 1 << 20)
    message = re.compile("more than there is room for. The disk has 1.0 MiB free")
    with pytest.raises(UserError, match=message):
        records.write_records(samples, str(tmp_path / "new"), "rooms")
    assert not (tmp_path / "new").exists()


def test_find_buildings_and_folders_that_are_not_there(packed, tmp_path):
    assert len(records.find(packed, [], "rooms")) == 6
    with pytest.raises(UserError, match="no building 'wiconisco' .* there are: rooms"):
        records.find(packed, [], ["wiconisco"])
    with pytest.raises(UserError, match="not a folder of records"):
        records.find(str(tmp_path), [])


@pytest.mark.parametrize(
    "change",
    [{"shards": 10**12}, {"shards": "x"}, {"domains": ["../rgb"]}, "[" * 10**5],
)
def test_find_hostile_manifest_is_refused(copied, change):
    path = copied / "records.json"
    if isinstance(change, dict):
        change = json.dumps({**json.loads(path.read_text()), **change})
    path.write_text(change)
    with pytest.raises(UserError, match="records.json: cannot be read"):
        records.find(copied, TASKS)
