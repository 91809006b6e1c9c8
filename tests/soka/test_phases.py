"""The phases as functions that anybody may call, one by one, and interrupt."""

import contextlib

import pytest
import tensorflow as tf

from soka_tf.networks.batch_norm import apply_collected
from soka_tf.soka import phases
from soka_tf.soka.ledger import Page
from soka_tf.soka.step import Step
from tests.soka import small


def test_phases_called_one_by_one_are_the_cycle_of_fit():
    model = small.build(weight_decay=1e-2)
    start, batch = small.trained_state(model), small.batches(1)
    logs = small.fit(model, batch)
    expected = small.trained_state(model)

    small.set_state(model, start)
    step = Step("cycle", training=True, frozen_training=True, page=Page())
    images = tf.constant(batch[0])
    taught = images, model.teachers(images, model.amalgamated_layers)
    encoded = phases.encode(model, step, images)
    representation = encoded.features["representation"]
    phases.compete(model, step, taught, representation)
    apply_collected(encoded.moved)
    pulls = phases.pull(model, step, taught, representation)
    values, transferred = phases.amalgamate(
        model, encoded.features, taught[1], pulls.scale
    )
    seen = phases.see(model, encoded, pulls, transferred)
    phases.collaborate(model, encoded, pulls, transferred, seen)
    model.balancing.record_initial(seen.losses, tf.constant(True))
    values.update(phases.weigh(model, step, seen, pulls.scale))
    model.step.assign_add(1)

    far = small.differences(expected, small.trained_state(model))
    assert not {path: size for path, size in far.items() if size > 1e-6}
    for name in ("loss/transfer", "loss/gradnorm", f"gradient_norm/{model.tasks[0]}"):
        assert float(values[name]) == pytest.approx(logs[name][0], rel=1e-5)


def test_a_cycle_interrupted_after_the_competition_has_moved_the_decoders_alone():
    class Interrupted(Exception):
        pass

    @contextlib.contextmanager
    def around(phase):
        yield
        if phase == "competition":
            raise Interrupted

    model = small.build()
    start = small.trained_state(model)
    step = Step("cycle", True, True, Page(around=around))
    images = tf.constant(small.batches(1)[0])
    taught = images, model.teachers(images, model.amalgamated_layers)
    with pytest.raises(Interrupted):
        phases.cycle(model, step, taught, taught)
    far = small.differences(start, small.trained_state(model))
    moved = {path.split("/")[0] for path, size in far.items() if size}
    assert moved == {"decoder", "optimizer"}
    assert not any(far[path] for path in far if path.startswith("optimizer/encoder"))
