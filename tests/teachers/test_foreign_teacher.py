"""A teacher from outside the package: this file is all that it takes."""

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.data.pipeline import Batches, image_dataset
from soka_tf.data.sources import folder
from soka_tf.errors import UserError
from soka_tf.runs import build_networks, build_parts
from soka_tf.soka.balancing.gradnorm import GradNorm
from soka_tf.soka.model import SokaModel
from soka_tf.soka.schedule import Schedule
from soka_tf.soka.student import Student
from soka_tf.tasks import get_task
from soka_tf.teachers import Teacher
from soka_tf.teachers.cache import TeacherCache
from soka_tf.teachers.pool import TeacherPool
from soka_tf.teachers.similarity import compute_teacher_rdm
from tests.soka import small

TASKS = ("normal", "depth_zbuffer")
PAIRS = (("c/2", "block1"), ("c8", "representation"), "representation")


class TwoConvolutions(Teacher):
    """Its layers have names, channels and strides of their own."""

    layers = {"c/2": (6, 2), "c8": (10, 8)}

    def __init__(self, task, seed=0):
        self.task = get_task(task)
        random = np.random.default_rng(seed)
        self.kernels = [
            tf.constant(random.normal(0, 0.2, (3, 3, *channels)), tf.float32)
            for channels in ((3, 6), (6, 10), (10, self.task.channels))
        ]

    def __call__(self, images, layers=None):
        first, second, last = self.kernels
        c2 = tf.nn.relu(tf.nn.conv2d(images, first, 2, "SAME"))
        c8 = tf.nn.relu(tf.nn.conv2d(c2, second, 4, "SAME"))
        low = tf.tanh(tf.nn.conv2d(c8, last, 1, "SAME"))
        prediction = tf.image.resize(low, tf.shape(images)[1:3])
        return {"c/2": c2, "c8": c8, "prediction": prediction}

    @property
    def fingerprint(self):
        return "/".join(f"{float(tf.norm(k)):.8f}" for k in self.kernels)

    def count_parameters(self):
        return sum(k.shape.num_elements() for k in self.kernels)


def make_student():
    return Student(small.encoder(), {task: small.decoder(task) for task in TASKS})


def build_model(pool, layers=PAIRS):
    student = make_student()
    build_networks.initialize_student(student, pool)
    amalgamation = build_parts.build_amalgamation(student, pool, layers=layers)
    schedule = Schedule(joint_steps=1, initial_losses_step=0)
    model = SokaModel(student, pool, GradNorm(2), amalgamation, None, schedule)
    model.compile(small.sgd_optimizers(), run_eagerly=True)
    return model


@pytest.fixture
def pool():
    """A foreign teacher, one of the package, and a foreign auxiliary."""
    return TeacherPool(
        {"normal": TwoConvolutions("normal"), TASKS[1]: small.teacher(TASKS[1])},
        {"edge_texture": TwoConvolutions("edge_texture", 1)},
    )


def test_model_of_foreign_teachers_trains_jointly_and_in_cycles(pool):
    targets = {task: TwoConvolutions(task) for task in TASKS}
    auxiliaries = pool.auxiliaries
    model = build_model(TeacherPool(targets, auxiliaries, precision="bfloat16"))
    assert model.amalgamated_layers["block1"] == ("c/2", "c/2", "c/2")
    start = small.trained_state(model)
    logs = small.fit(model, small.batches(3))
    assert {"loss/transfer", "loss/amalgamation", "task_weight/normal"} <= set(logs)
    assert all(np.isfinite(values).all() for values in logs.values())
    moved = small.differences(start, small.trained_state(model))
    for player in ("encoder", "decoder/normal", "amalgamation", "task_weights"):
        assert any(v > 0 for k, v in moved.items() if k.startswith(player)), player


def test_every_teacher_takes_the_first_pair_that_it_has(pool):
    pairs = (*PAIRS, "block1")
    model = build_model(pool, pairs)
    layers = dict(model.amalgamated_layers)
    assert layers == {
        "block1": ("c/2", "block1", "c/2"),
        "representation": ("c8", "representation", "c8"),
    }
    images = small.batches(1)[0]
    said = model.teachers(images, layers)
    alone = [teacher(images) for teacher in pool.teachers]
    for layer, names in layers.items():
        for value, answer, name in zip(said.features[layer], alone, names):
            np.testing.assert_allclose(value, answer[name], atol=1e-6)
    assert np.isfinite(small.fit(model, images[None])["loss/transfer"]).all()
    with pytest.raises(
        UserError, match="teacher of 'normal' has no layer block3 .*It has c/2, c8"
    ):
        build_model(pool, ("block3", *pairs))


def test_kept_outputs_are_found_by_the_fingerprint_and_train(pool, tiny, tmp_path):
    model = build_model(pool, (*PAIRS, "block1"))
    layers = model.amalgamated_layers
    cache = TeacherCache(tmp_path, pool, small.SIZE, layers=layers)
    samples = folder.find(tiny.images)
    cache.fill(samples, progress=False)
    batches = Batches(small.SIZE, 3)
    data = image_dataset(samples, batches, 0, targets=cache.reader(samples))
    batch = next(iter(data))
    said = pool(batch["rgb"], layers)
    for layer, activations in said.features.items():
        for value, wanted in zip(batch["targets"].features[layer], activations):
            kept = tf.cast(value, tf.float32)
            np.testing.assert_allclose(kept, wanted, rtol=1e-3, atol=1e-5)
    losses = model.fit(data.take(2), verbose=0).history["loss/transfer"]
    assert np.isfinite(losses).all()

    pool.targets["normal"].kernels[0] *= 2
    other = TeacherCache(tmp_path, pool, small.SIZE, layers=layers)
    for name, records in other.records.items():
        same = records.folder == cache.records[name].folder
        assert same == (name != "normal")


class Mute(TwoConvolutions):
    """It gives soft targets only."""

    layers = {}

    def __call__(self, images, layers=None):
        assert not layers
        return {"prediction": super().__call__(images)["prediction"]}


def test_teacher_without_layers_takes_no_part_in_mia(pool, tiny, tmp_path):
    targets = {"normal": Mute("normal"), TASKS[1]: pool.targets[TASKS[1]]}
    pairs = ("block1", "representation", ("c8", "representation"), ("c/2", "block1"))
    pool = TeacherPool(targets, pool.auxiliaries)
    model = build_model(pool, pairs)
    assert model.amalgamated_layers["block1"] == (None, "block1", "c/2")
    parts = model.amalgamation.amalgamations
    assert [len(p.mixing_weights) for p in parts.values()] == [2, 2]
    images = small.batches(1)[0]
    said = pool(images, model.amalgamated_layers)
    assert list(said.maps) == list(TASKS)
    np.testing.assert_allclose(
        said.features["block1"][0], targets[TASKS[1]](images)["block1"], atol=1e-6
    )
    assert [len(activations) for activations in said.features.values()] == [2, 2]
    logs = small.fit(model, small.batches(3))
    assert np.isfinite(logs["loss/transfer"]).all()

    samples = folder.find(tiny.images)
    cache = TeacherCache(tmp_path, pool, small.SIZE, layers=model.amalgamated_layers)
    assert list(cache.records["normal"].shapes) == ["prediction"]
    cache.fill(samples, progress=False)
    data = image_dataset(
        samples, Batches(small.SIZE, 3), 0, targets=cache.reader(samples)
    )
    kept = next(iter(data))["targets"].features
    assert [len(activations) for activations in kept.values()] == [2, 2]
    losses = model.fit(data.take(2), verbose=0).history["loss/transfer"]
    assert np.isfinite(losses).all()


def test_teachers_without_layers_alone_give_soft_targets_alone(caplog):
    caplog.set_level("INFO")
    pool = TeacherPool({task: Mute(task) for task in TASKS})
    model = build_model(pool, PAIRS)
    assert model.amalgamation is None and not model.amalgamated_layers
    told = [r.getMessage() for r in caplog.records if "layers" in r.getMessage()]
    assert told == [
        "No teacher has layers to amalgamate: the student learns from soft targets "
        "alone."
    ]
    start = small.trained_state(model)
    logs = small.fit(model, small.batches(3))
    assert "loss/transfer" not in logs and np.isfinite(logs["loss/soft/normal"]).all()
    moved = small.differences(start, small.trained_state(model))
    assert any(v > 0 for k, v in moved.items() if k.startswith("encoder"))
    assert list(pool(small.batches(1)[0]).features.values()) == [[], []]


def test_auxiliary_without_layers_is_refused(pool):
    pool = TeacherPool(pool.targets, {"edge_texture": Mute("edge_texture")})
    with pytest.raises(UserError, match="auxiliary teacher of 'edge_texture' has no l"):
        build_model(pool)


def test_similarity_is_of_any_layer_that_a_teacher_has():
    images = small.batches(1, batch_size=4)
    rdm = compute_teacher_rdm(TwoConvolutions("normal"), images, 4, "c8")
    assert rdm.shape == (4, 4) and rdm[0, 1] > 0
    with pytest.raises(UserError, match="one of c/2, c8. Received: 'block3'"):
        compute_teacher_rdm(TwoConvolutions("normal"), images, 4, "block3")
    with pytest.raises(
        UserError, match="'normal' has no layers: it cannot be compared"
    ):
        compute_teacher_rdm(Mute("normal"), images, 4, "block3")


def test_what_a_foreign_teacher_cannot_do_is_refused_by_name(pool):
    student = make_student()
    with pytest.raises(UserError, match="'normal' has no encoder to lend"):
        build_networks.initialize_student(student, pool, encoder="normal")
    with pytest.raises(UserError, match="'normal' must be a .*Teacher.*: function"):
        TeacherPool({"normal": build_model})
    mute = TwoConvolutions("normal")
    mute.has_prediction = False
    with pytest.raises(UserError, match="'normal' predicts no image"):
        TeacherPool({"normal": mute})
