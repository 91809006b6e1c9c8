"""The step compiled by XLA against the graph's."""

import dataclasses
import types

import numpy as np
import pytest

from soka_tf.errors import UserError
from soka_tf.networks.precision import compute_in
from soka_tf.runs.build_run import build_run
from soka_tf.runs.config import parse_gin
from tests import smooth
from tests.soka import small

# XLA sums in another order and fuses what the graph rounds; the networks are smooth, so
# that this stays rounding. Norms of gradients amplify it most.
TOLERANCE = 1e-4


def build(jit_compile, precision="float32", **options):
    with smooth.activations(), compute_in(precision):
        model = small.build(run_eagerly=False, **{"joint_steps": 1, **options})
    if model.adversary is not None:  # XLA draws other numbers from the same seed
        model.adversary = dataclasses.replace(model.adversary, noise={})
    model.compile(model.optimizers, jit_compile=jit_compile)
    return model


@pytest.mark.parametrize(
    "options, steps",
    [
        # XLA takes seconds for each network: one student, one teacher, a joint step.
        (dict(tasks=small.TASKS[:1], auxiliaries=0, variant=None), 1),
        pytest.param(
            dict(order="simultaneous", joint_steps=0, auxiliaries=0),
            2,
            marks=pytest.mark.slow,
        ),
        pytest.param(dict(gan=2), 3, marks=pytest.mark.full_size),
    ],
    ids=["joint", "simultaneous", "every_stage"],
)
def test_compiled_step_is_that_of_the_graph(options, steps):
    compiled, plain = build(True, **options), build(False, **options)
    for step, batch in enumerate(small.batches(steps)):
        start = small.trained_state(plain)
        small.set_state(compiled, start)
        logs = [small.fit(model, batch[None]) for model in (compiled, plain)]
        assert logs[0].keys() == logs[1].keys()
        for name, (value,) in logs[1].items():
            assert logs[0][name][0] == pytest.approx(value, rel=1e-3), (step, name)
        end = small.trained_state(plain)
        far = small.differences(small.trained_state(compiled), end)
        assert not {path: d for path, d in far.items() if not d <= TOLERANCE}
        assert max(small.differences(end, start).values()) > 10 * TOLERANCE
    stages = {plain.stage_at(step) for step in range(steps)}
    assert len(compiled._compiled_steps) == len(stages)


@pytest.mark.full_size
@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_compiled_step_in_mixed_precision_trains(precision):
    model = build(True, precision, tasks=small.TASKS[:1])  # XLA takes long
    logs = small.fit(model, small.batches(3))
    assert all(np.isfinite(values).all() for values in logs.values())
    assert model.ledger.first_not_finite() == {}


def test_several_replicas_are_refused_by_binding(tiny, fresh_gin, tmp_path):
    parse_gin(["gin/rooms/soka.gin"], tiny.params("run.jit_compile = True"))
    two = types.SimpleNamespace(num_replicas_in_sync=2)
    with pytest.raises(UserError, match="run.jit_compile.* one device. Received: .* 2"):
        build_run(str(tmp_path), two)
    assert not any(tmp_path.iterdir())
