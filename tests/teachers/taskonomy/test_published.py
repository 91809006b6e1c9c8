"""Names, shapes and tasks of the published files, against the original's lists."""

import json

import pytest

from soka_tf.errors import UserError
from soka_tf.networks.decoder import Decoder
from soka_tf.networks.encoder import ENCODER_26, ENCODER_50, Encoder
from soka_tf.networks.named_variables import named_variables
from soka_tf.tasks import TASKS, get_task
from soka_tf.teachers.taskonomy import taskbank, visual_prior


@pytest.fixture(scope="module")
def networks():
    return {
        "encoder50": Encoder(ENCODER_50),
        "encoder26": Encoder(ENCODER_26),
        "decoder_c3": Decoder(3),
        "decoder64_colorization": Decoder(313, layout="colours"),
    }


@pytest.fixture(scope="module")
def golden(shared_folder):
    def read(name):
        return json.loads((shared_folder / "golden" / name).read_text())

    return read


@pytest.mark.parametrize(
    "listed", ["encoder50", "encoder26", "decoder_c3", "decoder64_colorization"]
)
def test_tensorflow_names_and_shapes_are_the_originals(golden, networks, listed):
    scope = listed[:7]
    assert {
        taskbank.tf1_name(scope, path): list(variable.shape)
        for path, variable in named_variables(networks[listed]).items()
    } == {row["name"]: row["shape"] for row in golden("variables.json")[listed]}


@pytest.mark.parametrize(
    "part, ours, listed",
    [("encoder", "encoder50", "encoder"), ("decoder", "decoder_c3", "decoder_3ch")],
)
def test_torch_names_belong_to_the_same_tensorflow_names(
    golden, networks, part, ours, listed
):
    rows = golden("torch_to_tf1_names.json")[listed]
    assert {
        visual_prior.torch_name(part, path): taskbank.tf1_name(part, path)
        for path in named_variables(networks[ours])
    } == {row["torch"]: row["tf"] for row in rows if row["tf"]}


@pytest.mark.parametrize("root", ["", "feedforward/", "siamese/"])
def test_root_of_a_scope_is_found_whatever_else_is_there(root):
    names = ["siamese/other/weights", f"{root}encoder/conv1/weights", "siamese_fc/w"]
    assert taskbank.root_of(names, "encoder") == root


def test_heads_have_the_variables_of_the_originals(golden):
    listed = golden("variables.json")["heads"]
    assert {get_task(name).name for name in listed} == set(taskbank.HEADS)
    for name, rows in listed.items():
        assert taskbank.head_variables(get_task(name).name) == {
            row["name"]: tuple(row["shape"]) for row in rows
        }


def test_task_table_agrees_with_the_original_about_all_25_tasks(golden):
    released = golden("tasks.json")
    assert {get_task(name).name for name in released} == set(TASKS)
    shown = {"hole": "context_encoder_input", "light": "to_light"}
    for name, original in released.items():
        task = get_task(name)
        assert get_task(original["visualprior_name"]) is task
        assert task.image_channels == original["input_channels"]
        assert bool(task.channels) == bool(original["decoder"])
        if task.channels:
            assert task.channels == original["output_shape"][-1]
            assert (task.decoder == "colours") == (original["output_shape"][0] == 64)
        text = original["input_preprocessing_at_taskbank_demo_time"].split(" ")[0]
        if task.name == "jigsaw":  # it was shown nine tiles; ours sees the image
            assert task.released_input == "plain"
        else:
            assert text == shown.get(
                task.released_input,
                "resize_rescale_image" + "_low_sat" * (task.released_input != "plain"),
            )


def test_targets_are_the_tasks_with_labels_of_the_table():
    targets = {task.name for task in TASKS.values() if task.role == "target"}
    assert len(targets) == 13 and "segment_semantic" in targets
    auxiliary = {"colorization", "segment_unsup2d", "jigsaw", "vanishing_point"}
    assert not targets & auxiliary


def test_published_files_are_known_for_every_task():
    for task in TASKS.values():
        parts = [
            visual_prior.parse_name(name)
            for name in visual_prior.published_files_of(task.name)
        ]
        assert all(len(part.sha256) == 64 for part in parts)
        decoder = task.channels and task.name != "colorization"
        assert [part.part for part in parts] == ["encoder"] + ["decoder"] * bool(
            decoder
        )


@pytest.mark.parametrize(
    "name, expected",
    [
        ("curvature_encoder-0123456789abcdef.pth", ("principal_curvature", "encoder")),
        ("a/normal_decoder-01234567.pth", ("normal", "decoder")),
        ("normal_decoder-01234567 (1).pth", ("normal", "decoder")),
        ("NORMAL_encoder-01234567.PTH", ("normal", "encoder")),
        ("normal_encoder.pth", ("normal", "encoder")),
        ("normal_encoder-0123.pth", ("normal", "encoder")),
        ("encoder.pth", None),
        ("my_encoder.pth", None),
    ],
)
def test_name_of_a_file_tells_task_and_part(name, expected):
    parsed = visual_prior.parse_name(name)
    assert (parsed and parsed[:2]) == expected


def test_name_of_no_task_is_refused_with_its_path():
    with pytest.raises(UserError, match="^a/noraml_.*did you mean|^a/noraml_.*Did you"):
        visual_prior.parse_name("a/noraml_encoder-01234567.pth")


def test_checkpoint_is_found_by_prefix_file_and_folder(tmp_path):
    prefix = tmp_path / "rgb2depth" / "model.permanent-ckpt"
    prefix.parent.mkdir()
    for ending in (".index", ".meta", ".data-00000-of-00001"):
        prefix.with_name(prefix.name + ending).write_bytes(b"x")
        (tmp_path / ("other" + ending)).write_bytes(b"x")
    for given in (
        prefix,
        f"{prefix}.index",
        f"{prefix}.meta",
        f"{prefix}.data-00000-of-00001",
        prefix.parent,
    ):
        assert taskbank.find_prefix(given) == str(prefix)
