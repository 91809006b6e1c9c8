"""Precision of networks, and advice on it."""

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.errors import UserError
from soka_tf.networks import precision
from soka_tf.networks.precision import compute_in, hint
from tests.soka import small


def test_layers_made_inside_compute_in_bfloat16_and_keep_float32_variables():
    with compute_in("mixed_bfloat16"):
        encoder = small.encoder()
    layer = encoder.get_layer("conv1")
    assert layer.compute_dtype == "bfloat16"
    assert {v.dtype for v in encoder.variables} == {tf.float32}
    assert encoder(tf.zeros([1, 16, 16, 3]))["representation"].dtype == tf.float32
    assert tf.keras.mixed_precision.global_policy().name == "float32"


def test_policy_is_put_back_after_an_error():
    with pytest.raises(RuntimeError), compute_in("mixed_bfloat16"):
        raise RuntimeError
    assert tf.keras.mixed_precision.global_policy().name == "float32"


def test_unknown_precision_is_refused_by_its_binding():
    with pytest.raises(
        UserError, match=r"float32, mixed_bfloat16, mixed_float16. .*'bf16'"
    ):
        with compute_in("bf16", "run.precision"):
            pass


@pytest.mark.parametrize(
    "amx, large, wanted, words",
    [
        (True, True, "float32", "a step would be faster"),
        (True, False, "float32", None),
        (False, False, "mixed_bfloat16", "slower"),
        (True, True, "mixed_bfloat16", None),
        (False, True, "float32", None),
        (True, True, "mixed_float16", "is for GPUs"),
    ],
)
def test_hint_is_one_line_where_another_precision_suits_better(
    monkeypatch, amx, large, wanted, words
):
    monkeypatch.setattr(precision, "has_amx", lambda: amx)
    encoder = small.encoder()
    if large:
        scalars = sum(v.shape.num_elements() for v in encoder.variables)
        monkeypatch.setattr(precision, "_LARGE", scalars)
    said = hint(wanted, "run.precision", encoder)
    assert said is None if words is None else words in said and "\n" not in said


@pytest.mark.parametrize(
    "variant",
    ["reconstruction", pytest.param("outer_product", marks=pytest.mark.slow)],
)
def test_cycle_in_bfloat16_moves_as_in_float32_and_logs_float32(variant):
    images = small.batches(2)
    weights = {}
    for name in ("float32", "mixed_bfloat16"):
        with compute_in(name):
            model = small.build(variant=variant, gan=1, optimizers=None)
        logs = small.fit(model, images)
        assert all(np.isfinite(v).all() for v in logs.values())
        weights[name] = model.balancing.task_weights.numpy()
        kinds = {v.dtype for vs in model.players.variables.values() for v in vs}
        assert kinds == {tf.float32}
    np.testing.assert_allclose(weights["mixed_bfloat16"], weights["float32"], atol=0.02)
