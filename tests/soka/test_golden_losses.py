"""Losses and weight penalties against losses.json, recorded with the original code.

Predictions and logits are the recorded ones, so that a row tells of its loss alone;
only the decoder of train_c3 is run, for its whole output was not kept.
"""

import json

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.networks.decoder import Decoder
from soka_tf.networks.discriminator import Discriminator
from soka_tf.networks.encoder import Encoder
from soka_tf.soka.adversarial import Adversary, discriminator_loss, generator_loss
from soka_tf.soka.distillation import soft_target_loss
from soka_tf.soka.players import with_weight_penalty
from tests import golden_weights

RUNTIMES = ("tf15", "tf215")
# Relative, as the README has them; on the recording machine tf215 is met exactly.
LOSSES = {"tf15": 5e-5, "tf215": 1e-6}
# With batch statistics another CPU may be as far from tf215 as tf15 is.
TRAIN_CHAIN = 1e-3
PENALTIES = {"tf15": 5e-4, "tf215": 1e-6, "float64": 1e-6}
DECAY, DISCRIMINATOR_DECAY = 2e-6, 2e-5
ADVERSARIAL_WEIGHT = Adversary({}).weight


@pytest.fixture(scope="module")
def golden(shared_folder):
    return shared_folder / "golden"


@pytest.fixture(scope="module")
def losses(golden):
    return json.loads((golden / "losses.json").read_text())


@pytest.fixture(scope="module")
def arrays(golden):
    """Returns a function (runtime, file, key) -> array."""

    def load(runtime, file, key):
        with np.load(golden / f"network_{runtime}" / f"{file}.npz") as recorded:
            return recorded[key]

    return load


@pytest.fixture(scope="module")
def decoders():
    yield {c: golden_weights.fill(Decoder(c), "decoder") for c in (1, 3)}
    golden_weights.draw.cache_clear()


@pytest.fixture(scope="module")
def penalties(decoders):
    """Channels -> penalty by its recorded name."""
    encoder = golden_weights.fill(Encoder(), "encoder")
    return {
        channels: {
            "reg_encoder": penalty(encoder.trunk, DECAY),
            "reg_compress1_not_in_total": penalty(encoder.compress, DECAY),
            "reg_decoder": penalty(decoder, DECAY),
            "reg_discriminator": penalty(
                golden_weights.fill(Discriminator(channels), "discriminator"),
                DISCRIMINATOR_DECAY,
            ),
        }
        for channels, decoder in decoders.items()
    }


def penalty(network, decay):
    """What the penalty's gradient says its value is: half of <gradient, weights>."""
    variables = network.trainable_variables
    nothing = [tf.zeros_like(v) for v in variables]
    gradients = with_weight_penalty(nothing, variables, decay)
    return sum(
        np.vdot(g.numpy().astype(np.float64), v.numpy().astype(np.float64)) / 2
        for g, v in zip(gradients, variables)
    )


def masks(channels):
    """Weights by their recorded name; [2, 256, 256, 1] unless of every element."""
    mask = golden_weights.mask()
    fractions = np.random.RandomState(8).uniform(0.99, 1.0, mask.shape)
    return {
        "nomask": None,
        "mask": mask,
        "maskfrac": (mask * fractions).astype(np.float32),
        "mask_all_zero": np.zeros((*mask.shape[:3], channels), np.float32),
    }


def logits_of(arrays, runtime, row):
    """Recorded logits of real and fake maps of a row of losses.json."""
    mode, channels = row.rsplit("_", 1)
    file = {
        "eval": f"discriminator_{channels}_eval",
        "disc_train": f"discriminator_{channels}_train",
        "train": f"train_mode_{channels}",
    }[mode]
    return [arrays(runtime, file, f"logits_{side}") for side in ("real", "fake")]


def compared(expected, actual, tolerance):
    """Asserts that all names of `actual` agree with the recorded values."""
    for name, value in actual.items():
        assert float(value) == pytest.approx(expected[name], rel=tolerance), name


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("channels", [1, 3])
def test_distillation_with_and_without_mask_is_the_originals(
    golden, losses, arrays, runtime, channels
):
    # Of 3 channels tf15 kept every second pixel only; tf215's differ by 1e-5.
    prediction = arrays("tf215", f"decoder_c{channels}_eval", "decoder_output")
    if (runtime, channels) == ("tf15", 1):
        prediction = arrays("tf15", "decoder_c1_eval", "decoder_output")
    target = golden_weights.targets(golden, channels)
    expected = losses[runtime][f"eval_c{channels}"]
    actual = {
        f"{kind}_{name}": soft_target_loss(prediction, target, kind, weights)
        for kind in ("l1", "l2")
        for name, weights in masks(channels).items()
    }
    assert float(actual.pop("l2_mask_all_zero")) == 0.0  # not recorded
    assert set(actual) == {name for name in expected if "mask" in name}
    actual["l1_loss"] = actual["l1_mask"]
    compared(expected, actual, LOSSES[runtime])


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    "row", ["eval_c1", "eval_c3", "disc_train_c1", "disc_train_c3", "train_c3"]
)
def test_adversarial_losses_of_each_row_are_the_originals(losses, arrays, runtime, row):
    real, fake = logits_of(arrays, runtime, row)
    sure = np.full_like(real, 200.0)
    actual = {
        # Beside a map that the discriminator is sure of, the other one's loss is left.
        "loss_d_real": 2 * discriminator_loss(real, -sure),
        "loss_d_fake": 2 * discriminator_loss(sure, fake, real_label=1.0),
        "loss_g": generator_loss(fake),
    }
    compared(losses[runtime][row], actual, LOSSES[runtime])


@pytest.mark.parametrize("channels", [1, 3])
def test_weight_penalties_of_each_player_are_the_originals(losses, penalties, channels):
    actual = penalties[channels]
    exact = losses["weight_penalties_float64_exact"][f"c{channels}"]
    assert set(actual) == set(exact)
    compared(exact, actual, PENALTIES["float64"])
    for runtime in RUNTIMES:
        compared(losses[runtime][f"eval_c{channels}"], actual, PENALTIES[runtime])


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("row", ["eval_c1", "eval_c3", "train_c3"])
def test_totals_of_each_player_are_the_originals(
    losses, arrays, penalties, runtime, row
):
    expected = losses[runtime][row]
    real, fake = logits_of(arrays, runtime, row)
    added = penalties[int(row[-1])]
    share = ADVERSARIAL_WEIGHT
    actual = {
        "loss_d_total": discriminator_loss(real, fake) + added["reg_discriminator"],
        "loss_g_total": (1 - share) * expected["l1_loss"]
        + share * generator_loss(fake)
        + added["reg_encoder"]
        + added["reg_decoder"],
    }
    compared(expected, actual, LOSSES[runtime])


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_distillation_with_batch_statistics_is_the_originals(
    golden, losses, arrays, decoders, runtime
):
    representation = arrays(runtime, "train_mode_c3", "encoder_output")
    prediction = golden_weights.fill(decoders[3], "decoder")(
        representation, training=True
    )
    target = golden_weights.targets(golden, 3)
    loss = soft_target_loss(prediction, target, "l1", golden_weights.mask())
    compared(losses[runtime]["train_c3"], {"l1_loss": loss}, TRAIN_CHAIN)
