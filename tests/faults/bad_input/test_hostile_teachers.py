"""Damaged and mistaken files: one clear line each, and nothing left behind.

Files that only their reader can refuse: test_teacher.py, test_torch_file.py and
test_tf_checkpoint.py.
"""

import os
import shutil

import numpy as np
import pytest

from soka_tf.data.filesystem import sha256_of
from soka_tf.tasks import get_task
from soka_tf.teachers import save_teacher
from soka_tf.teachers.taskonomy import parity, taskbank, visual_prior
from soka_tf.teachers.taskonomy.network import teacher_variables
from soka_tf.teachers.tf_checkpoint import read_checkpoint
from tests import golden_weights
from tests.teachers.test_pool import build
from tests.tools import load_tool, run_tool

TASK = "depth_zbuffer"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Folder of a good checkpoint, and what good PyTorch files would hold, by part."""
    folder = tmp_path_factory.mktemp("published")
    tool = load_tool("write_teacher_files")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "draw", golden_weights.draw)
        tool.FLAGS(["write", f"--task={TASK}", f"--out_dir={folder}"])
        networks = tool.draw_networks(get_task(TASK))
        tool.write_checkpoint(TASK, networks, str(folder))
    golden_weights.draw.cache_clear()
    parts = ("encoder", "decoder")
    return folder, {part: tool.torch_arrays(part, networks[part]) for part in parts}


@pytest.fixture
def files(good, tmp_path, monkeypatch):
    """Good files that a test may harm: links, replaced and never written through.

    The PyTorch files are stand-ins, so that no torch is needed: `arrays` has what is
    read from each, by its path.
    """
    folder, states = good

    class Files:
        folder = tmp_path / "files"
        prefix = folder / "rgb2depth" / "model.permanent-ckpt"
        index = prefix.with_name("model.permanent-ckpt.index")
        data = prefix.with_name("model.permanent-ckpt.data-00000-of-00001")
        arrays = {}

        def write(path, arrays):
            """Writes the stand-in of a file of these arrays."""
            path.write_bytes(path.stem.encode())
            Files.arrays[str(path)] = arrays
            return path

        def rename(path, name):
            renamed = path.rename(path.with_name(name))
            Files.arrays[str(renamed)] = Files.arrays[str(path)]
            return renamed

    shutil.copytree(folder, Files.folder, copy_function=os.link)
    for part, state in states.items():
        path = Files.write(Files.folder / f"{TASK}_{part}.pth", state)
        name = f"{TASK}_{part}-{sha256_of(path)}.pth"
        setattr(Files, part, Files.rename(path, name))
    monkeypatch.setattr(visual_prior, "read_torch_file", Files.arrays.__getitem__)
    return Files


def replace(path, content):
    """Gives a path other bytes; the good file behind the link stays."""
    path.unlink()
    path.write_bytes(content)
    return path


@pytest.fixture
def refused(tmp_path, capsys):
    """Returns a function that expects one line of error and nothing written."""

    def run(*words, task="depth_zbuffer", code=2, **flags):
        out_dir = tmp_path / "out"
        out_dir.mkdir(exist_ok=True)
        kept = out_dir / "kept.safetensors"
        kept.write_bytes(b"the teacher of before")
        done = run_tool(
            "convert_teacher",
            f"--task={task}",
            f"--out={kept}",
            *(f"--{name}={value}" for name, value in flags.items()),
            capsys=capsys,
        )
        assert done.code == code
        assert done.err.startswith("convert_teacher: error: "), done.err
        assert done.err.count("\n") == 1, done.err
        assert "Traceback" not in done.err
        for word in words:
            assert str(word) in done.err
        assert [path.name for path in out_dir.iterdir()] == ["kept.safetensors"]
        assert kept.read_bytes() == b"the teacher of before"
        return done.err

    return run


# --- PyTorch files -------------------------------------------------------------------


def test_good_arrays_become_the_teacher(files):
    teacher, _ = visual_prior.load_visual_prior(TASK, files.encoder, files.decoder)
    for name, variable in teacher_variables(teacher).items():
        own = taskbank.tf1_name(*name.split("/", 1))
        drawn = parity.draw(own, tuple(variable.shape))
        assert variable.numpy().tobytes() == drawn.tobytes(), name


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_empty_torch_file_is_refused(files, refused, part):
    path = replace(getattr(files, part), b"")
    flags = {"visual_prior_encoder": files.encoder, f"visual_prior_{part}": path}
    refused(path, "the file is empty", **flags)


def test_sha256_of_another_file_is_refused(files, refused):
    digest = sha256_of(files.encoder)
    path = files.rename(files.encoder, f"depth_zbuffer_encoder-{'0' * 64}.pth")
    refused(path, digest, "0" * 64, visual_prior_encoder=path)


@pytest.mark.parametrize(
    "name",
    [
        f"depth_zbuffer_encoder-{'0' * 64} (1).pth",
        f"depth_zbuffer_encoder-{'A' * 64}.pth",
        f"DEPTH_ZBUFFER_encoder-{'0' * 8}.PTH",
    ],
)
def test_sha256_is_compared_whatever_became_of_the_name(files, refused, name):
    path = files.rename(files.encoder, name)
    refused(path, "its sha256 is", visual_prior_encoder=path)


def test_published_file_of_another_task_is_known_by_its_content(
    files, refused, monkeypatch
):
    digest = sha256_of(files.encoder)
    names = (f"normal_encoder-{digest}.pth",)
    monkeypatch.setattr(visual_prior, "published_files", lambda: names)
    path = files.rename(files.encoder, "encoder.pth")
    refused(
        path,
        "its content says that it is the encoder of 'normal'",
        visual_prior_encoder=path,
    )


def test_names_from_a_file_stay_on_the_line_and_short(files, refused):
    additional = {"a\n\x1b[31mb": np.zeros(1), "long" * 2000: np.zeros(1)}
    arrays = {**files.arrays[str(files.encoder)], **additional}
    path = files.write(files.folder / "encoder.pth", arrays)
    message = refused("Additional (2)", visual_prior_encoder=path)
    assert "\x1b" not in message and len(message) < 2000


def test_impossible_values_are_refused(files, refused):
    good = files.arrays[str(files.encoder)]
    for name, value, words in (
        ("bn1.running_var", np.full(64, -1.0), "encoder: bn1.running_var is a var"),
        ("bn1.bias", np.full(64, np.inf), "encoder: bn1.bias holds NaN or infinite"),
        ("bn1.num_batches_tracked", np.zeros(9), "Additional (1): encoder: bn1.num"),
    ):
        path = files.write(files.folder / "encoder.pth", {**good, name: value})
        refused(words, visual_prior_encoder=path)


def test_all_variables_are_listed_however_many(files, refused):
    good = files.arrays[str(files.encoder)]
    arrays = {f"other.{name}": value for name, value in good.items()}
    path = files.write(files.folder / "encoder.pth", arrays)
    message = refused("Missing (270)", visual_prior_encoder=path)
    assert message.count("encoder: layer") == 270 - 10


def test_file_of_another_task_is_refused_by_its_name(files, refused):
    refused(
        files.encoder,
        "the encoder of 'depth_zbuffer', but the encoder of 'normal' is wanted",
        "https://",
        task="normal",
        visual_prior_encoder=files.encoder,
    )
    path = files.rename(files.encoder, "noraml_encoder-01234567.pth")
    refused(path, "its name has no task", visual_prior_encoder=path)


def test_encoder_and_decoder_swapped_are_refused(files, refused):
    refused(
        files.decoder,
        "the decoder of 'depth_zbuffer', but the encoder",
        visual_prior_encoder=files.decoder,
        visual_prior_decoder=files.encoder,
    )


def test_decoder_of_another_task_under_a_lying_name_is_refused(files, refused):
    path = files.rename(files.decoder, "decoder.pth")
    encoder = files.rename(files.encoder, "encoder.pth")
    refused(
        path,
        "Missing (0): none. Additional (0): none. Unfit (2): "
        "decoder: decoder_output.0.bias is float32[1], must be float[3], "
        "decoder: decoder_output.0.weight is float32[1, 16, 3, 3], "
        "must be float[3, 16, 3, 3].",
        task="normal",
        visual_prior_encoder=encoder,
        visual_prior_decoder=path,
    )


def test_variables_missing_additional_and_misshapen_are_listed_together(files, refused):
    encoder = dict(files.arrays[str(files.encoder)])
    decoder = dict(files.arrays[str(files.decoder)])
    missing = ["layer1.0.bn1.weight", "layer4.2.conv3.weight", "compress_bn.bias"]
    for name in missing:
        del encoder[name]
    encoder["groupnorm.weight"] = np.zeros(8, np.float32)
    encoder["conv1.weight"] = np.zeros((64, 3, 5, 5), np.float32)
    decoder["conv2.1.running_mean"] = np.full(1024, np.nan, np.float32)
    decoder["extra"] = np.zeros(1, np.int64)
    refused(
        "Missing (3)",
        *(f"encoder: {name}" for name in missing),
        "Additional (2): decoder: extra, encoder: groupnorm.weight.",
        "Unfit (2)",
        "encoder: conv1.weight is float32[64, 3, 5, 5], must be float[64, 3, 7, 7]",
        "decoder: conv2.1.running_mean holds NaN",
        visual_prior_encoder=files.write(files.folder / "encoder.pth", encoder),
        visual_prior_decoder=files.write(files.folder / "decoder.pth", decoder),
    )


def test_decoder_for_a_task_without_image_is_refused(files, refused):
    refused(
        "'class_object' predicts no image",
        task="class_object",
        visual_prior_encoder=files.encoder,
        visual_prior_decoder=files.decoder,
    )


def test_torch_file_that_is_missing_or_a_folder_is_refused(files, refused):
    none = files.folder / "none.pth"
    refused(none, "there is no such file", "https://", visual_prior_encoder=none)
    refused(files.folder, "is a folder", visual_prior_encoder=files.folder)


# --- TensorFlow 1 checkpoints --------------------------------------------------------


@pytest.mark.parametrize("part", ["index", "data"])
def test_empty_file_of_a_checkpoint_is_refused(files, refused, part):
    path = replace(getattr(files, part), b"")
    refused(path, "the file is empty", taskbank_checkpoint=files.prefix)


def test_checkpoint_cut_off_is_refused(files, refused):
    replace(files.data, files.data.read_bytes()[:-1000])
    refused(files.prefix, "cannot be read", taskbank_checkpoint=files.prefix)


def test_missing_parts_of_a_checkpoint_are_named(files, refused):
    files.data.unlink()
    refused(files.data, "no such file", taskbank_checkpoint=files.prefix)
    files.index.unlink()
    refused(files.index, "no such file", "https://", taskbank_checkpoint=files.prefix)
    folder = files.prefix.parent
    refused(folder, "It has: none", taskbank_checkpoint=folder)


def test_folder_with_two_checkpoints_is_refused(files, refused):
    shutil.copy(files.index, files.index.with_name("other.index"))
    refused(
        "It has: model.permanent-ckpt.index, other.index",
        taskbank_checkpoint=files.prefix.parent,
    )


def test_checkpoint_in_the_folder_of_another_task_is_refused(files, refused):
    refused(
        files.prefix,
        "'rgb2depth' says that it is the checkpoint of 'depth_zbuffer', not of "
        "'edge_texture'",
        task="edge2d",
        taskbank_checkpoint=files.prefix,
    )


@pytest.mark.slow
def test_checkpoint_of_a_task_with_image_for_one_without_is_refused(files, refused):
    folder = files.prefix.parent.rename(files.folder / "mine")
    message = refused(
        "Missing (0): none. Additional (67): decoder/",
        task="class_object",
        taskbank_checkpoint=folder,
    )
    assert message.count("decoder/") == 67


@pytest.mark.slow
def test_checkpoint_of_another_head_is_refused(files, refused, monkeypatch):
    read = read_checkpoint(
        str(files.prefix), taskbank.checkpoint_files(str(files.prefix))
    )
    arrays = {
        f"feedforward/{name}": value
        for name, value in read.items()
        if name.startswith(("encoder/", "compress1/"))
    }
    for name, shape in taskbank.head_variables("class_scene").items():
        arrays[name] = np.zeros(shape, np.float32)
    arrays["three_layer_fc_network/fc1/text"] = np.array([b"text"])
    arrays["feedforward/encoder/conv1/weights"] = np.zeros((7, 7, 3, 64), np.int8)
    monkeypatch.setattr(taskbank, "read_checkpoint", lambda *_: arrays)
    folder = files.prefix.parent.rename(files.folder / "mine")
    refused(
        "Additional (1): three_layer_fc_network/fc1/text.",
        "three_layer_fc_network/fc2/weights is float32[2048, 63], "
        "must be float[2048, 1000]",
        "feedforward/encoder/conv1/weights is int8[7, 7, 3, 64], must be float",
        "Missing (0)",
        task="class_object",
        taskbank_checkpoint=folder,
    )


def test_checkpoint_of_one_file_is_told_what_it_is(files, refused):
    old = files.folder / "model.ckpt"
    old.write_bytes(b"checkpoint of the first format")
    refused(old, "the format before TensorFlow 1.0", taskbank_checkpoint=old)


# --- flags ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags, words",
    [
        ({}, "nothing to convert"),
        ({"visual_prior_decoder": "d.pth"}, "needs --visual_prior_encoder"),
        (
            {"taskbank_checkpoint": "a", "visual_prior_encoder": "b"},
            "the same network in two formats",
        ),
        ({"taskbank_checkpoint": "a", "task": "deepth"}, "no task named 'deepth'"),
        ({"taskbank_checkpoint": "a", "task": ""}, "--task is required"),
    ],
)
def test_flags_that_do_not_fit_are_refused(refused, flags, words):
    refused(words, **flags)


@pytest.mark.parametrize(
    "name",
    ["file/teacher.safetensors", pytest.param("n" * 300, marks=pytest.mark.slow), ""],
)
def test_output_that_cannot_be_written_is_refused(files, tmp_path, capsys, name):
    (tmp_path / "file").write_bytes(b"")
    done = run_tool(
        "convert_teacher",
        "--task=depth",
        f"--taskbank_checkpoint={files.prefix}",
        f"--out={tmp_path / name}" if name else "--out=",
        capsys=capsys,
    )
    assert done.code == 2
    assert done.err.rstrip().splitlines()[-1].startswith("convert_teacher: error: ")
    assert "Traceback" not in done.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "files"]


def test_output_over_an_input_is_refused(files, capsys):
    for flag, path in (
        ("visual_prior_encoder", files.encoder),
        ("taskbank_checkpoint", files.prefix),
    ):
        out = files.data if path is files.prefix else path
        before = out.read_bytes()
        done = run_tool(
            "convert_teacher",
            "--task=depth",
            f"--{flag}={path}",
            f"--out={out}",
            capsys=capsys,
        )
        assert done.code == 2 and "one of the files to read" in done.err
        assert out.read_bytes() == before


def test_reference_data_that_is_not_there_is_refused(tmp_path, capsys):
    save_teacher(build("normal"), tmp_path / "normal.safetensors")
    done = run_tool(
        "convert_teacher",
        f"--out={tmp_path / 'normal.safetensors'}",
        f"--check={tmp_path}",
        capsys=capsys,
    )
    assert done.code == 2 and "photo_test_256.png" in done.err
