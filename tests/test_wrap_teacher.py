"""tools/wrap_teacher.py: from a SavedModel to a teacher's folder and its picture."""

import json
import os
import re

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from soka_tf.teachers import load_teacher
from soka_tf.teachers.saved_model.graph_layers import expose
from tests.teachers.saved_model import folders
from tests.tools import run_tool


@pytest.fixture
def wrap(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SOKA_TF_CACHE", str(tmp_path / "cache"))

    def run(saved_model, *arguments):
        flags = (f"--saved_model={saved_model}", "--image_size=32", *arguments)
        return run_tool("wrap_teacher", *flags, capsys=capsys)

    return run


@pytest.fixture(scope="module")
def keras_model():
    layers = tf.keras.layers
    tf.keras.utils.set_random_seed(1)
    inner = tf.keras.Sequential([layers.Conv2D(6, 3, 2, "same"), layers.ReLU()])
    images = x = tf.keras.Input((None, None, 3))
    x = layers.Conv2D(4, 3, 2, "same", activation="relu", name="c1")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = inner(x)
    x = layers.Conv2D(2, 1, activation="softmax", name="classes")(x)
    return tf.keras.Model(images, x)


@pytest.fixture(scope="module")
def keras_saved(keras_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("keras") / "net"
    keras_model.save(folder, save_format="tf")
    return folder


@pytest.fixture(scope="module")
def exposed(keras_saved):
    """Folder with all activations exposed, and their names, which Keras chooses."""
    folder = keras_saved.parent / "all"
    return folder, expose(str(keras_saved), "serving_default", str(folder))


def named(names, *parts):
    (name,) = [name for name in names if all(part in name for part in parts)]
    return name


def test_keras_model_is_listed_drafted_drawn_and_lends_an_inner_layer(
    keras_model, keras_saved, exposed, tmp_path, wrap
):
    out = tmp_path / "out"
    layer = named(exposed[1], "c1", "Relu")
    done = wrap(keras_saved, f"--out_dir={out}", f"--layer={layer}", "--task=parts")
    assert done.code == 0, done.err
    assert "serving_default  takes" in done.out
    assert named(exposed[1], "norm", "V3") in done.out  # the last of its size
    assert re.search(r"(?m)^layer +height +width +channels$", done.out)
    assert "my_task" not in done.out and "parts:" in done.out
    manifest = json.loads((out / "teacher.json").read_text())
    assert manifest["prediction"] == {
        "output": "classes",
        "layout": "nhwc",
        "activation": "none",
        "range": [0, 1],
    }
    assert manifest["task_definition"] == {"kind": "classes", "channels": 2}
    assert set(manifest["sha256"]) > {"saved_model/saved_model.pb"}
    with Image.open(out / "panel.png") as picture:
        assert picture.width > 7 * 32  # image, map, a layer, five other inputs

    teacher = load_teacher(out)
    assert teacher.layers == {layer: (4, 2)}
    images = tf.random.uniform([2, 32, 32, 3], -1, 1, seed=1)
    outputs = teacher(images)
    within = tf.keras.Model(keras_model.input, keras_model.get_layer("c1").output)
    np.testing.assert_allclose(outputs[layer], within((images + 1) / 2), atol=1e-6)


def test_all_activations_exposed_are_the_networks_own(keras_model, exposed):
    folder, names = exposed
    signature = tf.saved_model.load(str(folder)).signatures["serving_default"]
    images = tf.random.uniform([1, 24, 40, 3], seed=2)
    (argument,) = signature.structured_input_signature[1]
    said = signature(**{argument: images})
    assert set(said) == {*names, "classes"}
    np.testing.assert_allclose(said["classes"], keras_model(images), atol=1e-6)
    for parts, layer in ((("c1", "Relu"), "c1"), (("norm", "V3"), "norm")):
        own = tf.keras.Model(keras_model.input, keras_model.get_layer(layer).output)
        np.testing.assert_allclose(said[named(names, *parts)], own(images), atol=1e-6)
    assert said[named(names, "re_lu", "Relu")].shape == (1, 6, 10, 6)


def test_module_that_wants_channels_first_is_wrapped_and_corrected(tmp_path, wrap):
    module = folders.write_caffe(tmp_path)
    out = tmp_path / "net_teacher"  # where it goes by default
    done = wrap(tmp_path / "net", "--task=edge_texture")
    assert done.code == 0, done.err
    manifest = json.loads((out / "teacher.json").read_text())
    assert manifest["input"]["size"] == [100, 140]
    assert manifest["input"]["layout"] == "nchw"
    assert manifest["prediction"]["output"] == "logits"
    assert manifest["layers"]["c4"] == {"output": "c4", "layout": "nchw"}
    assert "task_definition" not in manifest
    first = (out / "panel.png").read_bytes()

    manifest["input"].update(folders.CAFFE["input"])
    (out / "teacher.json").write_text(json.dumps(manifest))
    done = wrap(tmp_path / "net")
    assert done.code == 0, done.err
    assert json.loads((out / "teacher.json").read_text()) == manifest
    assert (out / "panel.png").read_bytes() != first
    assert load_teacher(out).count_parameters() == sum(
        v.shape.num_elements() for v in module.variables
    )


def test_images_of_a_folder_are_shown(tmp_path, wrap, tiny):
    folders.write_caffe(tmp_path)
    done = wrap(tmp_path / "net", f"--images={tiny.images}")
    assert done.code == 0, done.err
    assert not (tmp_path / "cache").exists()  # no room was drawn


def refused(done):
    """The one line of an error that the command ended with."""
    assert done.code == 2 and "Traceback" not in done.err
    (line,) = [line for line in done.err.splitlines() if " error: " in line]
    return line


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--layer=nothing"], "the graph has no activation nothing."),
        (["--signature=serve"], "--signature must be one of serving_default. Received"),
        (["--images=nowhere"], "nowhere"),
    ],
)
def test_what_is_not_there_is_named(tmp_path, wrap, flags, said):
    folders.write_caffe(tmp_path)
    done = wrap(tmp_path / "net", *flags)
    assert said in refused(done)
    assert not (tmp_path / "net_teacher" / "teacher.json").exists()
    assert not (tmp_path / "net_teacher" / "saved_model").exists()


def test_folder_of_a_run_stands_for_the_saved_model_in_it(tmp_path, wrap):
    folders.write_caffe(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "net").rename(tmp_path / "run" / "saved_model")
    done = wrap(tmp_path / "run", "--layer=nothing")
    assert "the graph has no activation nothing." in refused(done)


def test_what_is_no_saved_model_or_a_program_is_refused(tmp_path, wrap):
    assert "saved_model.pb cannot be read" in refused(wrap(tmp_path))

    def serve(images):
        tf.io.write_file(str(tmp_path / "said"), "ran")
        return {"logits": images[..., :1]}

    folders.save(tmp_path, tf.Module(), [None, None, None, 3], {}, function=serve)
    assert "has the operation 'WriteFile'" in refused(wrap(tmp_path / "net"))
    assert not os.path.exists(tmp_path / "said")
    done = wrap(tmp_path / "net", "--trust_saved_model")
    assert done.code == 0 and os.path.exists(tmp_path / "said")


def test_signature_of_vectors_is_refused(tmp_path, wrap):
    folders.save(
        tmp_path, tf.Module(), [None, 3], {}, function=lambda images: {"logits": images}
    )
    assert "images have 4 dimensions" in refused(wrap(tmp_path / "net"))


def test_draft_that_does_not_fit_its_task_says_so(tmp_path, wrap):
    folders.write_caffe(tmp_path)
    line = refused(wrap(tmp_path / "net", "--task=normal"))
    assert "prediction.output must have the 3 channels of normal" in line
    assert (tmp_path / "net_teacher" / "teacher.json").exists()  # to be corrected


def test_layers_are_listed_in_the_order_of_the_graph(tmp_path, wrap):
    layers = tf.keras.layers
    images = tf.keras.Input((32, 32, 3))
    x = layers.Conv2D(4, 3, 2, "same", name="early")(images)
    x = layers.Conv2D(4, 3, 2, "same", name="deep")(x)
    x = layers.Conv2DTranspose(4, 3, 2, "same", name="up")(x)
    x = layers.Conv2D(4, 3, 1, "same", name="late")(x)  # of the size of "early"
    x = layers.Conv2D(1, 1, name="map")(x)
    tf.keras.Model(images, x).save(tmp_path / "net", save_format="tf")
    done = wrap(tmp_path / "net", "--task=edge_texture")
    assert done.code == 0, done.err
    listed = done.out.partition("Activations for --layer")[2]
    assert 0 < listed.index("deep") < listed.index("late")


@pytest.mark.parametrize("share, is_told", [(0.08, True), (0.9, False)])
def test_answers_that_fill_little_of_the_range_are_told(share, is_told, tmp_path, wrap):
    images = tf.keras.Input((32, 32, 3))
    brightness = tf.reduce_mean(images, -1, keepdims=True)
    brightness -= tf.reduce_min(brightness, [1, 2], keepdims=True)
    brightness /= tf.reduce_max(brightness, [1, 2], keepdims=True)
    tf.keras.Model(images, share * brightness).save(tmp_path / "net", save_format="tf")
    done = wrap(tmp_path / "net", "--task=edge_texture")
    assert done.code == 0, done.err
    assert f"the answers have 0 to {share:g}" in done.out
    assert (f"narrow prediction.range, to [0, {share:.2g}]" in done.out) == is_told
