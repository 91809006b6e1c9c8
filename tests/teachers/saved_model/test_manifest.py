"""Every field of teacher.json: what is wrong gives one sentence that names it."""

import json
import os
import shutil

import pytest
import tensorflow as tf

from soka_tf.data.filesystem import sha256_of
from soka_tf.errors import UserError
from soka_tf.teachers import load_teacher
from soka_tf.teachers.saved_model.manifest import read_manifest
from tests.teachers.saved_model import folders

INPUT, PREDICTION = folders.CAFFE["input"], folders.CAFFE["prediction"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teachers") / "caffe"
    folders.write_caffe(folder)
    (folder.parent / "outside").mkdir()
    shutil.copytree(folder / "net", folder.parent / "outside" / "net")
    os.symlink(folder.parent / "outside" / "net", folder / "linked")
    shutil.copytree(folder / "net", folder / "part")
    variables = folder / "part" / "variables"
    shutil.rmtree(variables)
    os.symlink(folder.parent / "outside" / "net" / "variables", variables)
    return folder


def refusal(folder, **fields):
    folders.write(folder, {**folders.CAFFE, **fields})
    with pytest.raises(UserError) as refused:
        load_teacher(folder)
    message = str(refused.value)
    assert "\n" not in message and str(folder) in message
    return message


def put(part, **fields):
    """A part of the manifest with other fields; None takes one out."""
    changed = {**part, **fields}
    return {name: value for name, value in changed.items() if value is not None}


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"format": 2}, "format must be 1. Received: 2."),
        ({"format": None}, "format must be 1. Received: none."),
        ({"format": True}, "format must be 1. Received: True."),
        ({"task": None}, "task is missing."),
        ({"task": 3}, "task must be a text. Received: 3."),
        (
            {"task": "egde_texture", "task_definition": None},
            "or have a task_definition. Received: 'egde_texture'; did you mean "
            "edge_texture?",
        ),
        (
            {"task": "class_object", "task_definition": None},
            "task must be one that predicts an image. Received: 'class_object'.",
        ),
        (
            {"task_definition": {"kind": "map"}},
            "task_definition: task 'my_edges': kind",
        ),
        ({"task": "normal"}, "task_definition: task 'normal': "),
        ({"task_definition": [1]}, "task_definition must be an object"),
        ({"saved_model": "../outside/net"}, "no '..', no link that leaves it"),
        ({"saved_model": "/net"}, "saved_model must name what lies in the folder"),
        ({"saved_model": "linked"}, "no link that leaves it. Received: 'linked'."),
        (
            {"saved_model": "part"},
            "no link that leaves it. Received: 'part/variables/",
        ),
        ({"saved_model": "nett"}, "saved_model names what is not there: 'nett'."),
        ({"saved_model": "net/variables"}, "with a saved_model.pb. Received: "),
        ({"saved_model": None}, "saved_model is missing."),
        (
            {"signature": "serve"},
            "signature must be one of the SavedModel's, serving_default. Received: "
            "'serve'.",
        ),
        (
            {"inputs": INPUT},
            "a manifest has no field 'inputs'. Allowed: format, task, ",
        ),
        ({"input": None}, "input is missing."),
        ({"input": "images"}, "input must be an object. Received: 'images'."),
        ({"input": put(INPUT, range=None)}, "input.range is missing."),
        (
            {"input": put(INPUT, range=[0, 256])},
            "input.range must be [0, 1], [-1, 1] or [0, 255]. Received: [0, 256].",
        ),
        ({"input": put(INPUT, chanel_order="rgb")}, "did you mean channel_order?"),
        (
            {"input": put(INPUT, channel_order="grb")},
            "input.channel_order must be one of rgb, bgr. Received: 'grb'",
        ),
        ({"input": put(INPUT, mean=[1, 2])}, "input.mean must be three numbers"),
        ({"input": put(INPUT, std=[1, 0, 1])}, "input.std must be three numbers above"),
        (
            {"input": put(INPUT, size=[0, 9])},
            "input.size must be [height, width], each",
        ),
        ({"input": put(INPUT, size=224)}, "or None. Received: 224."),
        (
            {"input": put(INPUT, size=[140, 100])},
            "make images [None, 3, 140, 100]. The signature 'serving_default' takes "
            "(None, 3, 100, 140).",
        ),
        (
            {"input": put(INPUT, size=None)},
            "input.size must be [100, 140], what the signature 'serving_default' "
            "takes. Received: None.",
        ),
        ({"input": put(INPUT, layout="nhwc")}, "make images [None, 100, 140, 3]."),
        (
            {"input": put(INPUT, layout="hwc")},
            "input.layout must be one of nhwc, nchw.",
        ),
        (
            {"input": put(INPUT, name="image")},
            "input.name must be the argument of the signature 'serving_default', "
            "images. Received: 'image'; did you mean images?",
        ),
        ({"prediction": None}, "prediction is missing."),
        ({"prediction": put(PREDICTION, output=None)}, "prediction.output is missing."),
        (
            {"prediction": put(PREDICTION, output="logit")},
            "prediction.output must be one of the outputs of the signature "
            "'serving_default', c4, logits. Received: 'logit'; did you mean logits?",
        ),
        (
            {"prediction": put(PREDICTION, output="c4")},
            "prediction.output must have the 1 channels of my_edges. Received: [None, "
            "25, 35, 5]",
        ),
        (
            {"prediction": put(PREDICTION, layout="nhwc")},
            "Received: [None, 1, 25, 35] (as nhwc; prediction.layout is 'nhwc').",
        ),
        (
            {"prediction": put(PREDICTION, activation="relu")},
            "prediction.activation must be one of none, sigmoid, softmax, tanh.",
        ),
        (
            {"prediction": put(PREDICTION, range=[-1, 1])},
            "prediction.range must be [0, 1], what the activation 'sigmoid' gives.",
        ),
        (
            {"prediction": put(PREDICTION, activation="none", range=[1, 0])},
            "prediction.range must begin below its end. Received: [1, 0].",
        ),
        ({"prediction": put(PREDICTION, range=None)}, "prediction.range is missing."),
        (
            {"layers": {"c": {"output": "c5"}}},
            "layers.c.output must be one of the outp",
        ),
        ({"layers": {"c": {}}}, "layers.c.output is missing."),
        ({"layers": {"c": "c4"}}, "layers.c must be an object. Received: 'c4'."),
        (
            {"layers": {"prediction": {"output": "c4"}}},
            "layers must be an object of la",
        ),
        ({"sha256": {"net/saved_model.pb": "ab"}}, "sha256 must be an object {path: "),
        ({"sha256": {"../x": "0" * 64}}, "sha256 must name what lies in the folder"),
        ({"sha256": {"net": "0" * 64}}, "sha256 must name files. Received: 'net'."),
        ({"sha256": {"net/x": "0" * 64}}, "sha256 names what is not there: 'net/x'."),
        ({"license": 3}, "license must be a text of 1 to 200 characters in one line"),
        ({"license": ""}, "license must be a text of 1 to 200"),
        ({"license": "MIT\n# Fine"}, "license must be a text of 1 to 200"),
        ({"license": "x" * 201}, "license must be a text of 1 to 200"),
        (
            {"sha256": {"net/saved_model.pb": "0" * 64}},
            "saved_model.pb: the file is not the one that ",
        ),
    ],
)
def test_wrong_manifest_is_refused_by_its_field(written, fields, said):
    assert said in refusal(written, **fields)


@pytest.mark.parametrize(
    "content, said",
    [
        ("{", "not a manifest ("),
        ("[]", "not a manifest ("),
        ('{"format": 1e999}', "not finite"),
        ('{"format": 1, "x": "' + "y" * (1 << 20) + '"}', "more than the 1048576"),
    ],
)
def test_what_is_no_manifest_is_refused(tmp_path, content, said):
    (tmp_path / "teacher.json").write_text(content)
    with pytest.raises(UserError) as refused:
        load_teacher(tmp_path)
    message = str(refused.value)
    assert said in message and "docs/teachers.md has every field." in message


def test_folder_without_a_manifest_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"teacher\.json: there is no such manifest"):
        load_teacher(tmp_path)


def test_sha256_of_the_files_are_accepted_and_the_fingerprint_follows_files(written):
    names = ("net/saved_model.pb", "net/variables/variables.index")
    hashes = {name: sha256_of(written / name) for name in names}
    folders.write(written, folders.CAFFE)
    plain = read_manifest(written).fingerprint()
    folders.write(written, {**folders.CAFFE, "sha256": hashes})
    manifest = read_manifest(written)
    manifest.check_files()
    assert manifest.fingerprint() == plain
    folders.write(written, {**folders.CAFFE, "license": "CC BY-NC 4.0"})
    manifest = read_manifest(written)
    assert manifest.license == "CC BY-NC 4.0" and manifest.fingerprint() == plain
    (written / "net" / "keras_metadata.pb").write_text("not read")
    assert manifest.fingerprint() == plain
    changed = put(PREDICTION, activation="none")
    folders.write(written, {**folders.CAFFE, "prediction": changed})
    assert read_manifest(written).fingerprint() != plain

    folders.write(written, folders.CAFFE)
    with open(written / "net" / "variables" / "variables.index", "ab") as file:
        file.write(b"x")
    assert read_manifest(written).fingerprint() != plain


def test_damaged_saved_model_is_refused_in_one_line(written, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(written, folder, symlinks=True)
    folders.write(folder, folders.CAFFE)
    data = folder / "net" / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:10])
    assert "cannot load it" in refusal(folder)
    (folder / "net" / "saved_model.pb").write_bytes(b"\xff\x00")
    assert "is damaged or no SavedModel" in refusal(folder)


def test_program_is_refused_unless_its_maker_is_trusted(tmp_path):
    said = tmp_path / "said"

    def serve(images):
        tf.io.write_file(str(said), "ran")
        return {"logits": images[..., :1]}

    folder = tmp_path / "program"
    folders.save(folder, tf.Module(), [None, None, None, 3], {}, function=serve)
    with pytest.raises(UserError) as refused:
        load_teacher(folder)
    assert "the operation 'WriteFile'" in str(refused.value)
    assert "Give --trust_saved_model if you trust" in str(refused.value)
    assert not said.exists()
    load_teacher(folder, trust_saved_model=True)
    assert said.read_text() == "ran"


def test_manifest_is_found_by_its_folder_and_by_itself(written):
    folders.write(written, folders.CAFFE)
    by_file = read_manifest(written / "teacher.json")
    assert by_file == read_manifest(written)
    assert json.loads((written / "teacher.json").read_text()) == by_file.content
