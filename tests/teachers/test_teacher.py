"""Teachers are frozen, and their files are read whole or refused by name."""

import io
import json
import pickle
import struct
import zipfile

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.errors import UserError
from soka_tf.networks.decoder import Decoder
from soka_tf.networks.encoder import Encoder
from soka_tf.teachers.teacher import (
    Teacher,
    load_teacher,
    read_manifest,
    save_teacher,
    sha256_of,
    teacher_variables,
)

IMAGES = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype("float32")


def networks(channels=1):
    encoder = Encoder(units=(1, 1, 1, 1), width=1 / 32, strides=(2, 2, 1, 1))
    return encoder, Decoder(channels, width=1 / 64, upsamplings=2, min_filters=3)


def build(task="depth_zbuffer"):
    teacher = Teacher(task, *networks(), image_size=16)
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
    path = tmp_path_factory.mktemp("teacher") / "depth_zbuffer.npz"
    save_teacher(teacher, path)
    return path


@pytest.fixture
def rewrite(saved, tmp_path):
    """Returns a function that writes the file anew with its arrays changed."""

    def write(**changes):
        with np.load(saved) as file:
            arrays = dict(file)
        for name, value in changes.items():
            if value is None:
                del arrays[name]
            else:
                arrays[name] = value
        path = tmp_path / "changed.npz"
        np.savez(path, **arrays)
        return path

    return write


def test_teacher_is_frozen_in_every_sense(teacher):
    assert not teacher.trainable
    assert teacher.trainable_variables == []
    assert teacher.encoder.trainable_variables == []
    assert teacher.decoder.trainable_variables == []
    with pytest.raises(ValueError, match="A teacher is frozen"):
        teacher.trainable = True
    teacher.trainable = False

    before = [v.numpy() for v in teacher.variables]
    training = teacher(IMAGES, training=True)
    for name, value in teacher(IMAGES, training=False).items():
        np.testing.assert_array_equal(value, training[name], name)
    for value, variable in zip(before, teacher.variables):
        np.testing.assert_array_equal(value, variable.numpy())


def test_outputs_are_named_and_shaped_as_documented(teacher):
    outputs = teacher(IMAGES)
    assert set(outputs) == {
        *("block1", "block2", "block3", "block4"),
        *("representation", "prediction"),
    }
    assert outputs["prediction"].shape == (2, 16, 16, 1)
    assert outputs["representation"].shape == (2, 4, 4, 8)
    encoder_only = Teacher("keypoints3d", networks()[0])
    assert set(encoder_only(IMAGES)) == set(outputs) - {"prediction"}


@pytest.mark.parametrize("dtype, tolerance", [("float32", 0.0), ("float16", 1e-3)])
def test_save_and_load_give_the_same_teacher(teacher, tmp_path, dtype, tolerance):
    path = tmp_path / "folder" / "t.npz"
    digest = save_teacher(teacher, path, dtype, {"source": "a test"})
    assert digest == sha256_of(path)
    again = load_teacher(path, digest)
    assert again.get_config() == teacher.get_config()
    assert not again.trainable_variables
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
    assert [p.name for p in path.parent.iterdir()] == ["t.npz"]


def test_save_and_load_of_an_encoder_alone(tmp_path):
    teacher = Teacher("vanishing_point", networks()[0])
    save_teacher(teacher, tmp_path / "t.npz")
    again = load_teacher(tmp_path / "t.npz")
    assert again.decoder is None and again.image_size is None
    assert again.count_parameters() == teacher.count_parameters()


def test_save_that_fails_leaves_the_old_file_and_no_other(teacher, saved, monkeypatch):
    before = saved.read_bytes()

    def fail(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(OSError, match="disk full"):
        save_teacher(teacher, saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_save_in_progress_is_not_listed_as_a_teacher(teacher, tmp_path, monkeypatch):
    listed = []

    def look(file, **arrays):
        listed.extend(p.suffix for p in tmp_path.iterdir())

    monkeypatch.setattr(np, "savez_compressed", look)
    save_teacher(teacher, tmp_path / "t.npz")
    assert listed == [".tmp"]


def test_home_is_expanded(teacher, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    save_teacher(teacher, "~/folder/t.npz")
    assert (tmp_path / "folder" / "t.npz").is_file()
    assert read_manifest("~/folder/t.npz")["task"] == "depth_zbuffer"
    assert load_teacher("~/folder/t.npz").get_config() == teacher.get_config()


def test_save_in_an_unknown_precision_is_refused(teacher, tmp_path):
    with pytest.raises(ValueError, match="Received: 'int8'"):
        save_teacher(teacher, tmp_path / "t.npz", "int8")


def test_count_leaves_moving_statistics_out(teacher):
    counts = [v.shape.num_elements() for v in Teacher("normal", *networks()).variables]
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
    assert_refused(tmp_path / "no.npz", "there is no such teacher file")
    assert_refused(tmp_path, "there is no such teacher file")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<!DOCTYPE html><html><body>404</body></html>",
        b"\x80\x04\x95" + b"\x00" * 64,
        b"PK\x03\x04" + b"\x00" * 100,
        np.random.default_rng(0).bytes(5000),
    ],
    ids=["empty", "html", "pickle", "zip_header", "noise"],
)
def test_file_of_something_else_is_refused(tmp_path, content):
    path = tmp_path / "t.npz"
    path.write_bytes(content)
    assert_refused(path, "not a teacher file")


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.999])
def test_file_cut_off_is_refused(saved, tmp_path, share):
    content = saved.read_bytes()
    path = tmp_path / "t.npz"
    path.write_bytes(content[: int(len(content) * share)])
    assert_refused(path, "not a teacher file")


def test_file_with_flipped_bytes_is_refused(saved, tmp_path):
    content = bytearray(saved.read_bytes())
    with zipfile.ZipFile(saved) as archive:
        entry = archive.getinfo("encoder/conv1/kernel.npy")
    middle = entry.header_offset + entry.compress_size // 2 + 60
    content[middle : middle + 20] = bytes(20)
    path = tmp_path / "t.npz"
    path.write_bytes(content)
    assert_refused(path, "encoder/conv1/kernel cannot be read")


class Bomb:
    """Unpickled, it fails the test."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle of a teacher's file was executed",))


@pytest.mark.parametrize("name", ["encoder/conv1/kernel", "manifest"])
def test_pickle_inside_the_file_is_never_executed(saved, tmp_path, name):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "|O", "fortran_order": False, "shape": (1,)}
    )
    stream.write(pickle.dumps(Bomb()))
    path = tmp_path / "t.npz"
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.namelist():
            mine = entry == f"{name}.npy"
            new.writestr(entry, stream.getvalue() if mine else old.read(entry))
    assert_refused(path, "pickle")


def test_plain_array_and_npz_without_manifest_are_refused(tmp_path, rewrite):
    path = tmp_path / "array.npz"
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))
    assert_refused(path, "it has no manifest")
    assert_refused(rewrite(manifest=None), "it has no manifest")


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
    assert_refused(rewrite(manifest=np.array(text)), words)


@pytest.fixture
def never_built(monkeypatch):
    """Fails where a network is built, and so before it could take any memory."""
    for network in (Encoder, Decoder):
        monkeypatch.setattr(network, "from_config", lambda *_: pytest.fail("built"))


@pytest.mark.parametrize(
    "part, change, words",
    [
        ("encoder", {"width": float("inf")}, "'width' is inf"),
        ("encoder", {"width": float("nan")}, "'width' is nan"),
        ("encoder", {"width": 1e300}, "'width' is 1e+300"),
        ("encoder", {"width": True}, "'width' is True"),
        ("encoder", {"width": {"a": 1}}, "'width' is {'a': 1}"),
        ("encoder", {"width": 1.0}, "its networks would hold"),
        ("encoder", {"units": [99, 99, 99, 99]}, "are more than the file's arrays"),
        ("encoder", {"units": [1, 1, 1, 10**9]}, "'units' is [1, 1, 1, 1000000000]"),
        ("encoder", {"representation_channels": 10**9}, "is 1000000000"),
        ("encoder", {"representation_channels": 10**400}, "is 1000"),
        ("encoder", {"representation_channels": 4096}, "its networks would hold"),
        ("encoder", {"image_channels": 10**9}, "'image_channels' is 1000000000"),
        ("encoder", {"name": "n" * 101}, "'name' is 'nnn"),
        ("encoder", {"\x1b[2K\nerror": 1e9}, "'\\x1b[2K\\nerror' is 1000000000.0"),
        ("decoder", {"channels": 10**9}, "'channels' is 1000000000"),
        ("decoder", {"width": 4}, "its networks would hold"),
        ("decoder", {"min_filters": 4096}, "its networks would hold"),
        ("decoder", {"representation_channels": 10**30}, "is 1000"),
    ],
)
def test_network_larger_than_its_file_is_never_built(
    saved, rewrite, never_built, part, change, words
):
    manifest = read_manifest(saved)
    manifest[part].update(change)
    path = rewrite(manifest=np.array(json.dumps(manifest)))
    assert_refused(path, "does not describe a teacher", words)


@pytest.mark.parametrize(
    "text, words",
    [
        ("[" * 200_000, "recursion"),
        ("3", "its manifest cannot be read"),
        ('{"format": ' + "1" * 5000 + "}", "its "),
        ('{"format": "\\u001b\\n' + "x" * 5000 + '"}', "its format is '\\x1b\\nxxx"),
        ('{"format": 1, "image_size": [1]}', "image_size is [1]"),
        ('{"format": 1, "image_size": 1e9}', "image_size is 1000000000.0"),
        ('{"format": 1} ' + " " * (1 << 20), "its manifest is longer than"),
    ],
    ids=["deep", "number", "digits", "escapes", "size list", "size", "long"],
)
def test_manifest_of_hostile_text_is_refused(rewrite, never_built, text, words):
    assert_refused(rewrite(manifest=np.array(text)), words)


def test_manifest_that_is_no_text_is_refused(rewrite):
    assert_refused(rewrite(manifest=np.zeros(0)), "its manifest cannot be read")


KERNEL = "encoder/conv1/kernel"


def member_of(header, rest=bytes(64), version=1):
    """A .npy whose header is any text."""
    form = {1: "<H", 2: "<I"}[version]
    start = b"\x93NUMPY" + bytes([version, 0])
    return start + struct.pack(form, len(header)) + header + rest


def shaped(shape, kind="'<f4'"):
    text = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}}}\n"
    return member_of(text.encode())


@pytest.fixture
def replace_member(saved, tmp_path):
    """Returns a function that puts other bytes in the place of a member."""

    def write(content, name=KERNEL, stored_as=None):
        path = tmp_path / "t.npz"
        with zipfile.ZipFile(saved) as old, zipfile.ZipFile(path, "w") as new:
            for member in old.namelist():
                if member != f"{name}.npy":
                    new.writestr(member, old.read(member))
            new.writestr(stored_as or f"{name}.npy", content)
        return path

    return write


@pytest.mark.parametrize(
    "content, words",
    [
        (shaped((10**12,)), "its header tells of (1000000000000,) 'float32', it has"),
        (shaped((10**30,)), "its header tells of"),
        (shaped((-16,)), "its header tells of"),
        (shaped((0, 10**30)), "its header tells of"),
        (shaped((15,)), "its header tells of"),
        (shaped("(" * 5000 + ")" * 5000), "cannot be read"),
        (shaped("-" * 8000 + "1"), "cannot be read"),
        (shaped((16,), "'<f\\x1b[2K'"), "cannot be read"),
        (shaped((16,), "'|O'"), "a pickle, which is never read"),
        (shaped((16,), "[('a', '|O')]"), "a pickle, which is never read"),
        (member_of(b""), "cannot be read"),
        (member_of(b"\xff" * 9), "cannot be read"),
        (b"\x93NUMPY\1\0\xff\xff", "cannot be read"),
        (b"\x93NUMPY\2\0\xff\xff\xff\xff", "its header is of version (2, 0)"),
        (b"", "cannot be read"),
    ],
)
def test_array_whose_header_lies_is_refused(
    replace_member, never_built, content, words
):
    assert_refused(replace_member(content), KERNEL, words)


@pytest.mark.parametrize(
    "kind", ["<U2", "S4", "M8[s]", "c8", "?", [("a", "<f4"), ("b", "<i4")]]
)
def test_array_of_a_strange_type_is_named(rewrite, kind):
    path = rewrite(**{KERNEL: np.zeros((7, 7, 3, 2), kind)})
    assert_refused(path, "Unfit (1)", f"{KERNEL} is ", "must be float[7, 7, 3, 2]")


def test_numbers_beyond_float32_are_named(rewrite):
    path = rewrite(**{KERNEL: np.full((7, 7, 3, 2), 1e300)})
    assert_refused(path, f"{KERNEL} holds NaN or infinite values")


def test_arrays_of_the_other_byte_order_are_read(rewrite, teacher):
    value = teacher_variables(teacher)[KERNEL].numpy()
    again = load_teacher(rewrite(**{KERNEL: value.astype(">f4")}))
    np.testing.assert_array_equal(teacher_variables(again)[KERNEL].numpy(), value)


def test_array_that_is_not_wanted_is_never_read(rewrite, monkeypatch):
    path = rewrite(**{"decoder/new": np.zeros(5, "float32")})
    read, shapes = np.lib.format.read_array, []

    def spy(*arguments, **options):
        shapes.append(read(*arguments, **options).shape)
        return np.zeros(shapes[-1]) if shapes[-1] else read_text

    with np.load(path) as file:
        read_text = file["manifest"]
    monkeypatch.setattr(np.lib.format, "read_array", spy)
    assert_refused(path, "Additional (1): decoder/new.")
    assert (5,) not in shapes


def test_file_that_unpacks_to_far_more_than_itself_is_refused(
    saved, tmp_path, never_built
):
    path = tmp_path / "t.npz"
    path.write_bytes(saved.read_bytes())
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("additional.npy", "w", force_zip64=True) as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (160 << 20,)}
            np.lib.format.write_array_header_1_0(file, header)
            for _ in range(160):
                file.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 20
    assert_refused(path, "it would unpack to")


@pytest.mark.parametrize(
    "stored_as, words",
    [
        ("a\x1b[2K\nerror: b.npy", "'a\\x1b[2K\\nerror: b' is no variable's name"),
        ("x" * 5000 + ".npy", "is no variable's name"),
        ("manifest", "a name stands twice"),
    ],
)
def test_names_that_no_variable_has_are_refused(replace_member, stored_as, words):
    assert_refused(replace_member(b"", stored_as=stored_as), words)


@pytest.mark.parametrize(
    "offset, value, words",
    [
        (8, 1, "encrypted"),
        (10, 99, "compressed by method 99"),
        (10, zipfile.ZIP_LZMA, "compressed by method 14"),
    ],
)
def test_member_that_is_encrypted_or_packed_otherwise_is_refused(
    saved, tmp_path, never_built, offset, value, words
):
    content = bytearray(saved.read_bytes())
    first = content.index(b"PK\1\2")
    content[content.index(b"PK\1\2", first + 1) + offset] = value
    path = tmp_path / "t.npz"
    path.write_bytes(content)
    assert_refused(path, words)


def test_damaged_files_are_described_or_refused(saved, tmp_path):
    content, source = saved.read_bytes(), np.random.default_rng(0)
    directory = content.index(b"PK\1\2")
    path = tmp_path / "t.npz"
    refused = 0
    for _ in range(100):
        damaged = bytearray(content)
        for start in (0, directory):
            place = source.integers(start, len(damaged))
            damaged[place] ^= source.integers(1, 256)
        path.write_bytes(damaged)
        try:
            read_manifest(path)
        except UserError as error:
            refused += 1
            assert str(error).isprintable() and len(str(error)) < 1000
    assert refused > 30
