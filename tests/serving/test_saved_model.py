import json
import os
import subprocess
import sys
import textwrap
import types

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.data import encodings
from soka_tf.errors import UserError
from soka_tf.networks.decoder import Decoder
from soka_tf.networks.encoder import Encoder
from soka_tf.serving import saved_model
from soka_tf.soka.student import Student
from soka_tf.tasks import get_task
from tests.encode_rgb import encode_rgb

SIZE = 32
TASKS = tuple(get_task(n) for n in ("depth_zbuffer", "normal"))
POSITIVE = ("gamma", "moving_variance")
NAMES = [task.name for task in TASKS]


def make_student(tasks=TASKS):
    encoder = Encoder(units=(1, 1, 1, 1), width=1 / 32, strides=(2, 2, 2, 1))
    decoders = {
        task.name: Decoder(task.channels, 1 / 64, upsamplings=3, name=task.name)
        for task in tasks
    }
    student = Student(encoder, decoders)
    student(tf.zeros([1, SIZE, SIZE, 3]))
    rng = np.random.default_rng(0)
    for variable in student.variables:
        around = 1.0 if variable.name.split("/")[-1][:-2] in POSITIVE else 0.0
        variable.assign(around + 0.2 * rng.uniform(-1, 1, variable.shape))
    return student


def make_stand_in(tasks):
    """A student of one layer a network: exports in a second."""
    images = tf.keras.Input((None, None, 3))
    representation = tf.keras.layers.Conv2D(8, 3, 8, "same")(images)
    encoder = tf.keras.Model(images, {"representation": representation})

    def decoder(channels):
        representation = tf.keras.Input((None, None, 8))
        output = tf.keras.layers.Conv2DTranspose(channels, 3, 8, "same")(representation)
        return tf.keras.Model(representation, output)

    return types.SimpleNamespace(
        encoder=encoder, decoders={task.name: decoder(task.channels) for task in tasks}
    )


@pytest.fixture(scope="module")
def student():
    return make_student()


@pytest.fixture(scope="module")
def export(student, tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "export"
    saved_model.export_student(student, TASKS, SIZE, str(directory))
    return directory


@pytest.fixture(scope="module")
def loaded(export):
    return tf.saved_model.load(str(export))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 50, 41, 3)).astype(np.uint8)


def expected_maps(student, images):
    resized = [encode_rgb(image, SIZE) for image in images]
    predictions = student(np.stack(resized), training=False)
    return {
        task.name: encodings.decode(task, predictions[task.name].numpy())
        for task in TASKS
    }


def assert_close(maps, expected):
    assert set(maps) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(maps[name], values, rtol=1e-3, atol=1e-4)


def test_every_signature_exists_for_both_dtypes(loaded, export):
    names = {"serving_default", "representation", *NAMES}
    names |= {f"{name}_float" for name in names}
    assert set(loaded.signatures) == names
    for name, signature in loaded.signatures.items():
        (spec,) = signature.structured_input_signature[1].values()
        assert spec.name == "images"
        assert spec.shape.as_list() == [None, None, None, 3]
        assert spec.dtype == (tf.float32 if name.endswith("_float") else tf.uint8)


def test_default_signature_answers_all_tasks_in_physical_units(loaded, student, images):
    maps = loaded.signatures["serving_default"](images=tf.constant(images))
    assert_close(maps, expected_maps(student, images))
    assert maps["depth_zbuffer"].dtype == tf.float32
    assert maps["normal"].shape == (3, SIZE, SIZE, 3)
    np.testing.assert_allclose(np.linalg.norm(maps["normal"], axis=-1), 1.0, rtol=1e-3)


def test_float_images_give_the_same_answers(loaded, images):
    floats = tf.constant(images / np.float32(255))
    for name in ("serving_default", "representation", *NAMES):
        from_bytes = loaded.signatures[name](images=tf.constant(images))
        from_floats = loaded.signatures[f"{name}_float"](images=floats)
        assert_close(from_floats, {k: v.numpy() for k, v in from_bytes.items()})


def test_task_signature_answers_its_task_only(loaded, images):
    everything = loaded.signatures["serving_default"](images=tf.constant(images))
    for name in NAMES:
        one = loaded.signatures[name](images=tf.constant(images))
        assert list(one) == [name]
        np.testing.assert_allclose(one[name], everything[name], rtol=1e-5, atol=1e-6)


def test_task_signature_runs_no_other_decoder(loaded):
    def size_of(name):
        graph = loaded.signatures[name].graph.as_graph_def()
        return sum(len(f.node_def) for f in graph.library.function)

    assert size_of("representation") < size_of("normal") < size_of("serving_default")


def test_representation_is_the_encoders(loaded, student, images):
    resized = np.stack([encode_rgb(image, SIZE) for image in images])
    expected = student.encoder(resized, training=False)["representation"]
    result = loaded.signatures["representation"](images=tf.constant(images))
    np.testing.assert_allclose(result["representation"], expected, atol=1e-4)


def test_loaded_object_itself_takes_either_dtype(loaded, student, images):
    expected = expected_maps(student, images)
    assert_close(loaded(tf.constant(images)), expected)
    assert_close(loaded(tf.constant(images / np.float32(255))), expected)


@pytest.mark.parametrize("shape", [(1, SIZE, SIZE), (5, 64, 20), (2, 7, 90)])
def test_any_batch_and_image_size_is_answered(loaded, shape):
    maps = loaded.signatures["serving_default"](images=tf.zeros((*shape, 3), tf.uint8))
    assert maps["depth_zbuffer"].shape == (shape[0], SIZE, SIZE, 1)


def test_metadata_names_tasks_units_and_version(export, loaded):
    metadata = saved_model.read_metadata(str(export))
    assert metadata["image_size"] == SIZE
    assert list(metadata["tasks"]) == NAMES
    assert metadata["tasks"]["depth_zbuffer"]["unit"] == "m"
    assert metadata["signatures"] == sorted(loaded.signatures)
    assert metadata["representation_shape"] == [None, 4, 4, 8]


def test_fresh_process_without_soka_tf_answers_an_unseen_batch_size(
    export, student, images, tmp_path
):
    batch = np.concatenate([images, images, images[:1]])
    np.save(tmp_path / "images.npy", batch)
    program = f"""
        import numpy as np
        import tensorflow as tf
        try:
            import soka_tf
        except ModuleNotFoundError:
            pass
        else:
            raise AssertionError("soka_tf can be imported")
        model = tf.saved_model.load({str(export)!r})
        images = tf.constant(np.load("images.npy"))
        maps = model.signatures["serving_default"](images=images)
        floats = tf.cast(images, tf.float32) / 255
        twins = model.signatures["serving_default_float"](images=floats)
        np.savez("maps.npz", **{{k: v.numpy() for k, v in maps.items()}})
        np.savez("twins.npz", **{{k: v.numpy() for k, v in twins.items()}})
        assert not [m for m in sys.modules if m.startswith("soka_tf")]
    """
    # An installed soka_tf, also an editable one, is denied.
    hide = """
        import sys
        class Deny:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] == "soka_tf":
                    raise ModuleNotFoundError(name)
        sys.meta_path.insert(0, Deny())
    """
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(hide) + textwrap.dedent(program)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    expected = expected_maps(student, batch)
    assert_close(np.load(tmp_path / "maps.npz"), expected)
    assert_close(np.load(tmp_path / "twins.npz"), expected)


def test_failed_export_keeps_the_earlier_one(tmp_path, monkeypatch):
    student = make_stand_in(TASKS)
    directory = tmp_path / "export"
    saved_model.export_student(student, TASKS, SIZE, str(directory))
    before = files_of(directory)

    def fail(module, path, signatures):
        with open(os.path.join(path, "half"), "w") as file:
            file.write("half")
        raise OSError("disk full")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        saved_model.export_student(student, TASKS, 2 * SIZE, str(directory))
    assert [p.name for p in tmp_path.iterdir()] == ["export"]
    assert files_of(directory) == before


def test_first_export_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        saved_model.export_student(
            make_stand_in(TASKS), TASKS, SIZE, str(tmp_path / "export")
        )
    assert not list(tmp_path.iterdir())


def test_export_replaces_an_earlier_one_and_leaves_the_files_of_others(tmp_path):
    edges = (get_task("edge_texture"),)
    student = make_stand_in(edges)
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "variables").mkdir()
    (tmp_path / "variables" / "notes").write_text("of somebody")
    saved_model.export_student(student, edges, SIZE, str(tmp_path))
    first = files_of(tmp_path)
    saved_model.export_student(student, edges, 2 * SIZE, str(tmp_path))
    second = files_of(tmp_path)
    assert set(first) == set(second)
    assert second["thesis.tex"] == b"years of work"
    assert second["variables/notes"] == b"of somebody"
    assert saved_model.read_metadata(str(tmp_path))["image_size"] == 2 * SIZE
    assert tf.saved_model.load(str(tmp_path)).signatures
    with pytest.raises(UserError, match="it is a file"):
        saved_model.export_student(student, edges, SIZE, str(tmp_path / "thesis.tex"))
    assert files_of(tmp_path) == second


def test_saved_model_of_others_is_not_replaced(tmp_path, student):
    (tmp_path / "saved_model.pb").write_text("of somebody")
    with pytest.raises(UserError, match="saved_model.pb there was not written by soka"):
        saved_model.export_student(student, TASKS, SIZE, str(tmp_path))
    assert files_of(tmp_path) == {"saved_model.pb": b"of somebody"}


def files_of(folder):
    """What a folder holds, by its path below it."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_export_of_a_task_without_decoder_is_refused(tmp_path, student):
    with pytest.raises(UserError, match="cannot export reshading"):
        saved_model.export_student(
            student, [get_task("reshading")], SIZE, str(tmp_path / "export")
        )
    assert not list(tmp_path.iterdir())


def test_metadata_of_something_else_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a SavedModel"):
        saved_model.read_metadata(str(tmp_path))
    (tmp_path / "saved_model.pb").write_text("")
    with pytest.raises(UserError, match="not an export of soka_tf"):
        saved_model.read_metadata(str(tmp_path))
    (tmp_path / "assets.extra").mkdir()
    path = tmp_path / "assets.extra" / "metadata.json"
    path.write_text(json.dumps({"format": 99}))
    with pytest.raises(UserError, match="its format is 99"):
        saved_model.read_metadata(str(tmp_path))


@pytest.mark.parametrize(
    "change, why",
    [
        ({"tasks": {}}, "it has no tasks"),
        ({"tasks": None}, "tasks has no names"),
        ({"tasks": {"deepth": {"shape": [1]}}}, "no student has a task 'deepth'"),
        ({"tasks": {"depth_zbuffer": {}}}, "tasks.depth_zbuffer has no shape"),
        (
            {"tasks": {"depth_zbuffer": {"shape": [None, 16, 16, 7]}}},
            r"must be \[None, 16, 16, 1\]. Received: \[None, 16, 16, 7\]",
        ),
        ({"image_size": 1 << 62}, "a number is 4611686018427387904"),
        ({"image_size": 1 << 40}, "image_size must be a whole number from 1 to 65535"),
        ({"image_size": float("inf")}, "a number is Infinity"),
    ],
)
def test_metadata_that_describes_no_student_is_refused(tmp_path, change, why):
    task = {"depth_zbuffer": {"shape": [None, 16, 16, 1]}}
    good = {"format": 1, "image_size": 16, "tasks": task}
    (tmp_path / "saved_model.pb").write_text("")
    path = tmp_path / "assets.extra" / "metadata.json"
    path.parent.mkdir()
    path.write_text(json.dumps(good))
    assert saved_model.read_metadata(str(tmp_path)) == good
    path.write_text(json.dumps({**good, **change}))
    with pytest.raises(UserError, match=f"metadata.json.*not an export.*{why}"):
        saved_model.read_metadata(str(tmp_path))


def test_sixteen_bit_students_answer_in_float32(tmp_path, images):
    edges = (get_task("edge_texture"),)
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        student = make_stand_in(edges)
        saved_model.export_student(student, edges, SIZE, str(tmp_path / "export"))
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    loaded = tf.saved_model.load(str(tmp_path / "export"))
    maps = loaded.signatures["serving_default"](images=tf.constant(images))
    assert maps["edge_texture"].dtype == tf.float32


@pytest.fixture(scope="module")
def half_precision(student, tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "export"
    saved_model.export_student(
        student, TASKS, SIZE, str(directory), precision="bfloat16"
    )
    return directory


def test_bfloat16_export_answers_nearly_the_same_in_float32(
    half_precision, loaded, images
):
    half = tf.saved_model.load(str(half_precision))
    assert all(maps.dtype == tf.float32 for maps in half(tf.constant(images)).values())
    # Maps of normals have unit length, and hardly any before, at random weights.
    found = half.signatures["representation"](images=tf.constant(images))
    expected = loaded.signatures["representation"](images=tf.constant(images))
    found, expected = found["representation"], expected["representation"].numpy()
    error = np.sqrt(np.mean((found - expected) ** 2)) / expected.std()
    assert 1e-4 < error < 0.05


def test_metadata_names_the_precision(export, half_precision):
    assert saved_model.read_metadata(str(export))["precision"] == "float32"
    assert saved_model.read_metadata(str(half_precision))["precision"] == "bfloat16"


def test_export_holds_no_batch_norm_and_its_weights_as_variables(loaded):
    # Constants would be faster, and take gigabytes to export at full size.
    assert len(loaded.network_variables) > 50
    graph = loaded.signatures["serving_default"].graph.as_graph_def()
    operations = {n.op for f in graph.library.function for n in f.node_def}
    assert "Conv2D" in operations
    assert "FusedBatchNormV3" not in operations
    constants = [n for f in graph.library.function for n in f.node_def]
    assert max(n.ByteSize() for n in constants if n.op == "Const") < 10_000


@pytest.mark.parametrize("amx, chosen", [(True, "bfloat16"), (False, "float32")])
def test_automatic_precision_is_what_the_processor_is_best_at(monkeypatch, amx, chosen):
    monkeypatch.setattr(saved_model, "has_amx", lambda: amx)
    assert saved_model.choose_precision("auto") == chosen
    assert saved_model.choose_precision("float32") == "float32"
    assert saved_model.choose_precision("bfloat16") == "bfloat16"


def test_unknown_precision_is_refused_before_anything_is_written(tmp_path, student):
    with pytest.raises(UserError, match="float32, bfloat16, auto. Received: 'int8'"):
        saved_model.export_student(
            student, TASKS, SIZE, str(tmp_path / "export"), precision="int8"
        )
    assert not list(tmp_path.iterdir())
