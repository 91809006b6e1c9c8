"""A SOKA model of a few thousand weights, and its state as plain arrays."""

import dataclasses
import functools

import numpy as np
import tensorflow as tf

from soka_tf.networks.decoder import Decoder
from soka_tf.networks.discriminator import Discriminator
from soka_tf.networks.encoder import Encoder
from soka_tf.runs.optimizers import make_optimizer
from soka_tf.soka.adversarial import Adversary
from soka_tf.soka.amalgamation import Amalgamation
from soka_tf.soka.balancing.gradnorm import GradNorm
from soka_tf.soka.model import SokaModel
from soka_tf.soka.objective import Objective
from soka_tf.soka.schedule import Schedule
from soka_tf.soka.student import Student
from soka_tf.tasks import get_task
from soka_tf.teachers.pool import TeacherPool
from soka_tf.teachers.taskonomy.network import TaskonomyTeacher

CHANNELS = {
    "normal": 3,
    "depth_zbuffer": 1,
    "edge_texture": 1,
    "keypoints3d": 1,
    "edge_occlusion": 1,
    "segment_semantic": 17,
    "outline": 1,
    "facing": 3,
}
TASKS = ("normal", "depth_zbuffer")  # not in alphabetical order, on purpose
AUXILIARIES = ("keypoints3d", "edge_occlusion")
SIZE = 16
RATES = {
    "encoder": 0.01,
    "decoders": 0.1,
    "task_weights": 0.01,
    "amalgamation": 0.05,
    "adapter": 0.05,
    "discriminators": 0.1,
}
_teachers = {}


def encoder():
    return Encoder(units=(1, 1, 1, 1), width=1 / 32, strides=(2, 2, 1, 1))


def decoder(task):
    return Decoder(
        CHANNELS[task],
        width=1 / 64,
        upsamplings=2,
        min_filters=3,
        name=f"d_{task}",
        activation=get_task(task).activation,
    )


def teacher(task):
    """A teacher of random weights; the same one at every call."""
    if task not in _teachers:
        made = TaskonomyTeacher(task, encoder(), decoder(task))
        scatter(made.variables, seed=sum(map(ord, task)))
        _teachers[task] = made
    return _teachers[task]


def scatter(variables, seed):
    """Fills variables at random, as a few steps of training would leave them."""
    random = np.random.default_rng(seed)
    for v in variables:
        noise = random.normal(size=v.shape)
        if "kernel" in v.name:
            value = noise / np.sqrt(max(np.prod(v.shape[:-1]), 1))
        elif "variance" in v.name or "gamma" in v.name:
            value = 1.0 + 0.3 * np.tanh(noise)
        else:
            value = 0.1 * noise
        v.assign(value)


def sgd_optimizers(decay_kind="none"):
    return {
        player: make_optimizer(
            "sgd", rate, 1e-3 if decay_kind != "none" else 0.0, decay_kind, momentum=0.5
        )
        for player, rate in RATES.items()
    }


def adam_optimizers():
    # With an epsilon of 1e-8 Adam would turn the rounding of tiny gradients into steps.
    return {player: make_optimizer("adam", 1e-2, epsilon=1e-3) for player in RATES}


def build(
    tasks=TASKS,
    auxiliaries=1,
    variant="reconstruction",
    gan=None,
    optimizers=None,
    run_eagerly=True,
    gradnorm=None,
    rule=None,
    transfer=None,
    **options,
):
    """A compiled model; `variant` None is without MIA, `gan` the first GAN step.

    `rule` makes another rule than GradNorm from the number of tasks; `transfer` has
    attributes of `Transfer`; `options` are those of `Schedule` and `Objective`.
    """
    names = AUXILIARIES[:auxiliaries]
    pool = TeacherPool({t: teacher(t) for t in tasks}, {t: teacher(t) for t in names})
    student = Student(encoder(), {t: decoder(t) for t in tasks})
    scatter(student.variables, seed=1)
    amalgamation = None
    if variant is not None:
        channels = {
            "block3": student.encoder.feature_layers["block3"].channels,
            "representation": 8,
        }
        count = len(tasks) + auxiliaries
        amalgamation = Amalgamation(
            {layer: [c] * count for layer, c in channels.items()},
            channels,
            variant,
            auxiliaries=auxiliaries,
            transfer=transfer,
        )
        random = np.random.default_rng(2)
        for v in amalgamation.variables:  # symmetric starts hide mistakes
            v.assign_add(0.2 * random.normal(size=v.shape).astype("float32"))
    adversary = None
    if gan is not None:
        discriminators = {
            t: Discriminator(CHANNELS[t], 1 / 32, (2, 2, 1), name=f"disc_{t}")
            for t in tasks
        }
        for i, d in enumerate(discriminators.values()):
            scatter(d.variables, seed=3 + i)
        noise = {tasks[0]: 0.1}
        # A heavy weight, so that a mistake in the term is seen.
        adversary = Adversary(discriminators, gan, 0.3, noise, weight_decay=1e-2)
    options = {
        "joint_steps": 0,
        "joint_amalgamation": False,
        "initial_losses_step": 0,
        "soft_loss": "l2",  # smooth: a test's tolerance is that of rounding
        **options,
    }
    rule = rule or functools.partial(GradNorm, **(gradnorm or {}))
    balanced = len(tasks) + options.get("transfer_as_task", False)
    parts = student, pool, rule(balanced), amalgamation, adversary
    model = SokaModel(*parts, *settings(**options))
    model.compile(optimizers or sgd_optimizers(), run_eagerly=run_eagerly)
    return model


def settings(**options):
    fields = {field.name for field in dataclasses.fields(Objective)}
    objective = {name: options.pop(name) for name in fields & set(options)}
    return Schedule(**options), Objective(**objective)


def batches(steps, seed=0, batch_size=3):
    random = np.random.default_rng(seed)
    shape = (steps, batch_size, SIZE, SIZE, 3)
    return random.uniform(-1, 1, shape).astype(np.float32)


def dataset(images):
    return tf.data.Dataset.from_tensor_slices({"rgb": images})


def fit(model, images):
    """Trains on [steps, B, H, W, 3]; returns the last step's logs."""
    return model.fit(dataset(images), verbose=0).history


def trained_state(model):
    """Path -> value of all that training may move, optimizers' slots included."""
    state = {}
    for player, variables in model.players.variables.items():
        for i, v in enumerate(variables):
            state[f"{player}/{i}/{v.name}"] = v
    state.update({v.name.split(":")[0]: v for v in bookkeeping(model)})
    state["step"] = model.step
    for name, optimizer in model.optimizers.items():
        for i, v in enumerate(slots(optimizer)):
            state[f"optimizer/{name}/{i}/{v.name}"] = v
    return {path: v.numpy() for path, v in state.items()}


def bookkeeping(model):
    """What a rule keeps beside the variables that an optimizer moves."""
    optimized = {id(v) for v in model.balancing.optimized}
    return [v for v in model.balancing.variables if id(v) not in optimized]


def slots(optimizer):
    variables = optimizer.variables
    return variables() if callable(variables) else variables


def set_state(model, state):
    """Puts a model back to what `trained_state` returned."""
    values = iter(state.values())
    for variables in model.players.variables.values():
        for v in variables:
            v.assign(next(values))
    for v in bookkeeping(model):
        v.assign(next(values))
    model.step.assign(next(values))
    for optimizer in model.optimizers.values():
        for v in slots(optimizer):
            v.assign(next(values))


def differences(state, other):
    """Path -> largest absolute difference."""
    assert list(state) == list(other)
    return {
        path: float(np.max(np.abs(value - other[path]), initial=0.0))
        for path, value in state.items()
    }
