"""Cosines between the tasks' pulls: what they are, and that measuring moves nothing."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tests.soka import reference, small


def by_hand(model, images):
    """The cosines of d L / d representation, by one plain tape."""
    taught = reference.run_teachers(model, images)
    with tf.GradientTape(persistent=True) as tape:
        predictions, features = reference.run_student(model, images)
        each = dict(
            zip(
                model.tasks,
                tf.unstack(reference.soft_losses(model, taught, predictions)),
            )
        )
        each["transfer"], _ = reference.amalgamation_losses(model, taught, features)
    shared = features["representation"]
    pulls = {k: np.ravel(tape.gradient(loss, shared)) for k, loss in each.items()}
    return {
        f"cosine/{i}:{j}": np.dot(pulls[i], pulls[j])
        / (np.linalg.norm(pulls[i]) * np.linalg.norm(pulls[j]))
        for i, j in itertools.combinations(pulls, 2)
    }


@pytest.mark.parametrize(
    "options",
    [
        dict(order="simultaneous"),  # decoders as they were
        dict(joint_steps=9, joint_amalgamation=True),
    ],
)
def test_cosines_are_those_of_the_gradients_at_the_representation(options):
    model = small.build(**options)
    model.conflict_every_steps = 1
    images = small.batches(1)
    expected = by_hand(model, images[0])
    logs = small.fit(model, images)
    found = {k: v[0] for k, v in logs.items() if k.startswith("cosine/")}
    assert list(found) == list(expected) == model.conflict_names
    assert found == pytest.approx(expected, abs=1e-5)
    assert all(abs(value) > 1e-3 for value in found.values())


@pytest.mark.parametrize("joint_steps", [0, 2])
def test_measuring_changes_no_bit_and_is_done_every_so_many_steps(joint_steps):
    images, ends = small.batches(2), []
    for every in (0, 2):
        model = small.build(run_eagerly=False, joint_steps=joint_steps, auxiliaries=0)
        model.conflict_every_steps = every
        logs = [small.fit(model, batch[None]) for batch in images]
        measured = [any(k.startswith("cosine") for k in log) for log in logs]
        assert measured == ([False, True] if every else [False, False])
        ends.append(small.trained_state(model))
    assert not any(small.differences(*ends).values())


def test_without_amalgamated_representation_there_are_the_tasks_alone():
    model = small.build(variant=None, auxiliaries=0)
    assert model.conflict_names == []
    model.conflict_every_steps = 5
    assert model.conflict_names == ["cosine/normal:depth_zbuffer"]
