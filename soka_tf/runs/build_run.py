"""A run's parts, built from the bindings."""

import atexit
import dataclasses
import functools
import os
import shutil
import tempfile
from typing import Any, Callable, Dict, Optional, Sequence

import gin
import tensorflow as tf
from absl import logging

from soka_tf.data.pipeline import Batches
from soka_tf.data.samples import Data, Sample
from soka_tf.errors import UserError
from soka_tf.networks.precision import compute_in, hint
from soka_tf.runs import advice, build_networks, build_parts
from soka_tf.runs.auxiliary import Selection, select_auxiliary
from soka_tf.runs.build_data import build_data, default_cache_dir
from soka_tf.runs.checkpoints import copy_state, last_step
from soka_tf.runs.config import bound_values, operative_config, or_user_error
from soka_tf.runs.feature_statistics import FeatureStatistics
from soka_tf.runs.folder import refuse_differences, refuse_file
from soka_tf.runs.gin_text import with_binding
from soka_tf.runs.settings import Settings
from soka_tf.runs.strategy import build_strategy, describe_devices, worker_index
from soka_tf.soka.model import SokaModel
from soka_tf.soka.objective import Objective
from soka_tf.soka.schedule import Schedule
from soka_tf.teachers.cache import TeacherCache
from soka_tf.teachers.finding import TeacherFiles
from soka_tf.teachers.pool import TeacherPool, Wanted

STEP = "the step to go on from"
# Bindings that need not be the same on all workers.
_OF_EACH_MACHINE = (
    "rooms.dir",
    "run.teacher_cache_dir",
    "build_data.check_files",
    "build_strategy.name",
    "strategy",
)


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that is ready to train.

    Attributes:
      settings: of the run.
      model: the compiled model.
      teacher_files: what its teachers were loaded from.
      data: the images.
      learning_rate: the schedule of encoder and decoders.
      config: the operative gin configuration, all values included.
      selection: the auxiliary teachers, and why these.
      strategy: where it computes.
      output_dir: where this process writes: the chief into the run's folder, other
        workers into one that is thrown away.
    """

    settings: Settings
    model: SokaModel
    teacher_files: TeacherFiles
    data: Data
    learning_rate: Any
    config: str
    selection: Selection
    strategy: tf.distribute.Strategy
    output_dir: str

    @property
    def fingerprints(self) -> Dict[str, str]:
        """Of its teachers, see `fingerprints_of`."""
        return fingerprints_of(self.model.teachers)


def fingerprints_of(teachers: TeacherPool) -> Dict[str, str]:
    """Task -> fingerprint of its teacher."""
    known = {**teachers.targets, **teachers.auxiliaries}
    return {name: teacher.fingerprint for name, teacher in known.items()}


def build_run(model_dir: str, strategy: Optional[tf.distribute.Strategy] = None) -> Run:
    """Builds all parts from the bindings.

    Args:
      model_dir: the run's folder.
      strategy: where to compute; None for the bound `build_strategy`.

    Raises:
      UserError: if files are missing or bindings do not fit each other.
    """
    refuse_file(model_dir)
    # Before all else: devices cannot be divided up once TensorFlow has computed.
    strategy = strategy or build_strategy(facts=_facts(model_dir))
    settings = Settings()
    if settings.jit_compile and strategy.num_replicas_in_sync > 1:
        raise UserError(
            "run.jit_compile = True compiles the step of one device. Received: a "
            f"strategy of {strategy.num_replicas_in_sync} replicas. Bind "
            "run.jit_compile = False or strategy = 'one_device'."
        )
    logging.info(describe_devices(strategy, settings.batch_size))
    check_parts(settings)
    _warn(advice.of_steps(bound_values()))
    # Before rooms are drawn or a split is read that another configuration would need.
    refuse_differences(model_dir, gin.config_str(), of_both=True)
    names = settings.task_names
    build_parts.find_teachers(names).require()  # before minutes of drawing rooms

    @functools.cache
    def find_data() -> Data:
        data = _find_data(settings, model_dir)
        _warn(advice.of_images(len(data.train), settings.batch_size))
        return data

    selection = select_auxiliary(
        names,
        lambda: find_data().train,
        settings.image_size,
        settings.antialias,
        model_dir,
    )
    teacher_files = build_parts.find_teachers(names, selection.names)
    with strategy.scope():
        teachers = build_parts.load_pool(teacher_files)
        measure = _measure(settings, teachers, lambda: find_data().train, model_dir)
        model = assemble_model(settings, teachers, measure)
        optimizers, learning_rate = build_parts.build_optimizers(model.schedule)
        model.compile(optimizers, settings.jit_compile)
    _advise(settings, model)
    model.movement_every_steps = settings.movement_every_steps
    model.conflict_every_steps = settings.conflict_every_steps
    return Run(
        settings,
        model,
        teacher_files,
        find_data(),
        learning_rate,
        operative_config(),
        selection,
        strategy,
        model_dir if worker_index(strategy) == 0 else _throw_away_folder(),
    )


def _facts(model_dir: str) -> Dict[str, str]:
    """What must be the same on all workers, as far as it is known at the start."""
    values = {name: repr(value) for name, value in sorted(bound_values().items())}
    for name in _OF_EACH_MACHINE:
        values.pop(name, None)
    return {**values, STEP: str(last_step(model_dir))}


def _warn(sentences: Sequence[str]) -> None:
    for sentence in sentences:
        logging.warning(sentence)


def _advise(settings: Settings, model: SokaModel) -> None:
    for teacher in model.teachers.teachers:
        if teacher.image_size not in (None, settings.image_size):
            logging.warning(
                "The teacher of %s learnt at %d pixels, this run has %d: its answers "
                "will be poor. Bind image_size.",
                teacher.task.name,
                teacher.image_size,
                settings.image_size,
            )
    advice = hint(settings.precision, "run.precision", model.student)
    if advice:
        logging.info(advice)


def reseed(run: Run, model_dir: str, seed: int) -> Run:
    """The same run from another seed, in another folder, with the graphs it has traced.

    Its model is `run`'s, with all state as `build_run` makes it for that seed; `run`
    itself must not be used any more. The bindings must be those of `run`.

    Args:
      run: built here; trained or not.
      model_dir: the new run's folder.
      seed: see `Settings`.
    """
    settings = dataclasses.replace(run.settings, seed=seed)
    config = with_binding(run.config, "seed", seed)
    refuse_differences(model_dir, config)
    model, data = run.model, _find_data(settings, model_dir)
    measure = _measure(settings, model.teachers, lambda: data.train, model_dir)
    with run.strategy.scope():
        fresh = assemble_model(settings, model.teachers, measure)
        optimizers, _ = build_parts.build_optimizers(model.schedule)
        fresh.compile(optimizers, settings.jit_compile)
    copy_state(fresh, model)
    # Graphs have the seeds of instance noise and of dropped teachers as constants.
    if model.adversary is not None:
        model.adversary = dataclasses.replace(model.adversary, seed=seed)
    dropping = model.amalgamation and model.amalgamation.transfer.teacher_dropping
    if dropping:
        how = dataclasses.replace(model.amalgamation.transfer, seed=seed)
        model.amalgamation.transfer = how
    if dropping or model.adversary is not None:
        model.make_train_function(force=True)
    return dataclasses.replace(
        run,
        settings=settings,
        data=data,
        config=config,
        output_dir=model_dir,
    )


def data_to_measure(settings: Settings, model_dir: str) -> Data:
    """Finds the images to measure a run on that was trained before.

    Raises:
      UserError: as `build_data`.
    """
    split = _split_file(model_dir)
    names, size = settings.task_names, settings.image_size
    return build_data(names, size, split, measure_only=True)


def _split_file(model_dir: str) -> str:
    """Where a run keeps which images it trains on."""
    return os.path.join(model_dir, "split.json")


def _find_data(settings: Settings, model_dir: str) -> Data:
    data = build_data(
        settings.task_names,
        settings.image_size,
        _split_file(model_dir),
        train_labels=settings.by_labels,
    )
    if not data.validation:
        raise UserError(
            f"{data.source}: a run needs images to validate on. Received: none. Bind "
            "rooms.validation_views to 1 or more, or give the source such images."
        )
    return data


def check_parts(settings: Settings) -> None:
    """Refuses bindings that do not fit each other, before files are looked for.

    Raises:
      UserError: of the schedule, the objective, the rule or the optimizers.
    """
    schedule = build_schedule(settings)
    objective, names = _build_objective(), settings.task_names
    as_task = objective.transfer_as_task
    rule = build_parts.build_balancing(names, transfer_as_task=as_task)
    layers = _amalgamated_layers()
    or_user_error("objective: ", lambda: objective.check_rule(rule, len(names), layers))
    or_user_error("transfer.", build_parts.transfer)
    build_parts.build_optimizers(schedule)


def _amalgamated_layers() -> Optional[Sequence[str]]:
    """Layers of the student that are bound to be amalgamated; None without MIA."""
    bound = bound_values()
    if bound.get("build_amalgamation.variant", "") is None:
        return None
    layers = bound.get("build_amalgamation.layers", build_parts.LAYERS)
    return [layer if isinstance(layer, str) else layer[-1] for layer in layers]


def build_schedule(settings: Settings) -> Schedule:
    """The schedule that is bound, of a run's steps; a wrong one is a UserError."""
    steps = settings.max_steps
    return or_user_error("schedule.", lambda: build_parts.schedule(max_steps=steps))


def _build_objective() -> Objective:
    decay = build_parts.decay().in_loss
    return or_user_error(
        "objective.", lambda: build_parts.objective(weight_decay=decay)
    )


def _measure(
    settings: Settings,
    teachers: TeacherPool,
    samples: Callable[[], Sequence[Sample]],
    model_dir: str,
) -> FeatureStatistics:
    batches = Batches(
        settings.image_size, settings.evaluation_batch_size, settings.antialias
    )
    return FeatureStatistics(teachers, samples, batches, model_dir)


def assemble_model(
    settings: Settings,
    teachers: TeacherPool,
    measure: Optional[FeatureStatistics] = None,
) -> SokaModel:
    """Builds the model of a run from the bindings, not yet compiled.

    Args:
      settings: of the run.
      teachers: its teachers.
      measure: of their features; None where no step will be taken.
    """
    names = settings.task_names
    schedule, objective = build_schedule(settings), _build_objective()
    with compute_in(settings.precision, "run.precision"):
        student = build_networks.build_student(names, seed=settings.seed)
        _check_image_size(settings, student.encoder.output_stride)
        build_networks.initialize_student(student, teachers)
        parts = (
            build_parts.build_balancing(
                names, transfer_as_task=objective.transfer_as_task
            ),
            build_parts.build_amalgamation(
                student, teachers, measure, seed=settings.seed
            ),
            build_parts.build_adversary(names, seed=settings.seed),
        )
        model = or_user_error(
            "objective: ",
            lambda: SokaModel(student, teachers, *parts, schedule, objective),
        )
    if settings.by_labels:
        _check_label_losses(settings, model)
    return model


def _check_image_size(settings: Settings, stride: int) -> None:
    if settings.image_size % stride:
        raise UserError(
            f"image_size must be a multiple of the encoder's output stride, {stride}, "
            "or the student's maps are of another size than the images. Received: "
            f"{settings.image_size}."
        )


def _check_label_losses(settings: Settings, model: SokaModel) -> None:
    """Refuses what needs more of the teachers than labels can stand for."""
    if _layers_of_run(settings, model):
        raise UserError(
            "run.supervision = 'labels' leaves no teachers' features to amalgamate. "
            "Bind build_amalgamation.variant = None, as gin/methods/dmtl.gin does, or "
            "run.supervision = 'teachers'."
        )
    if model.stage_at(settings.max_steps - 1).endswith("_gan"):
        raise UserError(
            "run.supervision = 'labels' and build_adversary.enabled = True exclude "
            "each other: labels lack pixels, which discriminators would learn to see. "
            "Bind build_adversary.enabled = False or run.supervision = 'teachers'."
        )


def _layers_of_run(settings: Settings, model: SokaModel) -> Wanted:
    """The teachers' layers that a step of the run needs: no stage less than before."""
    tail_step = model.schedule.tail_step
    last = (settings.max_steps if tail_step is None else tail_step) - 1
    return model.teacher_layers(model.stage_at(max(last, 0)))


def teacher_cache(
    settings: Settings,
    model: SokaModel,
    pool: Optional[TeacherPool] = None,
) -> TeacherCache:
    """The cache of what a run's teachers say; nothing is computed yet.

    Args:
      settings: of the run.
      model: of the run; it decides which activations are needed.
      pool: the teachers to run; None for the model's.
    """
    return TeacherCache(
        settings.teacher_cache_dir
        or os.path.join(default_cache_dir(), "teacher_outputs"),
        pool or model.teachers,
        settings.image_size,
        settings.antialias,
        _layers_of_run(settings, model),
    )


def _throw_away_folder() -> str:
    folder = tempfile.mkdtemp(prefix="soka_tf_worker_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
