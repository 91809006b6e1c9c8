"""Trains on one and on two replicas and writes how far apart they end, as JSON.

A script, because logical devices are made before TensorFlow starts, and because an
error among replicas spoils its process.
"""

import json
import sys

import numpy as np
import tensorflow as tf

from soka_tf.networks.batch_norm import synchronize
from soka_tf.runs.optimizers import make_optimizer
from soka_tf.soka.balancing.uncertainty import Uncertainty
from soka_tf.soka.balancing.upgrad import UPGrad
from tests import smooth
from tests.soka import small

REPLICAS, BATCH = 2, 4
# Stage -> steps; together they are more than 20 cycles.
JOINT_STEPS, CYCLES = 2, 21  # the cycles with the CGAN term, which has all the others
FEW_CYCLES = 3  # before rounding meets a kink


class StepLogs(tf.keras.callbacks.Callback):
    """Keeps every step's logs."""

    def on_train_begin(self, logs=None):
        self.steps = []

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append({k: float(v) for k, v in logs.items()})


def small_steps():
    """Plain steps in proportion to the gradients, small enough to converge.

    Adam divides by the size of a gradient and so turns the rounding of tiny ones, which
    no two orders of summation share, into steps of full length.
    """
    return {
        player: make_optimizer("sgd", 0.05 * rate, momentum=0.5)
        for player, rate in small.RATES.items()
    }


def train(strategy, steps, synchronized=True, optimizers=small_steps, **options):
    """Returns state, logs, and how far the replicas' copies of variables differ."""
    small._teachers.clear()  # they belong to the strategy they were made in
    options = {"joint_steps": JOINT_STEPS, "gan": JOINT_STEPS, **options}
    with strategy.scope():
        model = small.build(run_eagerly=False, optimizers=optimizers(), **options)
    for network in (model.student, *model.discriminators.values()):
        synchronize(network, synchronized)
    images = small.batches(steps, batch_size=BATCH)
    count = strategy.num_replicas_in_sync
    # Consecutive elements make a step: one a replica.
    images = images.reshape(steps * count, BATCH // count, *images.shape[2:])
    data = strategy.distribute_datasets_from_function(lambda _: small.dataset(images))
    logs = StepLogs()
    model.fit(data, steps_per_epoch=steps, verbose=0, callbacks=[logs])
    apart = {}
    for name, variables in model.players.variables.items():
        for variable in variables:
            copies = strategy.experimental_local_results(variable)
            copies = [copy.numpy() for copy in copies]
            far = max(float(np.max(np.abs(c - copies[0]))) for c in copies)
            apart[name] = max(apart.get(name, 0.0), far)
    for variable in (*small.bookkeeping(model), model.step):
        copies = strategy.experimental_local_results(variable)
        copies = [np.asarray(copy) for copy in copies]
        apart[variable.name] = max(float(np.max(np.abs(c - copies[0]))) for c in copies)
    return small.trained_state(model), logs.steps, apart


def compare(mirrored, steps, **options):
    """Trains twice; returns the largest differences, by player and by log."""
    one, logs, _ = train(tf.distribute.OneDeviceStrategy("CPU:0"), steps, **options)
    two, other_logs, apart = train(mirrored, steps, **options)
    far = {}
    for path, difference in small.differences(one, two).items():
        kind = "moving/" if "moving_" in path else ""
        of_task = path.startswith(("decoder", "discriminator", "optimizer"))
        name = kind + "/".join(path.split("/")[: 2 if of_task else 1])
        far[name] = float(np.maximum(far.get(name, 0.0), difference))  # or NaN
    assert [set(step) for step in logs] == [set(step) for step in other_logs]
    for step, other in zip(logs, other_logs):
        for log, value in step.items():
            difference = abs(value - other[log])
            name = f"log/{log}"
            far[name] = float(np.maximum(far.get(name, 0.0), difference))
    return {"far": far, "apart": apart}


def main():
    """Writes the comparisons to the file named by the first argument."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    devices = [tf.config.LogicalDeviceConfiguration()] * REPLICAS
    tf.config.set_logical_device_configuration(cpu, devices)
    # Graphs that run some twenty times are not worth their optimization.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    # One for all: a second one's messages would be taken for those of the first.
    mirrored = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(REPLICAS)])
    results = {
        "separate": compare(mirrored, JOINT_STEPS, synchronized=False),
        "few_cycles": compare(mirrored, JOINT_STEPS + FEW_CYCLES),
    }
    with smooth.activations():
        results["synchronized"] = compare(mirrored, JOINT_STEPS + CYCLES)
        # What a rule decides is of the tasks' pulls, whatever else is in a step.
        plain = dict(gan=None, auxiliaries=0, variant=None, joint_weighting=True)
        for rule in (UPGrad, Uncertainty):
            results[rule.__name__] = compare(
                mirrored, JOINT_STEPS + FEW_CYCLES, rule=rule, **plain
            )
        # Teachers left out by image, and norms in which L_A is a task.
        results["mended"] = compare(
            mirrored,
            JOINT_STEPS + FEW_CYCLES,
            gan=None,
            joint_amalgamation=True,
            joint_loss="of_cycle",
            transfer=dict(adapter=True, teacher_dropping=0.4),
            transfer_as_task=True,
        )
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
