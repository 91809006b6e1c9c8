"""Writes steps of a configured run as XLA programs: the half that needs TensorFlow.

NAME.hlo.gz is an HloModuleProto, NAME.json says what its inputs and results are:

    step, batch_size, precision, order, logs (names of the first results, scalars),
    inputs: [{name, kind, shape, dtype, mean, std, min, max}] in the program's order,
    kind "data" or "variable"

The other results are the next values of inputs; which, the program itself says (its
input_output_alias). NAME.npz, where asked for, holds the variables' values by name.
"""

import gzip
import json
import os
import tempfile
from typing import Any, Callable, Dict, Iterator, Tuple

import gin
import numpy as np
import tensorflow as tf

from soka_tf.disk import replacing
from soka_tf.errors import UserError
from soka_tf.networks.decoder import Decoder
from soka_tf.networks.encoder import Encoder
from soka_tf.runs import build
from soka_tf.runs.run import assemble_model
from soka_tf.runs.settings import Settings
from soka_tf.soka.model import STAGES, Mode, SokaModel
from soka_tf.tasks import get_task
from soka_tf.teachers.taskonomy.network import TaskonomyTeacher, save_teacher
from tests.soka import reference

# The stages of training, and to compare: the joint step with the teachers' outputs
# given, their pass alone, and the phases each on its own (tests/soka/reference.py).
STEPS = (*STAGES, "student", "teachers", "naive")


def export_step(
    model: SokaModel,
    settings: Settings,
    step: str,
    batch_size: int,
    out_dir: str,
    values: bool,
) -> str:
    """Writes one of `STEPS`, at a number of images a step; returns its description.

    Args:
      model: of `build_model`.
      settings: of `build_model`.
      step: one of `STEPS`.
      batch_size: images a step.
      out_dir: folder, made where it is missing.
      values: whether the variables' values are written, too.
    """
    data = _zeros(model, settings, step, batch_size)
    flat = tf.nest.flatten(data)
    compute = _computation(model, step)

    @tf.function(jit_compile=True, autograph=False)
    def program(*flat):
        return compute(tf.nest.pack_sequence_as(data, flat))

    concrete = program.get_concrete_function(*flat)
    hlo = program.experimental_get_compiler_ir(*flat)(stage="hlo_serialized")
    named = {v.handle.ref(): (n, v) for n, v in variables_by_name(model).items()}
    unnamed = {v.handle.ref(): v for v in concrete.graph.variables}
    arrays = [(name, "data", zeros) for name, zeros in zip(_paths(data), flat)]
    for i, captured in enumerate(concrete.captured_inputs):
        key = captured.ref()
        name, value = named.get(key, (f"other/{i}", unnamed.get(key, captured)))
        arrays.append((name, "variable", value))
    description = {
        "step": step,
        "batch_size": batch_size,
        "precision": settings.precision,
        "order": model.schedule.order,
        "logs": sorted(concrete.structured_outputs),
        "inputs": [_describe(name, kind, v.numpy()) for name, kind, v in arrays],
    }
    os.makedirs(out_dir, exist_ok=True)
    order = f"_{model.schedule.order}" if step.startswith("cycle") else ""
    path = os.path.join(out_dir, f"{step}{order}_{batch_size}")
    with replacing(f"{path}.hlo.gz") as name, gzip.open(name, "wb") as file:
        file.write(hlo)
    if values:
        with replacing(f"{path}.npz") as name, open(name, "wb") as file:
            np.savez(file, **{n: v.numpy() for n, kind, v in arrays if kind != "data"})
    with replacing(f"{path}.json") as name, open(name, "w", encoding="utf-8") as file:
        json.dump(description, file)
    return f"{path}.json"


def build_model(random_teachers: bool) -> Tuple[SokaModel, Settings]:
    """The compiled model of the bindings, whose auxiliary teachers are named or none.

    Args:
      random_teachers: whether untrained networks as large as the student teach.
    """
    settings = Settings()
    auxiliary = gin.query_parameter("%auxiliary")
    auxiliaries = [] if isinstance(auxiliary, str) else list(auxiliary)
    with tempfile.TemporaryDirectory() as folder:
        if random_teachers:
            gin.bind_parameter("find_teachers.teachers_dir", folder)
            student = build.build_student(settings.task_names, seed=settings.seed)
            config = student.ordered_decoders[0].get_config()
            for task in [*settings.task_names, *auxiliaries]:
                encoder = Encoder(**student.encoder.get_config())
                channels = get_task(task).channels
                decoder = Decoder(**{**config, "channels": channels})
                teacher = TaskonomyTeacher(task, encoder, decoder, settings.image_size)
                save_teacher(teacher, os.path.join(folder, f"{task}.safetensors"))
        files = build.find_teachers(settings.task_names, auxiliaries)
        model = assemble_model(settings, build.load_pool(files))
    model.compile(build.build_optimizers(settings.max_steps)[0])
    return model, settings


def variables_by_name(model: SokaModel) -> Dict[str, tf.Variable]:
    """The state of a step, by names that depend on the configuration alone."""
    owners = {**model.players.variables, "balancing": model.balancing.variables}
    for player, optimizer in model.players.optimizers.items():
        owners[f"optimizer/{player}"] = optimizer.variables()
    for teacher in model.teachers.teachers:
        owners[f"teacher/{teacher.task.name}"] = teacher.variables
    owners["means"] = [v for metric in model.metrics for v in metric.variables]
    owners["ledger"] = [model.ledger.not_finite_since]
    named: Dict[str, tf.Variable] = {"step": model.step}
    for owner, variables in owners.items():
        for i, variable in enumerate(variables):
            name = f"{owner}/{variable.name.split(':')[0]}"
            named[f"{name}/{i}" if name in named else name] = variable
    return named


def _computation(
    model: SokaModel, step: str
) -> Callable[[Dict[str, Any]], Dict[str, tf.Tensor]]:
    """What a step computes: data -> log name -> scalar."""

    def naive(data):
        reference.cycle(model, data["rgb"])
        return {"step": model.step.read_value()}

    def teachers(data):
        outputs = model.teachers(data["rgb"], model.amalgamated_layers)
        tensors = tf.nest.flatten([outputs.predictions, outputs.features])
        # Of every output, or XLA leaves out what nobody asks for.
        return {f"mean/{i}": tf.reduce_mean(t) for i, t in enumerate(tensors)}

    def train(data):
        return model.train_step(data, Mode("joint" if step == "student" else step))

    return {"naive": naive, "teachers": teachers}.get(step, train)


def _zeros(
    model: SokaModel, settings: Settings, step: str, batch_size: int
) -> Dict[str, Any]:
    """A step's data, as far as its shapes go."""
    if step == "cycle_gan" and model.adversary is None:
        raise UserError("--step=cycle_gan needs build_adversary.enabled = True.")
    batch = (batch_size * model.batches_per_step, *[settings.image_size] * 2)
    images = tf.zeros([*batch, 3])
    data: Dict[str, Any] = {"rgb": images}
    if settings.by_labels and step in STAGES:
        maps = {t.name: tf.zeros([*batch, t.channels]) for t in settings.targets}
        weights = {name: tf.zeros([*batch, 1]) for name in maps}
        data["teachers"] = {"predictions": maps, "features": {}, "weights": weights}
    elif step == "student":
        teach = tf.function(lambda: model.teachers(images, model.amalgamated_layers))
        taught = teach.get_concrete_function().structured_outputs
        taught = tf.nest.map_structure(lambda t: tf.zeros(t.shape, t.dtype), taught)
        features = {layer: tuple(values) for layer, values in taught.features.items()}
        data["teachers"] = {"predictions": taught.predictions, "features": features}
    return data


def _paths(structure: Any, prefix: str = "") -> Iterator[str]:
    """The names of `tf.nest.flatten`'s tensors: "teachers/predictions/normal"."""
    if not isinstance(structure, (dict, tuple)):
        yield prefix
        return
    named = structure if isinstance(structure, dict) else dict(enumerate(structure))
    for key in sorted(named):
        yield from _paths(named[key], f"{prefix}/{key}".lstrip("/"))


def _describe(name: str, kind: str, value: np.ndarray) -> Dict[str, Any]:
    numbers = np.asarray(value, np.float64)
    drawn = {f: float(getattr(np, f)(numbers)) for f in ("mean", "std", "min", "max")}
    shape, dtype = list(value.shape), str(value.dtype)
    return {"name": name, "kind": kind, "shape": shape, "dtype": dtype, **drawn}
