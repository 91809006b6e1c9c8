"""A run measures its teachers' features once, keeps the result and goes on with it."""

import json

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.errors import UserError, plain_message
from soka_tf.runs import feature_statistics
from soka_tf.runs.training_loop import train

pytestmark = pytest.mark.usefixtures("fresh_gin")
STANDARDIZE = "build_amalgamation.standardize = True"
FILE = feature_statistics.STATISTICS_FILE


def build(tiny, folder, *further):
    return tiny.build(folder, "max_steps = 4", "schedule.joint_steps = 2", *further)


def test_features_are_of_one_scale_and_the_file_is_read_again(
    tiny, tmp_path, monkeypatch
):
    run = build(
        tiny, tmp_path, STANDARDIZE, "build_amalgamation.standardize_images = 4"
    )
    content = json.loads((tmp_path / FILE).read_text())
    assert content["images"] == 4
    rows = content["layers"]["block3"]
    assert [row["task"] for row in rows] == [
        t.task.name for t in run.model.teachers.teachers
    ]
    assert len(rows[0]["mean"]) == 32 and rows[0]["deviation"] > 0

    given = []

    class Variant(type(run.model.amalgamation._variant)):
        def losses(self, part, teachers, student, weights):
            given.append((part.standardized, teachers))
            return super().losses(part, teachers, student, weights)

    layer = run.model.amalgamation
    monkeypatch.setattr(layer, "_variant", Variant())
    images = tf.random.stateless_uniform((2, 16, 16, 3), (1, 2), -1)
    raw = run.model.teachers(images, run.model.amalgamated_layers).features
    layer(raw, run.model.student.encoder(images))
    standardized, activations = given[0]
    assert standardized
    for values, before, row in zip(activations, raw["block3"], rows):
        expected = (before.numpy() - row["mean"]) / row["deviation"]
        np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-4)

    monkeypatch.undo()
    train(run, str(tmp_path))
    text = (tmp_path / "metrics.csv").read_text()
    assert "cycle" in text and "nan" not in text

    monkeypatch.setattr(feature_statistics, "measure_features", None)  # not again
    again = build(
        tiny, tmp_path, STANDARDIZE, "build_amalgamation.standardize_images = 4"
    )
    for one, other in zip(
        again.model.amalgamation._moments.values(), layer._moments.values()
    ):
        for a, b in zip(one, other):
            np.testing.assert_array_equal(a[0], b[0])
            assert a[1] == b[1]


def test_a_run_without_it_measures_and_keeps_nothing(tiny, tmp_path):
    run = build(tiny, tmp_path)
    assert not run.model.amalgamation.standardized
    assert not (tmp_path / FILE).exists()


def test_run_that_was_interrupted_ends_with_the_same_weights(tiny, tmp_path):
    def weights(folder):
        run = build(tiny, folder, STANDARDIZE, "run.checkpoint_every_steps = 2")
        train(run, str(folder))
        return [v.numpy() for v in run.model.student.variables]

    expected = weights(tmp_path / "one")
    interrupted = build(
        tiny, tmp_path / "two", STANDARDIZE, "run.checkpoint_every_steps = 2"
    )

    class Stop(tf.keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                raise InterruptedError

    with pytest.raises(InterruptedError):
        train(interrupted, str(tmp_path / "two"), [Stop()])
    for a, b in zip(weights(tmp_path / "two"), expected):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "change, why",
    [
        (lambda r: r[0].update(fingerprint="another"), "has another fingerprint"),
        (lambda r: r[0].update(layer="block2"), "has another layer at 'block3'"),
        (lambda r: r.pop(), "2 teachers at 'block3'"),
        (lambda r: r[0].update(deviation=0.0), "a number from 1e-30"),
        (lambda r: r[0]["mean"].pop(), "has another number of means"),
    ],
)
def test_file_of_other_teachers_is_one_sentence(change, why, tiny, tmp_path):
    build(tiny, tmp_path, STANDARDIZE)
    content = json.loads((tmp_path / FILE).read_text())
    change(content["layers"]["block3"])
    (tmp_path / FILE).write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"{FILE}: .*{why}") as raised:
        build(tiny, tmp_path, STANDARDIZE)
    message = plain_message(raised.value)
    assert "\n" not in message and "to have them measured anew." in message
