"""Teachers' outputs on disk: right, shared, mended, refused; never of another image."""

import collections
import copy
import hashlib
import json
import pathlib
import shutil
import threading

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from soka_tf.data import shard_store
from soka_tf.data.pipeline import Batches, image_dataset
from soka_tf.data.sources.folder import find as find_images
from soka_tf.errors import UserError
from soka_tf.teachers import finding
from soka_tf.teachers import kept_outputs as kept
from soka_tf.teachers.cache import TeacherCache
from soka_tf.teachers.finding import find_teachers, load_pool
from soka_tf.teachers.kept_outputs import TeacherRecords
from soka_tf.teachers.taskonomy.network import teacher_variables
from soka_tf.teachers.taskonomy.teacher_file import load_teacher, save_teacher
from tests import tiny_runs
from tests.lock_holder import held

PAIR = ("depth_zbuffer", "edge_texture")
AUXILIARY = "keypoints3d"
LAYERS = ("block3", "representation")
SIZE = 16


_made = {}


def make(tiny, folder, tasks=PAIR, auxiliaries=(AUXILIARY,), **arguments):
    """A cache in this folder; teachers are traced once for all of the same settings."""
    arguments = {
        "teachers_dir": tiny.teachers,
        "inputs": "training",
        "image_size": SIZE,
        "layers": LAYERS,
        **arguments,
    }
    key = (tuple(tasks), tuple(auxiliaries), *sorted(arguments.items()))
    teachers_dir, inputs = arguments.pop("teachers_dir"), arguments.pop("inputs")
    if key not in _made:
        found = find_teachers(tasks, auxiliaries, teachers_dir)
        pool = load_pool(found, inputs)
        _made[key] = TeacherCache(folder, pool, **arguments)
    cache = copy.copy(_made[key])
    cache.folder = pathlib.Path(folder)
    cache._pool, cache._run = copy.copy(cache._pool), dict(cache._run)
    cache.records = {
        name: TeacherRecords(cache.folder / records.folder.name, records.manifest)
        for name, records in cache.records.items()
    }
    return cache


@pytest.fixture(scope="module", autouse=True)
def teachers_read_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finding, "load_teacher", tiny_runs.load_teacher_once)
        yield
    _made.clear()


@pytest.fixture
def images(tiny, tmp_path):
    return shutil.copytree(tiny.images, tmp_path / "images")


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """A cache of all images. Not to be changed."""
    cache = make(tiny, tmp_path_factory.mktemp("whole"))
    cache.fill(find_images(tiny.images))
    return cache


@pytest.fixture
def filled(tiny, whole, tmp_path):
    """A copy of it, for a run with one teacher only."""
    shutil.copytree(whole.folder, tmp_path / "cache")
    return make(tiny, tmp_path / "cache", PAIR[:1], ())


@pytest.fixture
def computed(monkeypatch):
    """How many images every teacher is run on from now on."""
    counts = collections.Counter()
    real = TeacherCache._compute

    def counting(self, name, missing, *rest):
        for key, values in real(self, name, missing, *rest):
            counts[name] += 1
            yield key, values

    monkeypatch.setattr(TeacherCache, "_compute", counting)
    return counts


def batch_of(cache, samples, antialias=False):
    """All images in the order of seed 3, with what the cache says of them."""
    dataset = image_dataset(
        samples,
        Batches(SIZE, len(samples), antialias),
        seed=3,
        targets=cache.reader(samples),
    )
    return next(iter(dataset))


def assert_said(cache, batch, layers=LAYERS):
    """The batch holds what the teachers say of its images, rounded to float16.

    Rounding of a normal float16 is at most 2^-11 of the value; the rest is what one
    batch size differs from another in float32.
    """
    said = cache._pool(batch["rgb"], layers)
    given = batch["targets"]
    assert list(given.maps) == list(said.maps)
    assert list(given.features) == list(layers)
    pairs = list(zip(given.maps.values(), said.maps.values()))
    for layer in layers:
        assert len(given.features[layer]) == len(said.features[layer])
        pairs += zip(given.features[layer], said.features[layer])
    for value, wanted in pairs:
        np.testing.assert_allclose(
            tf.cast(value, tf.float32), wanted, rtol=2**-10, atol=1e-5
        )


def shards(cache, task=PAIR[0]):
    return sorted(cache.records[task].folder.glob("*.tfrecord"))


# What is read


def test_cached_outputs_are_the_teachers_up_to_float16(whole, tiny):
    batch = batch_of(whole, find_images(tiny.images))
    assert_said(whole, batch)
    given = batch["targets"]
    assert {v.dtype for v in given.maps.values()} == {tf.float32}
    assert {v.dtype for v in given.features["block3"]} == {tf.float16}


@pytest.mark.parametrize("arguments", [{"antialias": True}, {"inputs": "released"}])
def test_cached_outputs_follow_what_the_teachers_are_shown(tiny, tmp_path, arguments):
    tiny_runs.write_images(tmp_path / "large", 3, size=40)
    samples = find_images(tmp_path / "large")
    cache = make(tiny, tmp_path / "cache", **arguments)
    cache.fill(samples)
    antialias = arguments.get("antialias", False)
    assert_said(cache, batch_of(cache, samples, antialias=antialias))


def test_cached_images_come_in_the_same_order_also_from_the_middle(whole, tiny):
    samples = find_images(tiny.images)
    for start in (0, 5):
        arguments = dict(seed=3, start_step=start, steps=7)
        plain = image_dataset(samples, Batches(SIZE, 2), **arguments)
        cached = image_dataset(
            samples, Batches(SIZE, 2), **arguments, targets=whole.reader(samples)
        )
        for one, other in zip(plain, cached):
            np.testing.assert_array_equal(one["rgb"], other["rgb"])
            assert_said(whole, other)


def test_unreadable_image_gives_the_outputs_of_the_one_in_its_place(
    tiny, images, tmp_path, caplog
):
    (images / "2.png").write_bytes(b"garbage")
    (images / "4.png").unlink()
    samples = find_images(tiny.images)
    moved = [
        type(s)(
            s.key,
            s.point,
            {"rgb": s.files["rgb"].replace(str(tiny.images), str(images))},
        )
        for s in samples
    ]
    cache = make(tiny, tmp_path / "cache")
    cache.fill(moved)
    assert len(cache.records[AUXILIARY]) == 4
    assert_said(cache, batch_of(cache, moved))
    assert "appeared or changed" not in caplog.text


def test_auxiliary_lends_no_prediction_and_nothing_without_layers(
    whole, tiny, tmp_path
):
    assert set(whole.records[AUXILIARY].shapes) == set(LAYERS)
    assert set(whole.records[PAIR[0]].shapes) == {*LAYERS, "prediction"}
    cache = make(tiny, tmp_path, layers=())
    assert list(cache.records) == list(PAIR)
    samples = find_images(tiny.images)
    cache.fill(samples)
    batch = batch_of(cache, samples)
    assert batch["targets"].features == {}
    assert_said(cache, batch, ())


def test_shards_are_plain_tfrecords_of_examples(whole, tiny):
    (shard,) = shards(whole)
    keys = {
        hashlib.sha256(path.read_bytes()).digest() for path in tiny.images.iterdir()
    }
    found = set()
    for content in tf.data.TFRecordDataset(str(shard)):
        example = tf.train.Example.FromString(content.numpy())
        values = {k: v.bytes_list.value[0] for k, v in example.features.feature.items()}
        found.add(values.pop("image"))
        sizes = {k: 2 * np.prod(s) for k, s in whole.records[PAIR[0]].shapes.items()}
        assert {k: len(v) for k, v in values.items()} == sizes
    assert found == keys
    size = sum(path.stat().st_size for t in whole.records for path in shards(whole, t))
    assert size == len(keys) * whole.image_bytes


# What is shared and what is not


def test_runs_with_other_pairs_share_a_teacher(tiny, filled, computed):
    other = make(tiny, filled.folder, ("normal", PAIR[1]), (AUXILIARY,))
    other.fill(find_images(tiny.images))
    assert computed == {"normal": 6}


def test_same_image_under_two_names_is_kept_once(tiny, images, tmp_path, computed):
    shutil.copy(images / "1.png", images / "again.png")
    cache = make(tiny, tmp_path / "cache", PAIR[:1], ())
    samples = find_images(images)
    cache.fill(samples)
    assert len(samples) == 7 and computed == {PAIR[0]: 6}
    assert_said(cache, batch_of(cache, samples))


def test_everything_the_outputs_depend_on_names_another_folder(tiny, tmp_path):
    changed = shutil.copytree(tiny.teachers, tmp_path / "changed")
    teacher = load_teacher(changed / f"{PAIR[0]}.safetensors")
    variable = next(iter(teacher_variables(teacher).values()))
    variable.assign(variable + 1.0)
    save_teacher(teacher, changed / f"{PAIR[0]}.safetensors")
    folders = [
        make(tiny, tmp_path, PAIR[:1], (), **arguments).records[PAIR[0]].folder.name
        for arguments in (
            {},
            {"teachers_dir": changed},
            {"image_size": 32},
            {"antialias": True},
            {"inputs": "released"},
            {"layers": LAYERS[:1]},
            {"layers": ()},
        )
    ]
    folders.append(
        make(tiny, tmp_path, PAIR[1:], PAIR[:1]).records[PAIR[0]].folder.name
    )
    assert len(set(folders)) == len(folders)
    assert folders[0].startswith(f"{PAIR[0]}-")
    assert folders[0].endswith(
        "-16px-training-float32-block3+representation+prediction"
    )


def test_folder_of_other_settings_under_this_name_is_refused(tiny, filled):
    path = filled.records[PAIR[0]].folder / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "image_size": 99}))
    message = "'image_size': 99}, this run needs {'image_size': 16}. Remove or rename"
    with pytest.raises(UserError, match=message):
        filled.fill(find_images(tiny.images))
    for content in ("garbage", "[]", "[" * 10**5):
        path.write_text(content)
        with pytest.raises(UserError, match="manifest.json: cannot be read"):
            filled.fill(find_images(tiny.images))


# Interrupted, spoilt, changed


def test_interrupted_filling_goes_on_where_it_was(
    tiny, tmp_path, monkeypatch, computed, caplog
):
    monkeypatch.setattr(kept, "_SHARD_RECORDS", 2)
    samples = find_images(tiny.images)
    cache = make(tiny, tmp_path)
    features = kept._features
    calls = iter(range(100))

    def stops(image, outputs):
        if next(calls) == 9:  # the second shard of the second teacher
            raise KeyboardInterrupt
        return features(image, outputs)

    monkeypatch.setattr(kept, "_features", stops)
    with pytest.raises(KeyboardInterrupt):
        cache.fill(samples)
    monkeypatch.setattr(kept, "_features", features)
    assert [len(shards(cache, task)) for task in cache.records] == [3, 1, 0]
    assert not list(tmp_path.rglob("*.tmp"))
    # What kill -9 leaves.
    folder = cache.records[PAIR[1]].folder
    (folder / "123.tfrecord.tmp").write_bytes(b"half")
    (folder / "123.json.7.tmp").write_bytes(b"{")

    computed.clear()
    cache.fill(samples)
    assert computed == {PAIR[1]: 4, AUXILIARY: 6}
    assert not list(tmp_path.rglob("*.tmp"))
    assert not [r for r in caplog.records if r.levelname == "WARNING"]
    assert_said(cache, batch_of(cache, samples))


def flip_a_bit(shard):
    content = bytearray(shard.read_bytes())
    content[len(content) // 2 + 1000] ^= 1
    shard.write_bytes(content)


def lose_index(shard):
    shard.with_suffix(".json").unlink()


@pytest.mark.parametrize("damage", [flip_a_bit, lose_index])
def test_damaged_shard_is_named_once_and_computed_again(
    tiny, filled, computed, caplog, damage
):
    (shard,) = shards(filled)
    damage(shard)
    samples = find_images(tiny.images)
    filled.fill(samples)
    assert computed == {PAIR[0]: 6}
    (warning,) = [r.message for r in caplog.records if r.levelname == "WARNING"]
    assert shard.name in warning and PAIR[0] in warning
    assert_said(filled, batch_of(filled, samples))
    computed.clear()
    filled.fill(samples)
    assert not computed


def test_lost_shard_is_computed_again_and_its_index_goes(tiny, filled, computed):
    (shard,) = shards(filled)
    other = shard.rename(shard.with_name("elsewhere"))
    filled.fill(find_images(tiny.images)[:2])
    assert computed == {PAIR[0]: 2} and len(filled.records[PAIR[0]]) == 2
    assert len(list(other.parent.glob("*.json"))) == 2  # the manifest's and one index


def test_shard_damaged_while_training_ends_it_and_is_computed_at_the_next_start(
    tiny, filled, computed, caplog
):
    samples = find_images(tiny.images)
    filled.fill(samples)
    (shard,) = shards(filled)
    flip_a_bit(shard)
    message = f"{shard.name}: damaged since the run began. Give the same command"
    with pytest.raises(tf.errors.UnknownError, match=message):
        batch_of(filled, samples)

    filled.fill(samples)
    assert computed == {PAIR[0]: 6}
    assert shard.name in caplog.text
    assert_said(filled, batch_of(filled, samples))


def test_image_that_changed_ends_training_and_is_computed_at_the_next_start(
    tiny, images, tmp_path, computed
):
    samples = find_images(images)
    cache = make(tiny, tmp_path / "cache", PAIR[:1], ())
    cache.fill(samples)
    Image.new("RGB", (SIZE, SIZE), (200, 10, 60)).save(images / "3.png")
    message = f"UserError: {images / '3.png'}: appeared or changed since the run began"
    with pytest.raises(tf.errors.UnknownError, match=message):
        batch_of(cache, samples)

    computed.clear()
    cache.fill(samples)
    assert computed == {PAIR[0]: 1}
    assert_said(cache, batch_of(cache, samples))


# Refused


def test_too_small_a_disk_is_refused_before_anything_is_computed(
    tiny, tmp_path, monkeypatch, computed, caplog
):
    caplog.set_level("INFO", "absl")
    cache = make(tiny, tmp_path, PAIR[:1], ())
    needed = 6 * cache.image_bytes
    room = [needed + shard_store.DISK_MARGIN - 1]
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, room[0]))
    message = (
        r"The teachers' outputs of 6 images need [\d.]+ KiB in .* \([\d.]+ KiB an "
        r"image\); 0 bytes of that are kept already: .* more than there is room for.* "
        r"256.0 MiB must remain.*run.teacher_cache_dir .*run.teacher_cache = False"
    )
    with pytest.raises(UserError, match=message) as error:
        cache.fill(find_images(tiny.images))
    assert "\n" not in str(error.value)
    assert not computed and not list(tmp_path.rglob("*.tfrecord*"))
    room[0] += 1
    cache.fill(find_images(tiny.images))
    room[0] = 0  # nothing is missing any more
    cache.fill(find_images(tiny.images))
    told = [r.message for r in caplog.records if "The teachers' outputs" in r.message]
    size, free = map(shard_store.in_units, (needed, needed + shard_store.DISK_MARGIN))
    assert [text.partition("; ")[2] for text in told] == [
        f"0 bytes of that are kept already, {size} are still to be written (free "
        f"there: {free}).",
        f"{size} of that are kept already, 0 bytes are still to be written (free "
        "there: 0 bytes).",
    ]


def test_disk_that_fills_up_midway_is_told_and_leaves_whole_shards(
    tiny, tmp_path, monkeypatch
):
    monkeypatch.setattr(kept, "_SHARD_RECORDS", 2)
    cache = make(tiny, tmp_path, PAIR[:1], ())
    real, count = tf.io.TFRecordWriter.write, iter(range(100))

    def write(self, record):
        if next(count) == 3:
            raise tf.errors.ResourceExhaustedError(None, None, "No space left")
        real(self, record)

    monkeypatch.setattr(tf.io.TFRecordWriter, "write", write)
    with pytest.raises(UserError, match="cannot be written .*No space left"):
        cache.fill(find_images(tiny.images))
    assert len(shards(cache)) == 1 and not list(tmp_path.rglob("*.tmp"))


def test_folder_that_cannot_be_made_is_told(tiny, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="file/cache: .* cannot be written"):
        make(tiny, tmp_path / "file" / "cache", PAIR[:1], ()).fill(
            find_images(tiny.images)
        )


@pytest.mark.parametrize(
    "factor, told",
    [
        (np.nan, "a block3 of values that are no numbers. Its file is spoilt"),
        (1e12, "a block3 of values up to .*, which float16"),
        (1e-12, "a block3 of values up to .*, which float16"),
    ],
)
def test_values_float16_does_not_hold_name_teacher_and_image(
    tiny, tmp_path, factor, told
):
    cache = make(tiny, tmp_path, PAIR[:1], ())
    said = cache._pool.run
    cache._pool.run = lambda task, *shown: {
        **said(task, *shown),
        "block3": said(task, *shown)["block3"] * factor,
    }
    cache._run[PAIR[0]] = tf.function(cache._runner(PAIR[0], LAYERS))
    message = rf"teacher of 'depth_zbuffer' answers .*0\.png with {told}"
    with pytest.raises(UserError, match=message):
        cache.fill(find_images(tiny.images))
    assert not shards(cache)


def test_two_processes_do_not_fill_one_folder_at_once(tiny, tmp_path, caplog):
    cache = make(tiny, tmp_path, PAIR[:1], ())
    samples = find_images(tiny.images)
    waits = threading.Event()
    filling = threading.Thread(target=cache.fill, args=(samples,))
    with caplog.at_level("INFO", "absl"), held(tmp_path / "lock"):
        caplog.handler.addFilter(
            lambda record: (
                waits.set() if "Waiting" in record.getMessage() else None or True
            )
        )
        filling.start()
        assert waits.wait(60) and not shards(cache)
    filling.join(60)
    assert len(cache.records[PAIR[0]]) == 6
