"""Batches: their order, their content, and what happens to damaged files."""

import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from soka_tf.data import encodings, filesystem, image_files, pipeline, targets
from soka_tf.data.pipeline import Batches, Share
from soka_tf.data.sample_readers import ImageReader
from soka_tf.data.service import service_dataset
from soka_tf.data.sources import records, taskonomy
from soka_tf.data.sources.folder import find as find_images
from soka_tf.errors import UserError
from soka_tf.tasks import TASKS
from tests.encode_rgb import encode_rgb

COUNT = 7


@pytest.fixture
def folder(tmp_path):
    """Seven images, each of one grey that tells which one it is."""
    for i in range(COUNT):
        Image.new("RGB", (8, 8), (i * 10,) * 3).save(tmp_path / f"{i}.png")
    return tmp_path


def _who(batch):
    """The number of every image in a batch."""
    grey = (batch["rgb"].numpy()[:, 0, 0, 0] + 1) / 2 * 255
    return np.rint(grey / 10).astype(int).tolist()


def _order(samples, batches, batch_size=3, seed=5, **arguments):
    shown = Batches(8, batch_size)
    dataset = pipeline.image_dataset(samples, shown, seed, **arguments)
    return [_who(batch) for batch in dataset.take(batches)]


def test_image_dataset_started_later_continues_the_same_order(folder):
    samples = find_images(folder)
    whole = _order(samples, 12)
    assert _order(samples, 5, start_step=7) == whole[7:]


def test_image_dataset_every_epoch_is_another_permutation(folder):
    samples = find_images(folder)
    flat = sum(_order(samples, COUNT), [])
    epochs = [flat[i : i + COUNT] for i in range(0, 3 * COUNT, COUNT)]
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_image_dataset_order_depends_on_the_seed(folder):
    samples = find_images(folder)
    assert _order(samples, 5) == _order(samples, 5)
    assert _order(samples, 5) != _order(samples, 5, seed=6)
    # The second epoch of one seed is not the first of the next.
    later = sum(_order(samples, 3, batch_size=COUNT, seed=5), [])[COUNT : 2 * COUNT]
    assert later != _order(samples, 1, batch_size=COUNT, seed=6)[0]


def test_image_dataset_fewer_images_than_a_batch_fills_the_batch(folder):
    samples = find_images(folder)[:2]
    batches = _order(samples, 3, batch_size=5)
    flat = sum(batches, [])
    assert [len(batch) for batch in batches] == [5, 5, 5]
    assert all(sorted(flat[i : i + 2]) == [0, 1] for i in range(0, 14, 2))
    assert _order(samples[:1], 2) == [[0, 0, 0]] * 2


def test_image_dataset_steps_ends_it_and_none_does_not(folder):
    samples = find_images(folder)
    dataset = pipeline.image_dataset(
        samples, Batches(8, 3), seed=0, start_step=2, steps=4
    )
    assert len(list(dataset)) == 4
    endless = pipeline.image_dataset(samples, Batches(8, 3), seed=0)
    assert endless.cardinality() == tf.data.INFINITE_CARDINALITY


def test_image_dataset_element_has_static_shape_and_range(folder):
    dataset = pipeline.image_dataset(find_images(folder), Batches(16, 3), seed=0)
    spec = dataset.element_spec["rgb"]
    assert spec.shape == (3, 16, 16, 3) and spec.dtype == tf.float32
    values = next(iter(dataset))["rgb"].numpy()
    assert values.min() >= -1 and values.max() <= 1


def test_image_dataset_images_of_many_sizes_are_all_resized(tmp_path):
    for i, (width, height) in enumerate([(8, 8), (40, 30), (5, 64), (16, 16)]):
        noise = np.random.default_rng(i).integers(0, 256, (height, width, 3))
        Image.fromarray(noise.astype(np.uint8)).save(tmp_path / f"{i}.png")
    samples = find_images(tmp_path)
    values = next(iter(pipeline.image_dataset(samples, Batches(8, 4), seed=0)))[
        "rgb"
    ].numpy()
    for sample in samples:
        pixels = image_files.read_pixels(sample.files["rgb"], "rgb")
        wanted = encode_rgb(pixels, 8)
        assert np.abs(values - wanted).max(axis=(1, 2, 3)).min() < 1e-5


def test_image_dataset_never_opens_labels(folder, monkeypatch):
    samples = [
        taskonomy.Sample(s.key, s.point, {**s.files, "normal": "/nowhere/label.png"})
        for s in find_images(folder)
    ]
    opened, read = [], image_files.read_pixels

    def spy(path, domain):
        opened.append((path, domain))
        return read(path, domain)

    monkeypatch.setattr(image_files, "read_pixels", spy)
    assert len(_order(samples, 4)) == 4
    assert {domain for _, domain in opened} == {"rgb"}
    assert {path for path, _ in opened} == {s.files["rgb"] for s in samples}


def test_image_dataset_file_gone_on_the_way_is_replaced_and_named_once(folder, caplog):
    samples = find_images(folder)
    before = _order(samples, 4 * COUNT)
    dataset = pipeline.image_dataset(samples, Batches(8, 3), seed=5)
    iterator = iter(dataset)
    _who(next(iterator))
    os.remove(folder / "2.png")
    late = [_who(next(iterator)) for _ in range(4 * COUNT - 1)]
    replaced = [[3 if who == 2 else who for who in batch] for batch in before]
    # What was read ahead of the deletion may still show the image.
    assert late[-2 * COUNT :] == replaced[-2 * COUNT :]
    (record,) = caplog.records
    assert str(folder / "2.png") in record.getMessage()
    assert "no such file" in record.getMessage()
    # A run that starts without the file agrees.
    assert _order(samples, 4 * COUNT) == replaced


def test_image_dataset_that_reads_ahead_unasked_names_no_file_again(folder, caplog):
    samples = find_images(folder)
    (folder / "2.png").unlink()
    for reader in (ImageReader(samples), ImageReader(samples)):
        assert reader.read(2)[1] == 3
    assert len(caplog.records) == 1


def test_image_dataset_two_damaged_neighbours_and_the_last_are_replaced(folder, caplog):
    samples = find_images(folder)
    before = _order(samples, COUNT)
    for who in (0, 5, 6):
        (folder / f"{who}.png").write_bytes(b"")
    replacements = {0: 1, 5: 1, 6: 1}
    wanted = [[replacements.get(who, who) for who in batch] for batch in before]
    assert _order(samples, COUNT) == wanted
    assert len(caplog.records) == 3


def test_image_dataset_nothing_readable_is_a_user_error(folder):
    samples = find_images(folder)
    for sample in samples:
        os.remove(sample.files["rgb"])
    with pytest.raises(UserError, match="No image of 7 samples can be read"):
        pipeline.image_dataset(samples, Batches(8, 3), seed=0)
    with pytest.raises(UserError, match="no samples"):
        pipeline.image_dataset([], Batches(8, 3), seed=0)


@pytest.mark.parametrize("name", ["image_size", "batch_size"])
def test_batches_size_zero_is_refused_by_name(name):
    sizes = {"image_size": 8, "batch_size": 3, name: 0}
    with pytest.raises(UserError, match=f"{name} must be at least 1. Received: 0"):
        Batches(**sizes)


def test_image_dataset_distributed_batch_is_shared_out_in_order(folder):
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    samples = find_images(folder)
    dataset = pipeline.image_dataset(samples, Batches(8, 3), seed=5, steps=4)
    shared = strategy.experimental_distribute_dataset(dataset)
    assert [_who(batch) for batch in shared] == _order(samples, 4)


# Labels

LABELS = ("depth_zbuffer", "normal", "edge_texture", "vanishing_point")


@pytest.fixture
def labelled(tmp_path):
    """Five samples of one building, 16 x 16, with every kind of label."""
    rng = np.random.default_rng(0)
    for i in range(5):
        physical = {
            "depth_zbuffer": rng.uniform(1, 9, (16, 16, 1)),
            "normal": rng.uniform(-1, 1, (16, 16, 3)),
            "edge_texture": rng.uniform(0, 0.08, (16, 16, 1)),
        }
        physical["depth_zbuffer"][:2, :4] = np.nan
        pixels = {n: encodings.store(TASKS[n], v) for n, v in physical.items()}
        pixels["rgb"] = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
        for domain, values in pixels.items():
            path = tmp_path / "ada" / domain / f"point_{i}_view_0_domain_{domain}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values.squeeze()).save(path)
        path = tmp_path / "ada" / "vanishing_point"
        path.mkdir(exist_ok=True)
        points = np.full((3, 3), i, np.float32)
        np.save(path / f"point_{i}_view_0_domain_vanishing_point.npy", points)
    return tmp_path


def _labelled_batches(root, tasks=LABELS, batch_size=2, **arguments):
    samples = taskonomy.find(root, tasks)
    rows = [TASKS[name] for name in tasks]
    return samples, pipeline.labelled_dataset(
        samples, rows, Batches(8, batch_size), **arguments
    )


def test_labelled_dataset_gives_every_sample_once_in_order(labelled):
    samples, dataset = _labelled_batches(labelled)
    batches = list(dataset)
    assert [len(batch["rgb"]) for batch in batches] == [2, 2, 1]
    joined = {k: np.concatenate([b[k] for b in batches]) for k in batches[0]}
    for i, sample in enumerate(samples):
        pixels = {
            domain: image_files.read_pixels(path, domain)
            for domain, path in sample.files.items()
            if domain != "vanishing_point"
        }
        wanted = encode_rgb(pixels["rgb"], 8)
        np.testing.assert_allclose(joined["rgb"][i], wanted, atol=1e-6)
        wanted = encodings.valid_mask(pixels["depth_zbuffer"], 8)
        np.testing.assert_array_equal(joined["mask"][i], wanted)
        assert 0 < wanted.mean() < 1
        for name in LABELS[:3]:
            wanted = encodings.encode(TASKS[name], pixels[name], 8)
            np.testing.assert_array_equal(joined[name][i], wanted)
            assert joined["valid/" + name][i]
        np.testing.assert_array_equal(joined["vanishing_point"][i], np.full(9, i))


def test_labelled_dataset_has_static_shapes(labelled):
    _, dataset = _labelled_batches(labelled)
    spec = dataset.element_spec
    assert spec["rgb"].shape[1:] == (8, 8, 3) and spec["mask"].shape[1:] == (8, 8, 1)
    assert spec["normal"].shape[1:] == (8, 8, 3)
    assert spec["vanishing_point"].shape[1:] == (9,)
    assert spec["valid/normal"].dtype == tf.bool


def test_labelled_dataset_missing_label_is_flagged_and_zero(labelled):
    os.remove(labelled / "ada/normal/point_1_view_0_domain_normal.png")
    _, dataset = _labelled_batches(labelled, batch_size=5)
    (batch,) = list(dataset)
    assert batch["valid/normal"].numpy().tolist() == [True, False, True, True, True]
    assert batch["valid/edge_texture"].numpy().all()
    assert not batch["normal"][1].numpy().any() and batch["normal"][0].numpy().any()


def test_labelled_dataset_damaged_files_are_flagged_and_named_once(labelled, caplog):
    damaged = [
        labelled / "ada/rgb/point_0_view_0_domain_rgb.png",
        labelled / "ada/depth_zbuffer/point_1_view_0_domain_depth_zbuffer.png",
        labelled / "ada/edge_texture/point_2_view_0_domain_edge_texture.png",
        labelled / "ada/vanishing_point/point_3_view_0_domain_vanishing_point.npy",
    ]
    for path in damaged:
        path.write_bytes(b"")
    _, dataset = _labelled_batches(labelled, batch_size=5)
    for _ in range(2):
        (batch,) = list(dataset)
    valid = {name: batch["valid/" + name].numpy().tolist() for name in LABELS}
    assert valid == {
        "depth_zbuffer": [False, False, True, True, True],
        "normal": [False, False, True, True, True],
        "edge_texture": [False, True, False, True, True],
        "vanishing_point": [False, True, True, False, True],
    }
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 4
    for path in damaged:
        assert sum(str(path) in message for message in messages) == 1


def test_labelled_dataset_without_depth_files_masks_nothing(labelled):
    samples = taskonomy.find(labelled, ["edge_texture"])
    dataset = pipeline.labelled_dataset(samples, [TASKS["edge_texture"]], Batches(8, 5))
    assert (next(iter(dataset))["mask"].numpy() == 1).all()


def test_labelled_dataset_with_seed_shuffles_as_a_function_of_the_step(labelled):
    def order(count, **arguments):
        _, dataset = _labelled_batches(labelled, seed=3, **arguments)
        points = [batch["vanishing_point"][:, 0] for batch in dataset.take(count)]
        return np.concatenate(points).astype(int).tolist()

    once = order(-1)
    assert sorted(once) == list(range(5)) and once != list(range(5))
    endless = order(5, repeat=True)
    assert endless[:5] == once and sorted(endless[5:]) == list(range(5))
    assert order(3, repeat=True, start_step=2) == endless[4:]


def test_labelled_dataset_cached_reads_every_file_once(labelled, monkeypatch):
    opened, read = [], image_files.read_pixels

    def spy(path, domain):
        opened.append(path)
        return read(path, domain)

    monkeypatch.setattr(image_files, "read_pixels", spy)
    _, dataset = _labelled_batches(labelled, ["edge_texture"], cache_in_memory=True)
    first, second = list(dataset), list(dataset)
    assert len(opened) == len(set(opened)) == 10
    for one, other in zip(first, second):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_labelled_dataset_task_without_files_is_refused(labelled):
    samples = taskonomy.find(labelled, [])
    with pytest.raises(UserError, match="'jigsaw' has no labels"):
        pipeline.labelled_dataset(samples, [TASKS["jigsaw"]], Batches(8, 2))


# Labels in place of the teachers


def test_label_reader_gives_labels_of_the_image_shown_and_counts_readings(labelled):
    os.remove(labelled / "ada/edge_texture/point_1_view_0_domain_edge_texture.png")
    (labelled / "ada/rgb/point_3_view_0_domain_rgb.png").write_bytes(b"")
    samples = taskonomy.find(labelled, LABELS[:3])
    rows = [TASKS[name] for name in LABELS[:3]]
    dataset = pipeline.image_dataset(
        samples,
        Batches(8, 1),
        seed=0,
        steps=10,
        targets=targets.label_reader(samples, rows, 8),
    )
    truth = pipeline.labelled_dataset(samples, rows, Batches(8, 1))
    truth = {element["rgb"].numpy().tobytes(): element for element in truth}
    seen = set()
    for element in dataset:
        rgb, labels = element["rgb"].numpy(), element[pipeline.TARGETS]
        (wanted,) = (t for t in truth.values() if np.allclose(t["rgb"], rgb, atol=1e-6))
        there = wanted["valid/edge_texture"].numpy()
        seen.add(bool(there[0]))
        assert labels.features == {}
        for name in LABELS[:3]:
            np.testing.assert_array_equal(labels.maps[name], wanted[name])
        for name in ("depth_zbuffer", "normal"):
            weights = labels.weights[name].numpy()
            np.testing.assert_array_equal(weights, wanted["mask"])
            assert 0 < weights.mean() < 1
        assert (labels.weights["edge_texture"].numpy() == there).all()
    assert seen == {True, False}


@pytest.mark.parametrize("kept", [0, 2**30])
def test_label_reader_keeps_labels_in_memory_if_they_are_small(
    labelled, monkeypatch, kept
):
    opened, read = [], image_files.read_pixels

    def spy(path, domain):
        opened.append(domain)
        return read(path, domain)

    monkeypatch.setattr(image_files, "read_pixels", spy)
    monkeypatch.setattr(targets, "_KEPT_BYTES", kept)
    samples = taskonomy.find(labelled, ["edge_texture"])
    reader = targets.label_reader(samples, [TASKS["edge_texture"]], 8)
    for _ in range(3):
        reader(tf.constant(0, tf.int64))
    assert opened == ["edge_texture"] * (1 if kept else 3)


# Preprocessing


def test_preprocess_images_traced_with_unknown_sizes_works():
    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)])
    def traced(inputs):
        return pipeline.preprocess_images(inputs, 8)

    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 16, 3)).astype(np.uint8)
    result = traced(tf.constant(pixels)).numpy()
    assert result.shape == (2, 8, 8, 3) and result.dtype == np.float32
    wanted = np.stack([encode_rgb(image, 8) for image in pixels])
    np.testing.assert_allclose(result, wanted, atol=1e-6)


@pytest.mark.parametrize("dtype, top", [("uint8", 255), ("float32", 1), ("float64", 1)])
def test_preprocess_images_keeps_the_ends_of_the_range(dtype, top):
    ends = np.zeros((1, 2, 2, 3), dtype)
    ends[:, :, 1] = top
    values = pipeline.preprocess_images(tf.constant(ends), 2).numpy()
    assert values.dtype == np.float32
    assert (values[:, :, 0] == -1).all() and (values[:, :, 1] == 1).all()


# Augmentation


def _halves(samples, **arguments):
    """(left, right) of every image in a chain of batches."""
    arguments = {"augmentation": "flip", "seed": 5, "steps": 20, **arguments}
    dataset = pipeline.image_dataset(samples, Batches(8, 10), **arguments)
    batches = [batch["rgb"].numpy()[:, 0] for batch in dataset]
    return np.concatenate(batches)[:, [0, -1], 0]


def test_image_dataset_flip_exchanges_half_of_the_images_by_seed_and_place(tmp_path):
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, 4:] = 255
    Image.fromarray(pixels).save(tmp_path / "0.png")
    samples = find_images(tmp_path)
    whole = _halves(samples)
    assert {tuple(pair) for pair in whole} == {(-1, 1), (1, -1)}
    assert 70 < (whole[:, 0] == 1).sum() < 130
    later = _halves(samples, start_step=7, steps=13)
    np.testing.assert_array_equal(later, whole[70:])
    assert (_halves(samples, seed=6) != whole).any()
    assert (_halves(samples, augmentation="none")[:, 0] == -1).all()


def test_image_dataset_flip_keeps_the_order(folder):
    samples = find_images(folder)
    assert _order(samples, 9, augmentation="flip") == _order(samples, 9)


def test_image_dataset_augmentation_unknown_or_beside_cached_teachers_is_refused(
    folder,
):
    samples = find_images(folder)
    with pytest.raises(UserError, match="must be one of none, flip. Received: 'crop'"):
        pipeline.image_dataset(samples, Batches(8, 2), 0, augmentation="crop")
    message = "run.augmentation = 'flip' and run.teacher_cache = True exclude each"
    with pytest.raises(UserError, match=message):
        pipeline.image_dataset(
            samples,
            Batches(8, 2),
            0,
            augmentation="flip",
            targets=lambda number: number,
        )


def test_image_dataset_teachers_are_asked_of_the_image_that_is_shown(folder):
    os.remove(folder / "2.png")
    (folder / "4.png").write_bytes(b"garbage")
    names = [str(folder / f"{i}.png") for i in range(COUNT)]
    samples = [taskonomy.Sample(n, n, {"rgb": n}) for n in names]
    dataset = pipeline.image_dataset(
        samples,
        Batches(8, 3),
        seed=5,
        steps=10,
        targets=lambda number: {"number": number},
    )
    shown = [(_who(batch), batch["targets"]["number"]) for batch in dataset]
    for who, numbers in shown:
        assert numbers.numpy().tolist() == who
    assert {2, 4}.isdisjoint(sum((who for who, _ in shown), []))


# Several workers and replicas


@pytest.mark.parametrize("workers, replicas", [(1, 1), (1, 2), (2, 1), (2, 3)])
def test_image_dataset_workers_and_replicas_share_the_batches_of_one_process(
    folder, workers, replicas
):
    samples = find_images(folder)

    def batches(**arguments):
        dataset = pipeline.image_dataset(
            samples, Batches(8, 12), seed=5, start_step=3, steps=4, **arguments
        )
        return list(dataset)

    for arguments in ({"augmentation": "flip"}, {"targets": lambda number: number}):
        whole = batches(**arguments)
        parts = [
            batches(share=Share(workers, w, replicas), **arguments)
            for w in range(workers)
        ]
        assert all(len(part) == 4 * replicas for part in parts)
        for step, batch in enumerate(whole):
            own = slice(step * replicas, (step + 1) * replicas)
            shares = [element for part in parts for element in part[own]]
            for key, values in batch.items():
                together = tf.concat([share[key] for share in shares], axis=0)
                np.testing.assert_array_equal(together, values)
            assert len({share["rgb"].shape[0] for share in shares}) == 1


def test_image_dataset_batch_that_cannot_be_shared_evenly_is_refused(folder):
    samples = find_images(folder)
    message = "batch_size must be a multiple of 6, .* Received: 8. Bind batch_size = 12"
    with pytest.raises(UserError, match=message):
        pipeline.image_dataset(samples, Batches(8, 8), seed=0, share=Share(2, 0, 3))
    for wrong in ({"worker": 1}, {"workers": 0}, {"replicas": 0}, {"worker": -1}):
        with pytest.raises(UserError, match="Received: workers"):
            Share(**wrong)


# The tf.data service


@pytest.fixture
def service():
    """The address of a dispatcher with two workers, in this process."""
    remote = tf.data.experimental.service
    dispatcher = remote.DispatchServer()
    address = dispatcher.target.split("://")[1]
    workers = [
        remote.WorkerServer(remote.WorkerConfig(dispatcher_address=address))
        for _ in range(2)
    ]
    yield dispatcher.target
    del workers, dispatcher


def test_service_dataset_reads_every_place_of_the_chain_once(folder, service):
    samples = find_images(folder)
    # Long enough that what a slow worker has read ahead does not count.
    batches = _service(samples, service, "whole", 140, start_step=2)
    counts = np.bincount(sum(batches, []), minlength=COUNT)
    assert counts.sum() == 420 and counts.min() >= 50 and counts.max() <= 70


def _service(samples, service, job, batches, **arguments):
    dataset = service_dataset(samples, Batches(8, 3), 5, service, job, **arguments)
    assert dataset.element_spec["rgb"].shape == (3, 8, 8, 3)
    return [_who(batch) for batch in dataset.take(batches)]


def test_service_dataset_reads_records_and_drops_what_is_damaged(
    folder, service, tmp_path_factory
):
    out = str(tmp_path_factory.mktemp("service") / "out")
    records.write_records(find_images(folder), out, "greys", shards=2)
    samples = records.find(out, [])
    part = filesystem.parse_part(samples[3].files["rgb"])
    with open(part.file, "r+b") as file:
        file.seek(part.offset)
        file.write(b"0000")
    batches = _service(samples, service, "records", 14)
    assert set(sum(batches, [])) == set(range(COUNT)) - {3}


def test_service_dataset_pixels_are_those_of_python(tmp_path, service):
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (4, 4, 3)).repeat(8, 0).repeat(8, 1)
    for suffix in ("png", "jpg"):
        place = tmp_path / suffix
        place.mkdir()
        Image.fromarray(pixels.astype(np.uint8)).save(place / f"0.{suffix}")
        samples = find_images(place)
        here = next(iter(pipeline.image_dataset(samples, Batches(32, 1), 0)))["rgb"]
        there = service_dataset(samples, Batches(32, 1), 0, service, suffix)
        difference = np.abs(here - next(iter(there))["rgb"]).max()
        assert difference <= (0 if suffix == "png" else 1.01 * 2 / 255)


def test_service_dataset_wrong_address_or_kind_of_file_is_refused(folder):
    samples = find_images(folder)
    with pytest.raises(UserError, match="'grpc://host:port'.* Received: 'host:1'"):
        _service(samples, "host:1", "job", 1)
    tiff = [taskonomy.Sample("a", "a", {"rgb": "a.tiff"})]
    with pytest.raises(UserError, match="a.tiff: run.data_service reads PNG and JPEG"):
        _service(tiff, "grpc://host:1", "job", 1)
