"""Teachers are frozen, and their files are read whole or refused by name."""

import json
import pathlib
import textwrap

import numpy as np
import pytest
import tensorflow as tf
from safetensors import safe_open
from safetensors.numpy import load_file
from safetensors.numpy import save as to_bytes

from soka_tf.data.filesystem import sha256_of
from soka_tf.errors import UserError
from soka_tf.networks.decoder import Decoder
from soka_tf.networks.encoder import Encoder
from soka_tf.teachers.taskonomy.network import TaskonomyTeacher, teacher_variables
from soka_tf.teachers.taskonomy.teacher_file import (
    load_teacher,
    read_manifest,
    save_teacher,
)

ROOT = pathlib.Path(__file__).resolve().parents[2]
KERNEL = "encoder/conv1/kernel"
IMAGES = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype("float32")


def networks(channels=1):
    encoder = Encoder(units=(1, 1, 1, 1), width=1 / 32, strides=(2, 2, 1, 1))
    return encoder, Decoder(channels, width=1 / 64, upsamplings=2, min_filters=3)


def build(task="depth_zbuffer"):
    teacher = TaskonomyTeacher(task, *networks(), image_size=16)
    random = np.random.default_rng(1)
    for name, v in teacher_variables(teacher).items():
        noise = random.normal(size=v.shape)
        v.assign(1 + 0.2 * np.tanh(noise) if "variance" in name else 0.3 * noise)
    return teacher


@pytest.fixture(scope="module")
def teacher():
    return build()


@pytest.fixture(scope="module")
def saved(teacher, tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "depth_zbuffer.safetensors"
    save_teacher(teacher, path)
    return path


@pytest.fixture
def rewrite(saved, tmp_path):
    """Returns a function that writes the file anew with its arrays changed."""

    def write(manifest=None, **changes):
        with safe_open(saved, framework="numpy") as file:
            manifest = manifest or file.metadata()["manifest"]
        arrays = {**load_file(saved), **changes}
        arrays = {name: value for name, value in arrays.items() if value is not None}
        path = tmp_path / "changed.safetensors"
        path.write_bytes(to_bytes(arrays, {"manifest": manifest}))
        return path

    return write


def test_teacher_is_frozen_and_calls_move_nothing(teacher):
    assert teacher.encoder.trainable_variables == []
    assert teacher.decoder.trainable_variables == []
    before = [v.numpy() for v in teacher.variables]
    outputs = teacher(IMAGES)
    for name, value in teacher(IMAGES).items():
        np.testing.assert_array_equal(value, outputs[name], name)
    for value, variable in zip(before, teacher.variables):
        np.testing.assert_array_equal(value, variable.numpy())


def test_layers_are_as_announced_and_only_those_wanted_are_returned(teacher):
    outputs = teacher(IMAGES)
    assert set(teacher.layers) == set(outputs) - {"prediction"}
    for name, (channels, stride) in teacher.layers.items():
        assert outputs[name].shape == (2, 16 // stride, 16 // stride, channels), name
    assert teacher.layers["block1"].stride == 4
    deeper = TaskonomyTeacher(
        "normal", Encoder((1, 1, 1, 1), 1 / 32, strides=(2, 1, 2, 2))
    )
    strides = [deeper.layers[name].stride for name in ("block1", "block2", "block3")]
    assert strides == [4, 8, 8]
    assert set(teacher(IMAGES, ("block3",))) == {"block3", "prediction"}


def test_fingerprint_is_that_of_weights_and_architecture(teacher, saved):
    again = load_teacher(saved)
    assert again.fingerprint == teacher.fingerprint
    variable = teacher_variables(again)[KERNEL]
    variable.assign_add(tf.ones_like(variable) * 1e-6)
    assert again.fingerprint != teacher.fingerprint
    one, other = (
        TaskonomyTeacher("depth_zbuffer", teacher.encoder, decoder)
        for decoder in (teacher.decoder, None)
    )
    assert len({one.fingerprint, other.fingerprint, teacher.fingerprint}) == 3


def test_outputs_are_named_and_shaped_as_documented(teacher):
    outputs = teacher(IMAGES)
    assert set(outputs) == {
        *("block1", "block2", "block3", "block4"),
        *("representation", "prediction"),
    }
    assert outputs["prediction"].shape == (2, 16, 16, 1)
    assert outputs["representation"].shape == (2, 4, 4, 8)
    encoder_only = TaskonomyTeacher("keypoints3d", networks()[0])
    assert set(encoder_only(IMAGES)) == set(outputs) - {"prediction"}


@pytest.mark.parametrize("dtype, tolerance", [("float32", 0.0), ("float16", 1e-3)])
def test_save_and_load_give_the_same_teacher(teacher, tmp_path, dtype, tolerance):
    path = tmp_path / "folder" / "t.safetensors"
    digest = save_teacher(teacher, path, dtype, {"source": "a test"})
    assert digest == sha256_of(path)
    again = load_teacher(path, digest)
    assert again.get_config() == teacher.get_config()
    assert not again.encoder.trainable_variables
    mine, other = teacher_variables(teacher), teacher_variables(again)
    assert list(mine) == list(other)
    for name, variable in mine.items():
        expected = variable.numpy()
        assert other[name].dtype == tf.float32
        difference = np.abs(expected - other[name].numpy())
        assert np.all(difference <= tolerance * np.maximum(np.abs(expected), 1e-2))
        if tolerance:
            half = expected.astype("float16").astype("float32")
            np.testing.assert_array_equal(half, other[name].numpy())
    if not tolerance:
        expected = teacher(IMAGES)["prediction"]
        np.testing.assert_array_equal(again(IMAGES)["prediction"], expected)
    manifest = read_manifest(path)
    assert manifest["format"] == 1 and manifest["task"] == "depth_zbuffer"
    assert manifest["source"] == "a test" and manifest["image_size"] == 16
    assert [p.name for p in path.parent.iterdir()] == ["t.safetensors"]


def test_save_and_load_of_an_encoder_alone(tmp_path):
    teacher = TaskonomyTeacher("vanishing_point", networks()[0])
    save_teacher(teacher, tmp_path / "t.safetensors")
    again = load_teacher(tmp_path / "t.safetensors")
    assert again.decoder is None and again.image_size is None
    assert again.count_parameters() == teacher.count_parameters()


def test_save_of_the_same_teacher_gives_the_same_bytes(teacher, saved, tmp_path):
    details = {name: name for name in "abcdefgh"}
    digests = {
        save_teacher(teacher, tmp_path / f"{number}.safetensors", details=details)
        for number in range(3)
    }
    assert len(digests) == 1 and sha256_of(saved) not in digests


def test_save_that_fails_leaves_the_old_file_and_no_other(teacher, saved, monkeypatch):
    before = saved.read_bytes()

    def fail(temporary, path):
        assert temporary.endswith(".tmp") and path == saved
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_teacher(teacher, saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_home_is_expanded(teacher, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    save_teacher(teacher, "~/folder/t.safetensors")
    assert (tmp_path / "folder" / "t.safetensors").is_file()
    assert read_manifest("~/folder/t.safetensors")["task"] == "depth_zbuffer"
    assert load_teacher("~/folder/t.safetensors").get_config() == teacher.get_config()


def test_save_in_an_unknown_precision_is_refused(teacher, tmp_path):
    with pytest.raises(ValueError, match="Received: 'int8'"):
        save_teacher(teacher, tmp_path / "t.safetensors", "int8")


def test_count_leaves_moving_statistics_out(teacher):
    counts = [
        v.shape.num_elements()
        for v in TaskonomyTeacher("normal", *networks()).variables
    ]
    moving = sum(
        v.shape.num_elements() for v in teacher.variables if "moving_" in v.name
    )
    assert moving > 0
    assert teacher.count_parameters() == sum(counts) - moving


# ------------------------------------------------------------------ what is refused


def assert_refused(path, *words, **arguments):
    with pytest.raises(UserError) as error:
        load_teacher(path, **arguments)
    message = str(error.value)
    for word in (str(path), *words):
        assert word in message
    assert message.isprintable() and len(message) < 5000


def test_missing_additional_and_misshapen_variables_are_all_named(rewrite):
    kernel = "encoder/conv1/kernel"
    gamma, beta = (f"encoder/conv1/BatchNorm/{leaf}" for leaf in ("gamma", "beta"))
    wrong = np.zeros([3, 3], "float32")
    path = rewrite(**{kernel: wrong, gamma: None, beta: None, "decoder/new": wrong})
    assert_refused(
        path,
        f"Missing (2): {beta}, {gamma}. Additional (1): decoder/new. Unfit (1): "
        f"{kernel} is float32[3, 3], must be float[7, 7, 3, 2].",
    )


def test_misshapen_and_nan_variables_are_named_together(rewrite):
    kernel, gamma = "encoder/conv1/kernel", "encoder/conv1/BatchNorm/gamma"
    integers = "encoder/conv1/BatchNorm/beta"
    path = rewrite(
        **{
            kernel: np.zeros([3, 3], "float32"),
            gamma: np.float32([1.0, np.nan]),
            integers: np.zeros(2, "int64"),
        }
    )
    assert_refused(
        path,
        "Unfit (3)",
        f"{kernel} is float32[3, 3], must be float[7, 7, 3, 2]",
        f"{gamma} holds NaN or infinite values",
        f"{integers} is int64[2]",
    )


def test_sha256_of_another_file_is_refused(saved):
    digest = sha256_of(saved)
    assert_refused(saved, digest, "0" * 64, "Fetch it again", expected_sha256="0" * 64)


def test_file_that_is_not_there_is_refused(tmp_path):
    assert_refused(tmp_path / "no.safetensors", "there is no such teacher file")
    assert_refused(tmp_path, "there is no such teacher file")


def header(text, length=None):
    """A file that is its header alone."""
    return (length or len(text)).to_bytes(8, "little") + text


def described(dtype="F32", shape=(16,), offsets=(0, 64), **further):
    entry = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
    return header(json.dumps({KERNEL: entry, **further}).encode()) + bytes(64)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<!DOCTYPE html><html><body>404</body></html>",
        b"\x80\x04\x95" + b"\x00" * 64,
        np.random.default_rng(0).bytes(5000),
        header(b"{}", 1 << 60),
        header(b"{}", 99 << 20),
        header(b"[" * 100_000),
        described("F99"),
        described(shape=(15,)),
        described(shape=(1 << 62, 1 << 62)),
        described(offsets=(0, 1 << 50)),
        described(offsets=(4, 64)),
    ],
    ids=(
        "empty html pickle noise endless_header long_header deep_header type "
        "shape_short shape_overflow offset_far hole".split()
    ),
)
def test_file_of_something_else_is_refused(tmp_path, content):
    path = tmp_path / "t.safetensors"
    path.write_bytes(content)
    assert_refused(path, "not a teacher file", "Fetch or make it again")


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.999])
def test_file_cut_off_is_refused(saved, tmp_path, share):
    content = saved.read_bytes()
    path = tmp_path / "t.safetensors"
    path.write_bytes(content[: int(len(content) * share)])
    assert_refused(path, "not a teacher file")


def test_safetensors_without_a_manifest_are_refused(saved, tmp_path):
    path = tmp_path / "t.safetensors"
    for metadata in (None, {"format": "pt"}):
        path.write_bytes(to_bytes(load_file(saved), metadata))
        assert_refused(path, "it has no manifest")


def test_file_of_an_earlier_version_is_refused_with_the_way_to_convert_it(
    teacher, saved, tmp_path, monkeypatch
):
    path = tmp_path / "normal.npz"
    manifest = json.dumps(read_manifest(saved))
    np.savez(path, manifest=np.array(manifest), **load_file(saved))
    assert_refused(path, "earlier versions", "docs/teachers.md")
    document = (ROOT / "docs" / "teachers.md").read_text(encoding="utf-8")
    lines = document.split("To convert one:")[1].split("##")[0]
    monkeypatch.chdir(tmp_path)
    exec(textwrap.dedent(lines), {})
    again = teacher_variables(load_teacher(path.with_suffix(".safetensors")))
    for name, variable in teacher_variables(teacher).items():
        np.testing.assert_array_equal(variable.numpy(), again[name].numpy())


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda m: "no json", "its manifest cannot be read"),
        (lambda m: [1, 2], "its manifest cannot be read"),
        (lambda m: {**m, "format": 2}, "its format is 2"),
        (lambda m: {**m, "task": "deepth"}, "deepth"),
        (lambda m: {**m, "task": 3}, "3"),
        (lambda m: {**m, "encoder": None}, "does not describe a teacher"),
        (lambda m: {**m, "encoder": {"units": "many"}}, "does not describe a teacher"),
        (
            lambda m: {**m, "encoder": {**m["encoder"], "width": -1}},
            "does not describe a teacher",
        ),
        (lambda m: {**m, "decoder": [1]}, "does not describe a teacher"),
        (
            lambda m: {k: v for k, v in m.items() if k != "task"},
            "does not describe a teacher",
        ),
    ],
)
def test_manifest_that_describes_no_teacher_is_refused(saved, rewrite, change, words):
    changed = change(read_manifest(saved))
    text = changed if isinstance(changed, str) else json.dumps(changed)
    assert_refused(rewrite(manifest=text), words)


@pytest.fixture
def never_built(monkeypatch):
    """Fails where a network is built, and so before it could take any memory."""
    for network in (Encoder, Decoder):
        monkeypatch.setattr(network, "from_config", lambda *_: pytest.fail("built"))


@pytest.mark.parametrize(
    "part, change, words",
    [
        ("encoder", {"width": 1e300}, "'width' is 1e+300"),
        ("encoder", {"width": True}, "'width' is True"),
        ("encoder", {"width": {"a": 1}}, "'width' is {'a': 1}"),
        ("encoder", {"width": 1.0}, "its networks would hold"),
        ("encoder", {"units": [99, 99, 99, 99]}, "are more than the file's arrays"),
        ("encoder", {"units": [1, 1, 1, 10**9]}, "'units' is [1, 1, 1, 1000000000]"),
        ("encoder", {"representation_channels": 10**9}, "is 1000000000"),
        ("encoder", {"representation_channels": 4096}, "its networks would hold"),
        ("encoder", {"image_channels": 10**9}, "'image_channels' is 1000000000"),
        ("encoder", {"name": "n" * 101}, "'name' is 'nnn"),
        ("encoder", {"\x1b[2K\nerror": 1e9}, "'\\x1b[2K\\nerror' is 1000000000.0"),
        ("decoder", {"channels": 10**9}, "'channels' is 1000000000"),
        ("decoder", {"width": 4}, "its networks would hold"),
        ("decoder", {"min_filters": 4096}, "its networks would hold"),
    ],
)
def test_network_larger_than_its_file_is_never_built(
    saved, rewrite, never_built, part, change, words
):
    manifest = read_manifest(saved)
    manifest[part].update(change)
    path = rewrite(manifest=json.dumps(manifest))
    assert_refused(path, "does not describe a teacher", words)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize(
    "value, words",
    [
        (float("inf"), "a number is Infinity"),
        (float("nan"), "a number is NaN"),
        (10**30, "a number is 1000"),
        (10**400, "a number is 1000"),
    ],
)
def test_manifest_of_numbers_that_are_none_is_refused(
    saved, rewrite, never_built, part, value, words
):
    manifest = read_manifest(saved)
    manifest[part]["width"] = value
    path = rewrite(manifest=json.dumps(manifest))
    assert_refused(path, "its manifest cannot be read", words)


@pytest.mark.parametrize(
    "text, words",
    [
        ("[" * 200_000, "nested too deeply"),
        ("3", "its manifest cannot be read"),
        ('{"format": ' + "1" * 5000 + "}", "its "),
        ('{"format": "\\u001b\\n' + "x" * 5000 + '"}', "its format is '\\x1b\\nxxx"),
        (
            '{"format": 1, "image_size": [1]}',
            "image_size must be a whole number from 1 to 65535. Received: [1]",
        ),
        ('{"format": 1, "image_size": 1e9}', "Received: 1000000000.0"),
    ],
    ids=["deep", "number", "digits", "escapes", "size list", "size"],
)
def test_manifest_of_hostile_text_is_refused(rewrite, never_built, text, words):
    assert_refused(rewrite(manifest=text), words)


def test_teacher_of_other_channels_than_its_task_is_refused(tmp_path):
    path = tmp_path / "depth_zbuffer.safetensors"
    save_teacher(TaskonomyTeacher("depth_zbuffer", *networks(7), 16), path)
    assert_refused(path, "decoder: 7 channels, depth_zbuffer has 1")


@pytest.mark.parametrize("kind", ["int32", "bool", "uint8"])
def test_array_of_another_type_is_named(rewrite, kind):
    path = rewrite(**{KERNEL: np.zeros((7, 7, 3, 2), kind)})
    assert_refused(path, "Unfit (1)", f"{KERNEL} is ", "must be float[7, 7, 3, 2]")


@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2"])
def test_array_of_a_type_that_numpy_lacks_is_refused(saved, tmp_path, kind):
    with safe_open(saved, framework="numpy") as file:
        metadata = file.metadata()
    path = tmp_path / "t.safetensors"
    path.write_bytes(described(kind, (64,), __metadata__=metadata))
    assert_refused(path, "not a teacher file", "float8")


def test_numbers_beyond_float32_are_named(rewrite):
    path = rewrite(**{KERNEL: np.full((7, 7, 3, 2), 1e300)})
    assert_refused(path, f"{KERNEL} holds NaN or infinite values")


def test_names_that_no_variable_has_stay_on_the_line_and_short(rewrite):
    path = rewrite(**{"a\x1b[2K\nerror: b" + "x" * 5000: np.zeros(1, "float32")})
    assert_refused(path, "Additional (1): a\\x1b[2K error: bxxx")


def test_damaged_headers_are_described_or_refused(saved, tmp_path):
    content, source = saved.read_bytes(), np.random.default_rng(0)
    path = tmp_path / "t.safetensors"
    refused = 0
    for _ in range(100):
        damaged = bytearray(content)
        place = source.integers(0, 8 + int.from_bytes(content[:8], "little"))
        damaged[place] ^= source.integers(1, 256)
        path.write_bytes(damaged)
        try:
            read_manifest(path)
        except UserError as error:
            refused += 1
            assert str(error).isprintable() and len(str(error)) < 1000
    assert refused > 30


def test_scores_of_classes_become_probabilities_and_keep_their_order():
    encoder = Encoder((1, 1, 1, 1), 1 / 32, (2, 2, 1, 1))
    images = tf.random.stateless_uniform((2, 16, 16, 3), (1, 2), -1, 1)
    scores = Decoder(17, 1 / 64, 2, 2)
    teacher = TaskonomyTeacher("segment_semantic", encoder, scores)
    found = teacher(images)["prediction"].numpy()
    raw = scores(encoder(images, training=False)["representation"]).numpy()
    np.testing.assert_allclose(found.sum(-1), 1.0, rtol=1e-5)
    assert found.min() > 0 and (found.argmax(-1) == raw.argmax(-1)).all()
    wanted = (raw + 1) / (raw + 1).sum(-1, keepdims=True)
    np.testing.assert_allclose(found, wanted, rtol=1e-3)
    folded = teacher.folded("float32")(images)["prediction"]
    np.testing.assert_allclose(folded, found, atol=1e-5)
    # A decoder that ends in probabilities is left as it is.
    own = Decoder(17, 1 / 64, 2, 2, activation="softmax")
    own.set_weights(scores.get_weights())
    teacher = TaskonomyTeacher("segment_semantic", encoder, own)
    np.testing.assert_allclose(
        teacher(images)["prediction"], tf.nn.softmax(tf.atanh(raw)), atol=1e-4
    )
