"""The CGAN term against recorded values and formulas."""

import json

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.soka.adversarial import (
    discriminator_accuracy,
    discriminator_loss,
    generator_loss,
    instance_noise,
)


def cross_entropy(logits, label):
    p = 1.0 / (1.0 + np.exp(-logits.astype("float64")))
    return np.mean(-label * np.log(p) - (1 - label) * np.log(1 - p))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("runtime", ["tf15", "tf215"])
def test_losses_on_recorded_logits_are_the_originals(shared_folder, runtime, channels):
    golden = shared_folder / "golden"
    losses = json.loads((golden / "losses.json").read_text())[runtime]
    expected = losses[f"eval_c{channels}"]
    name = f"discriminator_c{channels}_eval.npz"
    with np.load(golden / f"network_{runtime}" / name) as arrays:
        real, fake = arrays["logits_real"], arrays["logits_fake"]
    assert float(generator_loss(fake)) == pytest.approx(expected["loss_g"], rel=1e-5)
    both = 0.5 * expected["loss_d_real"] + 0.5 * expected["loss_d_fake"]
    assert float(discriminator_loss(real, fake)) == pytest.approx(both, rel=1e-5)


def test_losses_of_random_logits_are_the_formulas():
    real, fake = np.random.default_rng(0).normal(0, 2, (2, 3, 4, 4, 1)).astype("f")
    expected = 0.5 * cross_entropy(real, 0.9) + 0.5 * cross_entropy(fake, 0.0)
    assert float(discriminator_loss(real, fake)) == pytest.approx(expected, rel=1e-5)
    expected = 0.5 * cross_entropy(real, 1.0) + 0.5 * cross_entropy(fake, 0.0)
    unsmoothed = discriminator_loss(real, fake, real_label=1.0)
    assert float(unsmoothed) == pytest.approx(expected, rel=1e-5)
    # The generator's label is 1, not the smoothed 0.9.
    expected = cross_entropy(fake, 1.0)
    assert float(generator_loss(fake)) == pytest.approx(expected, rel=1e-5)


def test_accuracy_counts_real_and_fake_patches_alike():
    real = np.reshape([0.1, -2.0, 3.0, 0.5], (1, 2, 2, 1)).astype("f")  # 3 of 4
    fake = np.reshape([-0.1, 5.0], (1, 1, 2, 1)).astype("f")  # 1 of 2
    assert float(discriminator_accuracy(real, fake)) == pytest.approx(0.625)
    # Whatever it says of both alike, it tells nothing apart.
    for same in (real, fake, -real):
        assert float(discriminator_accuracy(same, same)) == pytest.approx(0.5)
    half = tf.cast(real, tf.float16)
    assert discriminator_accuracy(half, half).dtype == tf.float32


def test_losses_of_huge_and_half_precision_logits_stay_finite_float32():
    huge = tf.constant([[[[1e4]]], [[[-1e4]]]], tf.bfloat16)
    for loss in (discriminator_loss(huge, huge), generator_loss(huge)):
        assert loss.dtype == tf.float32 and np.isfinite(loss)


@pytest.mark.parametrize("step, scale", [(0, 1.0), (5000, 0.5), (45000, 0.1)])
def test_instance_noise_fades_with_the_step(step, scale):
    maps = tf.zeros([2, 64, 64, 3])
    seed = tf.constant([1, 2])
    first = instance_noise(maps, tf.constant(0, tf.int64), 0.1, seed)
    noise = instance_noise(maps, tf.constant(step, tf.int64), 0.1, seed)
    np.testing.assert_allclose(noise, scale * first, rtol=1e-5)
    assert np.std(noise) == pytest.approx(0.1 * scale, rel=0.02)
    assert abs(np.mean(noise)) < 0.004 * scale


def test_instance_noise_depends_on_its_seed_alone():
    maps = tf.random.stateless_uniform([1, 8, 8, 1], [0, 0])
    step = tf.constant(7, tf.int64)
    first = instance_noise(maps, step, 0.1, tf.constant([1, 2]))
    tf.random.set_seed(99)
    again = tf.function(instance_noise)(maps, step, 0.1, tf.constant([1, 2]))
    np.testing.assert_allclose(first, again, atol=1e-7)
    other = instance_noise(maps, step, 0.1, tf.constant([1, 3]))
    assert np.abs(first - other).max() > 0.01
    np.testing.assert_array_equal(
        instance_noise(maps, step, 0.0, tf.constant([1, 2])), maps
    )
