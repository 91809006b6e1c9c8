"""Writes steps of a configured run as XLA programs: the half that needs TensorFlow.

NAME.hlo.gz is an HloModuleProto, whose input_output_alias says which result is the
next value of which input. NAME.json names its first results, "logs" (scalars), and its
"inputs", data first: [{name, shape, dtype, mean, std, min, max}]. NAME.npz has them.
"""

import argparse
import gzip
from typing import Any, Dict, Tuple

import gin
import numpy as np
import tensorflow as tf
from tensorflow.python.util.nest import flatten_with_joined_string_paths

from soka_tf.atomic import replacing, write_json
from soka_tf.data.targets import Targets
from soka_tf.errors import UserError
from soka_tf.runs import auxiliary, build_parts, checkpoints, config, folder
from soka_tf.runs.build_networks import build_student
from soka_tf.runs.build_run import assemble_model, build_run
from soka_tf.runs.settings import Settings
from soka_tf.soka.model import STAGES, Mode, SokaModel
from soka_tf.teachers.pool import TeacherPool
from soka_tf.teachers.taskonomy.network import TaskonomyTeacher
from tests.soka import reference

# And to compare: joint with targets given, teachers alone, phases each on its own.
STEPS = (*STAGES, "student", "teachers", "naive")


def export(args: argparse.Namespace) -> None:
    """Writes each step for each batch size; prints the descriptions' paths."""
    for step in set(args.step) - set(STEPS):
        raise UserError(f"--step must be one of {', '.join(STEPS)}. Received: {step}.")
    config.parse_gin(args.gin_file, args.gin_param)
    built = build_model(args.random_teachers)
    for size in args.batch:
        for step in args.step:
            print(export_step(*built, step, size, args.out, args.values))


def checkpoint(args: argparse.Namespace) -> None:
    """Makes the variables of a .npz the checkpoint of a run of the bindings."""
    config.parse_gin(args.gin_file, args.gin_param)
    run, saved = build_run(args.model_dir), np.load(args.values)
    for name, variable in variables_by_name(run.model).items():
        if name in saved and saved[name].shape != variable.shape:
            what = f"{args.values}: {name}: {saved[name].shape}, not {variable.shape}"
            raise UserError(f"{what}. Give the bindings it was exported with.")
        variable.assign(saved[name] if name in saved else variable)
    folder.claim(args.model_dir, run.config)
    keep = run.settings.keep_checkpoints
    saves = checkpoints.folder_of(run.model, args.model_dir, keep)
    print(saves.save(int(run.model.step.numpy())))


def export_step(
    model: SokaModel, settings: Settings, step: str, batch: int, out: str, values: bool
) -> str:
    """Writes one of `STEPS` into a folder; returns the path of its description."""
    if step == "cycle_gan" and model.adversary is None:
        raise UserError("--step=cycle_gan needs build_adversary.enabled = True.")
    shape = [batch * model.batches_per_step, *[settings.image_size] * 2]
    data: Dict[str, Any] = {"rgb": tf.random.uniform([*shape, 3], -1, 1)}
    if settings.by_labels and step in STAGES:
        maps = {t.name: tf.zeros([*shape, t.channels]) for t in settings.targets}
        weights = {name: tf.ones([*shape, 1]) for name in maps}
        data["targets"] = Targets(maps, {}, weights)
    elif step == "student":
        data["targets"] = model.teachers(data["rgb"], model.amalgamated_layers)
    flat = tf.nest.flatten(data)

    @tf.function(jit_compile=True, autograph=False)
    def program(*flat):
        given = tf.nest.pack_sequence_as(data, flat)
        if step == "naive":
            reference.cycle(model, given["rgb"])
            return {"step": model.step.read_value()}
        if step == "teachers":
            taught = model.teachers(given["rgb"], model.amalgamated_layers)
            # Of every output, or XLA leaves out what nobody asks for.
            means = map(tf.reduce_mean, tf.nest.flatten(taught))
            return {f"mean/{i}": mean for i, mean in enumerate(means)}
        return model.train_step(given, Mode("joint" if step == "student" else step))

    concrete = program.get_concrete_function(*flat)
    named = {v.handle.ref(): (n, v) for n, v in variables_by_name(model).items()}
    others = {v.handle.ref(): v for v in concrete.graph.variables}
    arrays = {name: t.numpy() for name, t in flatten_with_joined_string_paths(data)}
    for i, key in enumerate(tensor.ref() for tensor in concrete.captured_inputs):
        name, value = named.get(key, (f"{step}/{i}", others.get(key, key.deref())))
        arrays[name] = value.numpy()
    about = {"logs": sorted(concrete.structured_outputs), "inputs": []}
    for name, array in arrays.items():
        of = {"name": name, "shape": array.shape, "dtype": str(array.dtype)}
        for statistic in ("mean", "std", "min", "max"):
            of[statistic] = float(getattr(np, statistic)(array.astype(np.float64)))
        about["inputs"].append(of)
    order = f"_{model.schedule.order}" if step.startswith("cycle") else ""
    path = f"{out}/{step}{order}_{batch}"
    write_json(f"{path}.json", about, indent=None)
    with replacing(f"{path}.hlo.gz") as name, gzip.open(name, "wb") as file:
        file.write(program.experimental_get_compiler_ir(*flat)(stage="hlo_serialized"))
    if values:
        with replacing(f"{path}.npz") as name, open(name, "wb") as file:
            np.savez(file, **arrays)
    return f"{path}.json"


def build_model(random_teachers: bool) -> Tuple[SokaModel, Settings]:
    """The model of the bindings; its teachers are named, or untrained of its size."""
    settings = Settings()
    tasks, size = settings.task_names, settings.image_size
    selection = auxiliary.select_auxiliary(tasks, None, size, settings.antialias, None)
    if random_teachers:
        pools = [{}, {}]  # targets, auxiliaries
        for seed, task in enumerate([*tasks, *selection.names]):
            student = build_student(tasks, seed=seed)
            networks = student.encoder, student.decoders.get(task)
            pools[task not in tasks][task] = TaskonomyTeacher(task, *networks, size)
        bound = gin.get_bindings("load_pool")
        teachers = TeacherPool(*pools, bound["inputs"], bound["precision"])
    else:
        found = build_parts.find_teachers(tasks, selection.names)
        teachers = build_parts.load_pool(found)
    model = assemble_model(settings, teachers)
    model.compile(build_parts.build_optimizers(model.schedule)[0])
    return model, settings


def variables_by_name(model: SokaModel) -> Dict[str, tf.Variable]:
    """The state of a step, by names that depend on the configuration alone."""
    owners = {**model.players.variables, "balancing": model.balancing.variables}
    for player, optimizer in model.players.optimizers.items():
        owners[f"optimizer/{player}"] = optimizer.variables()
    for teacher in model.teachers.teachers:
        owners[f"teacher/{teacher.task.name}"] = teacher.variables
    owners["means"] = [v for metric in model.metrics for v in metric.variables]
    named: Dict[str, tf.Variable] = {"step": model.step}
    for owner, variables in owners.items():
        for i, variable in enumerate(variables):
            name = f"{owner}/{variable.name.split(':')[0]}"
            named[f"{name}/{i}" if name in named else name] = variable
    return named
