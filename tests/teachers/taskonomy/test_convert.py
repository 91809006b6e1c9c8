"""From published files to teachers: equal to the original, whatever the format.

Files at full size, written by tools/write_teacher_files.py by the rule of the reference
data. Damaged and mistaken ones: tests/faults/bad_input/..
"""

import functools
import importlib.util
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.errors import UserError
from soka_tf.networks.decoder import Decoder
from soka_tf.networks.discriminator import Discriminator
from soka_tf.networks.encoder import ENCODER_26, ENCODER_50, Encoder
from soka_tf.networks.named_variables import assign_variables, named_variables
from soka_tf.teachers import load_teacher, save_teacher
from soka_tf.teachers.taskonomy import parity, taskbank
from soka_tf.teachers.taskonomy.network import teacher_variables
from soka_tf.teachers.taskonomy.published_teacher import fill
from soka_tf.teachers.taskonomy.teacher_file import read_manifest
from soka_tf.teachers.tf_checkpoint import read_checkpoint
from tests import golden_weights
from tests.tools import load_tool, run_tool

SALT = "-held-out"
IMAGES = np.random.default_rng(5).uniform(-1, 1, (2, 256, 256, 3)).astype(np.float32)


HAS_TORCH = importlib.util.find_spec("torch") is not None


def write(folder, task, *arguments):
    """Writes a task's files; returns checkpoint, encoder's file, decoder's file."""
    tool = load_tool("write_teacher_files")
    if HAS_TORCH:
        arguments = ("--pth_layout=legacy", *arguments)
    else:
        arguments = [a for a in arguments if not a.startswith("--pth_layout")]
    tool.FLAGS(["write", f"--task={task}", f"--out_dir={folder}", *arguments])
    tool.main()
    taskbank_folder = folder / taskbank.taskbank_name(task)
    files = [sorted(folder.glob(f"{task}_{p}-*.pth")) for p in ("encoder", "decoder")]
    return [
        taskbank_folder / "model.permanent-ckpt",
        *(f[0] if f else None for f in files),
    ]


@pytest.fixture(scope="module", autouse=True)
def drawn_once():
    """Most tasks' encoders have the same weights: the rule knows no task."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "draw", golden_weights.draw)
        yield
    golden_weights.draw.cache_clear()
    load_once.cache_clear()


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Returns a function (task, *arguments of the writer) -> files, written once."""
    written = {}

    def files(task, *arguments):
        if (task, arguments) not in written:
            folder = tmp_path_factory.mktemp("published")
            written[task, arguments] = write(folder, task, *arguments)
        return written[task, arguments]

    return files


@pytest.fixture(scope="module")
def converted(tmp_path_factory, published):
    """Returns a function (task, format, *writer's arguments) -> its teacher, once."""
    made = {}

    def get(task, kind, *arguments):
        key = (task, kind, arguments)
        if key not in made:
            if kind == "visual_prior" and not HAS_TORCH:
                pytest.skip("needs torch, of the extra 'convert'")
            checkpoint, encoder, decoder = published(task, *arguments)
            flags = {"taskbank_checkpoint": checkpoint}
            if kind == "visual_prior":
                flags = {"visual_prior_encoder": encoder}
                if decoder:
                    flags["visual_prior_decoder"] = decoder
            made[key] = convert(task, tmp_path_factory.mktemp("teacher"), **flags)
        return made[key]

    return get


def read(checkpoint):
    prefix = str(checkpoint)
    return read_checkpoint(prefix, taskbank.checkpoint_files(prefix))


def convert(task, folder, **flags):
    """Runs the tool; returns the teacher's file."""
    tool = load_tool("convert_teacher")
    tool.FLAGS(
        ["convert", f"--task={task}", f"--out={folder}"]
        + [f"--{name}={value}" for name, value in flags.items()]
    )
    assert tool.main() == 0
    (path,) = folder.iterdir()
    return path


# Loading takes seconds; who changes a teacher loads one of his own.
load_once = functools.lru_cache(maxsize=None)(load_teacher)


def assert_same_bits(one, other):
    one, other = teacher_variables(one), teacher_variables(other)
    assert list(one) == list(other)
    for name, variable in one.items():
        assert variable.numpy().tobytes() == other[name].numpy().tobytes(), name


def assert_drawn(teacher, salt=""):
    for name, variable in teacher_variables(teacher).items():
        scope, path = name.split("/", 1)
        drawn = parity.draw(taskbank.tf1_name(scope, path), tuple(variable.shape), salt)
        assert variable.numpy().tobytes() == drawn.tobytes(), name


HELD_OUT = ("--pth_layout=zip", f"--salt={SALT}")
SMALL = ("--encoder=26", "--slots")


@pytest.mark.slow
@pytest.mark.parametrize(
    "task, arguments",
    [
        ("normal", ()),
        ("normal", SMALL),
        ("colorization", ("--pth_layout=zip",)),
        ("point_matching", ()),
    ],
)
def test_both_formats_give_the_same_bits(converted, task, arguments):
    teachers = [
        load_once(converted(task, kind, *arguments))
        for kind in ("taskbank", "visual_prior")
    ]
    assert_same_bits(*teachers)
    assert_drawn(teachers[0])
    expected = ENCODER_26 if arguments == SMALL else ENCODER_50
    assert tuple(teachers[0].encoder.get_config()["units"]) == expected


@pytest.mark.slow  # without files: test_root_of_a_scope_...
@pytest.mark.parametrize(
    "task, root", [("vanishing_point", "feedforward/"), ("point_matching", "siamese/")]
)
def test_encoders_under_feedforward_and_siamese_are_found(
    published, converted, task, root
):
    checkpoint, _, no_decoder = published(task)
    teacher = load_once(converted(task, "taskbank"))
    assert no_decoder is None and teacher.decoder is None
    assert taskbank.root_of(read(checkpoint), "encoder") == root
    assert_drawn(teacher)


@pytest.mark.slow  # in every run: test_check_passes_by_its_exit_code_...
@pytest.mark.parametrize(
    "task, arguments",
    [
        ("normal", ()),
        ("normal", SMALL),
        ("depth_zbuffer", ()),
        ("segment_semantic", ()),
        ("colorization", ("--pth_layout=zip",)),
        ("point_matching", ()),
    ],
)
def test_converted_teacher_equals_the_original(
    converted, shared_folder, task, arguments
):
    teacher = load_once(converted(task, "taskbank", *arguments))
    rows = parity.check(teacher, shared_folder / "golden")
    assert {row.runtime for row in rows} == {"tf15", "tf215"}
    assert [row for row in rows if not row.passed] == []
    ends = {row.layer: row for row in rows if row.runtime == "tf15"}
    assert ends["encoder_output"].tolerance == 5e-5
    if teacher.decoder is not None:
        # The 26 was recorded with its decoder by one runtime only.
        both = {row.layer: row for row in rows}
        assert both["decoder/decoder_output"].tolerance <= 5e-5


@pytest.mark.slow
def test_loaded_teacher_of_held_out_weights_equals_its_networks(converted):
    kind = "visual_prior" if HAS_TORCH else "taskbank"
    teacher = load_once(converted("depth_zbuffer", kind, *HELD_OUT))
    assert_drawn(teacher, SALT)
    outputs = teacher(IMAGES)
    assert outputs["block3"].shape == (2, 16, 16, 1024)
    assert outputs["representation"].shape == (2, 16, 16, 8)
    assert outputs["prediction"].shape == (2, 256, 256, 1)
    networks = {"encoder": Encoder(), "decoder": Decoder(1)}
    for scope, network in networks.items():
        assign_variables(
            network,
            {
                path: parity.draw(
                    taskbank.tf1_name(scope, path), tuple(variable.shape), SALT
                )
                for path, variable in named_variables(network).items()
            },
        )
    features = networks["encoder"](IMAGES)
    for layer in ("block3", "representation"):
        np.testing.assert_array_equal(outputs[layer], features[layer])
    prediction = networks["decoder"](features["representation"])
    np.testing.assert_array_equal(outputs["prediction"], prediction)
    assert not teacher.encoder.trainable_variables


@pytest.mark.slow
def test_colorization_is_shown_the_lightness_of_colours(converted):
    path = converted("colorization", "taskbank", "--pth_layout=zip")
    teacher = load_once(path)
    outputs = teacher(IMAGES[:1])
    assert outputs["prediction"].shape == (1, 64, 64, 313)
    grey = np.full((1, 256, 256, 3), 0.2, np.float32)
    same_lightness = teacher(grey)["representation"]
    lightness = tf.fill((1, 256, 256, 1), textbook_lightness(0.2))
    np.testing.assert_allclose(
        same_lightness, teacher.encoder(lightness)["representation"], atol=1e-4
    )


def textbook_lightness(value):
    """CIE L of a grey in [-1, 1], scaled to [-1, 1], by the textbook."""
    linear = ((((value + 1) / 2) + 0.055) / 1.055) ** 2.4
    return (116 * linear ** (1 / 3) - 16) / 50 - 1


@pytest.mark.slow
def test_manifest_tells_source_and_no_path(published, converted):
    manifest = read_manifest(converted("normal", "taskbank"))
    assert manifest["task"] == "normal"
    assert manifest["source"]["format"] == "taskbank"
    assert set(manifest["source"]["files"]) == {
        "model.permanent-ckpt.index",
        "model.permanent-ckpt.data-00000-of-00001",
    }
    assert manifest["converter"].startswith("soka_tf ")
    assert len(manifest["converted"]) == len("2020-01-01")


def test_manifest_tells_the_files_of_visual_prior(published, converted):
    manifest = read_manifest(converted("normal", "visual_prior"))
    _, encoder, decoder = published("normal")
    assert manifest["source"]["files"] == {
        file.name: file.stem.split("-")[1] for file in (encoder, decoder)
    }
    assert manifest["source"]["names_verified"] is True
    assert manifest["source"]["published"] is False
    assert "/" not in json.dumps(manifest["source"])


@pytest.mark.slow
def test_check_passes_by_its_exit_code_and_shows_every_layer(
    published, shared_folder, tmp_path, capsys
):
    checkpoint, *_ = published("normal")
    done = run_tool(
        "convert_teacher",
        "--task=rgb2sfnorm",
        f"--taskbank_checkpoint={checkpoint.parent}",
        f"--out={tmp_path}",
        f"--check={shared_folder / 'golden'}",
        capsys=capsys,
    )
    assert done.code == 0, done.err
    assert (tmp_path / "normal.safetensors").is_file()
    for layer in (
        "encoder/conv1 ",
        "encoder/block4/unit_3/bottleneck_v1/conv3 ",
        "decoder/deconv14 ",
    ):
        assert layer in done.out
    assert "passed against tf15" in done.out and "TOO FAR" not in done.out


@pytest.mark.slow
def test_check_fails_by_its_exit_code_and_names_the_first_layer(
    converted, shared_folder, tmp_path, capsys
):
    path = tmp_path / "normal.safetensors"
    teacher = load_teacher(converted("normal", "taskbank"))
    layer = teacher.encoder.get_layer("block2/unit_3/bottleneck_v1/conv2/BatchNorm")
    layer.beta.assign_add(np.full(128, 1e-3, np.float32))
    save_teacher(teacher, path)
    golden = shared_folder / "golden"
    done = run_tool(
        "convert_teacher", f"--out={path}", f"--check={golden}", capsys=capsys
    )
    assert done.code == 1
    assert "the first is encoder/block2/unit_3/bottleneck_v1/conv2 (tf15)" in done.out


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda a: a.pop("encoder_output"), "has no reference for encoder_output"),
        (
            lambda a: a.update(encoder_output=a["encoder_output"][:1]),
            r"all of encoder_output is float32 \[1, 16, 16, 8\]",
        ),
        (lambda a: a.update(encoder_output=np.full((2, 16, 16, 8), "x")), "is <U1"),
        (lambda a: a["stats_names"].__setitem__(0, "encoder/none"), "encoder/none"),
        (lambda a: a.clear(), "has no reference for encoder_output"),
        (None, "encoder50_eval.npz: the reference data is damaged"),
    ],
)
def test_reference_data_that_does_not_fit_is_refused(
    converted, shared_folder, tmp_path, change, words
):
    golden, copy = shared_folder / "golden", tmp_path / "network_tf15"
    copy.mkdir()
    shutil.copy(golden / "photo_test_256.png", tmp_path)
    for name in ("encoder50_eval.npz", "decoder_c3_eval.npz"):
        shutil.copy(golden / "network_tf15" / name, copy)
    path = copy / "encoder50_eval.npz"
    path.chmod(0o644)
    if change is None:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
    else:
        with np.load(path) as file:
            arrays = dict(file)
        change(arrays)
        np.savez(path, **arrays)
    teacher = load_once(converted("normal", "taskbank"))
    with pytest.raises(UserError, match=words):
        parity.check(teacher, tmp_path)


def test_discriminator_of_a_checkpoint_is_the_originals(published):
    checkpoint, *_ = published("normal")
    network = Discriminator(3)
    arrays = read(checkpoint)
    arrays = {n: a for n, a in arrays.items() if n.startswith("discriminator/")}
    fill({"discriminator": network}, arrays, taskbank.tf1_name, str(checkpoint))
    for path, value in golden_weights.golden_values(network, "discriminator").items():
        got = named_variables(network)[path].numpy()
        assert got.tobytes() == value.tobytes(), path
