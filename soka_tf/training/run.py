"""A run: its settings, its parts, its training, and going on after an interruption."""

import atexit
import contextlib
import dataclasses
import functools
import os
import re
import shutil
import tempfile
from typing import Any, Dict, List, Optional, Sequence

import gin
import numpy as np
import tensorflow as tf
from absl import logging

from soka_tf.data.pipeline import (
    check_augmentation,
    image_dataset,
    label_reader,
    service_dataset,
)
from soka_tf.disk import write_text
from soka_tf.errors import UserError
from soka_tf.networks.folding import EXPORT_PRECISIONS
from soka_tf.networks.precision import PRECISIONS, compute_in, hint
from soka_tf.soka.model import SokaModel
from soka_tf.soka.student import Student
from soka_tf.tasks import Task, get_targets
from soka_tf.teachers.cache import TeacherCache
from soka_tf.teachers.pool import TeacherFiles, TeacherPool
from soka_tf.training import build
from soka_tf.training.auxiliary import Selection, select_auxiliary
from soka_tf.training.callbacks import (
    Checkpoints,
    MetricLog,
    NotFinite,
    Progress,
    saved_step,
    text_summaries,
)
from soka_tf.training.saving import FAILURES, remove_leftovers
from soka_tf.training.strategy import (
    build_strategy,
    count_workers,
    describe_devices,
    lost_workers,
    mean_over_workers,
    worker_index,
)
from soka_tf.training.validation import MEAN, Validation, both, soft_errors, stored_mean

CONFIG_FILE = "operative_config.gin"
SUPERVISIONS = ("teachers", "labels")
_CHECKPOINTS = "checkpoints"
_BEST = "best"
# What TensorFlow raises for a checkpoint that is damaged or another model's.
_MISFITS = (AssertionError, ValueError, LookupError, RuntimeError, tf.errors.OpError)
# A run may be continued with other values of these: they change no result.
# run.teacher_cache is none of them: what it keeps is rounded to float16.
_FREE_BINDINGS = (
    "run.checkpoint_every_steps",
    "run.evaluation_batch_size",
    "run.export",
    "run.export_precision",
    "run.jit_compile",
    "run.keep_checkpoints",
    "run.log_every_steps",
    "run.movement_every_steps",
    "run.panel_every_steps",
    "run.panel_images",
    "run.teacher_cache_dir",
    "run.validate_every_steps",
    "run.validation_images",
    "build_data.check_files",
    "build_data.rooms_dir",
    "build_strategy.name",
    "build_strategy.logical_cpus",
    "strategy",
)


@gin.configurable("run")
@dataclasses.dataclass(frozen=True)
class Settings:
    """What concerns a run as a whole.

    Attributes:
      tasks: names of the student's tasks, any alias.
      image_size: side in pixels of all images and maps.
      batch_size: images of a step, over all replicas; with
        `build_model.new_batch_in_collaboration` of each of its two batches.
      max_steps: steps of the run, the joint start included (paper: 600 000).
      seed: of the initial values, the order of the images and the instance noise.
      antialias: whether images are smoothed before they are reduced; the original
        does not.
      precision: in which the student (and what trains it) computes, see
        `soka_tf.networks.precision`; the teachers' is `load_pool`'s.
      jit_compile: whether XLA compiles the training step, on one device.
      supervision: what the student learns from: the "teachers", or the ground truth
        in place of their predictions, "labels"; teachers are then what it is compared
        with only.
      augmentation: of the images to train on, "none" or "flip".
      teacher_cache: whether the teachers' outputs are computed once per image, before
        training, and read from disk from then on.
      teacher_cache_dir: where they are kept; None for the default.
      data_service: address of a tf.data service that reads the images to train on,
        "grpc://host:port"; None for this process. Batches are then no function of
        (seed, step), see `soka_tf.data.pipeline.service_dataset`.
      log_every_steps: steps between two rows of metrics.csv.
      checkpoint_every_steps: steps between two checkpoints.
      keep_checkpoints: how many of the last ones are kept.
      validate_every_steps: steps between two comparisons with the teachers on
        validation images, and after the last; 0 for none.
      validation_images: how many of them.
      movement_every_steps: steps between two measurements of who moves; 0 for none.
      panel_every_steps: steps between two panels; 0 for one at the end.
      panel_images: validation images on a panel.
      evaluation_batch_size: images of an evaluation step.
      export: whether a SavedModel is written at the end.
      export_precision: of its computations, see `serving.saved_model`.
    """

    tasks: Sequence[str]
    image_size: int
    batch_size: int
    max_steps: int
    seed: int = 0
    antialias: bool = False
    precision: str = "float32"
    jit_compile: bool = False
    supervision: str = "teachers"
    augmentation: str = "none"
    teacher_cache: bool = False
    teacher_cache_dir: Optional[str] = None
    data_service: Optional[str] = None
    log_every_steps: int = 100
    checkpoint_every_steps: int = 1000
    keep_checkpoints: int = 3
    validate_every_steps: int = 5000
    validation_images: int = 64
    movement_every_steps: int = 1000
    panel_every_steps: int = 5000
    panel_images: int = 6
    evaluation_batch_size: int = 16
    export: bool = True
    export_precision: str = "float32"

    def __post_init__(self):
        for name in (
            "image_size",
            "batch_size",
            "max_steps",
            "log_every_steps",
            "checkpoint_every_steps",
            "keep_checkpoints",
            "validate_every_steps",
            "validation_images",
            "panel_images",
            "evaluation_batch_size",
        ):
            value = getattr(self, name)
            least = 0 if name == "validate_every_steps" else 1
            whole = isinstance(value, (int, float)) and float(value).is_integer()
            if not whole or value < least:
                raise UserError(
                    f"run.{name} must be a whole number of {least} or more. "
                    f"Received: {value!r}."
                )
            # gin reads 6e5 as a float.
            object.__setattr__(self, name, int(value))
        for name, allowed in (
            ("precision", PRECISIONS),
            ("supervision", SUPERVISIONS),
            ("export_precision", EXPORT_PRECISIONS),
        ):
            if getattr(self, name) not in allowed:
                raise UserError(
                    f"run.{name} must be one of {', '.join(allowed)}. Received: "
                    f"{getattr(self, name)!r}."
                )
        if not isinstance(self.teacher_cache, bool):
            raise UserError(
                "run.teacher_cache must be True or False; run.teacher_cache_dir names "
                f"the folder. Received: {self.teacher_cache!r}."
            )
        if not isinstance(self.jit_compile, bool):
            raise UserError(
                "run.jit_compile must be True or False. Received: "
                f"{self.jit_compile!r}."
            )
        check_augmentation(self.augmentation, self.teacher_cache)
        if self.teacher_cache and self.data_service is not None:
            raise UserError(
                "run.teacher_cache = True and run.data_service = "
                f"{self.data_service!r} exclude each other: the service's workers do "
                "not read the cache. Bind run.teacher_cache = False or "
                "run.data_service = None."
            )
        if self.by_labels:
            for name, value, only in (
                ("teacher_cache", self.teacher_cache, False),
                ("data_service", self.data_service, None),
                ("augmentation", self.augmentation, "none"),
            ):
                if value != only:
                    raise UserError(
                        f"run.supervision = 'labels' and run.{name} = {value!r} "
                        "exclude each other: labels are read here, one an image as it "
                        f"is. Bind run.{name} = {only!r} or run.supervision = "
                        "'teachers'."
                    )

    @property
    def by_labels(self) -> bool:
        """Whether the student learns from the ground truth."""
        return self.supervision == "labels"

    @property
    def targets(self) -> Sequence[Task]:
        """The rows of the student's tasks."""
        return get_targets(self.tasks)

    @property
    def task_names(self) -> List[str]:
        """The data set's names of the student's tasks."""
        return [task.name for task in self.targets]


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
    data: build.Data
    learning_rate: Any
    config: str
    selection: Selection
    strategy: tf.distribute.Strategy
    output_dir: str


def build_run(model_dir: str, strategy: Optional[tf.distribute.Strategy] = None) -> Run:
    """Builds all parts from the bindings.

    Args:
      model_dir: the run's folder.
      strategy: where to compute; None for the bound `build_strategy`.

    Raises:
      UserError: if files are missing or bindings do not fit each other.
    """
    if os.path.exists(model_dir) and not os.path.isdir(model_dir):
        raise UserError(
            "--model_dir must be a folder, or a name for a new one. Received: "
            f"{model_dir}, which is a file."
        )
    # Before all else: devices cannot be divided up once TensorFlow has computed.
    strategy = strategy or build_strategy()
    settings = Settings()
    if settings.jit_compile and strategy.num_replicas_in_sync > 1:
        raise UserError(
            "run.jit_compile = True compiles the step of one device. Received: a "
            f"strategy of {strategy.num_replicas_in_sync} replicas. Bind "
            "run.jit_compile = False or strategy = 'one_device'."
        )
    logging.info(describe_devices(strategy, settings.batch_size))
    # Before rooms are drawn or a split is read that another configuration would need.
    _refuse_differences(model_dir, gin.config_str(), of_both=True)
    names = settings.task_names
    build.find_teachers(names).require()  # before minutes of drawing rooms

    @functools.cache
    def find_data() -> build.Data:
        return _find_data(settings, model_dir)

    selection = select_auxiliary(
        names,
        lambda: find_data().train,
        settings.image_size,
        settings.antialias,
        model_dir,
    )
    teacher_files = build.find_teachers(names, selection.names)
    with strategy.scope():
        teachers = build.load_pool(teacher_files)
        model = assemble_model(settings, teachers)
        players = build.build_optimizers(settings.max_steps)
        model.compile(players.optimizers, settings.jit_compile)
    for teacher in teachers.teachers:
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
    model.movement_every_steps = settings.movement_every_steps
    return Run(
        settings,
        model,
        teacher_files,
        find_data(),
        players.learning_rate,
        gin.operative_config_str(),
        selection,
        strategy,
        model_dir if worker_index(strategy) == 0 else _throw_away_folder(),
    )


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
    config = re.sub(r"(?m)^seed = .*$", f"seed = {seed}", run.config)
    _refuse_differences(model_dir, config)
    model = run.model
    with run.strategy.scope():
        fresh = assemble_model(settings, model.teachers)
        players = build.build_optimizers(settings.max_steps)
        fresh.compile(players.optimizers, settings.jit_compile)
    with tempfile.TemporaryDirectory() as folder:
        path = _checkpoint(fresh).write(os.path.join(folder, "fresh"))
        _checkpoint(model).read(path).assert_consumed()
    model.seed = seed
    if model.adversary is not None:  # its noise has the seed as a constant
        model.make_train_function(force=True)
    return dataclasses.replace(
        run,
        settings=settings,
        data=_find_data(settings, model_dir),
        config=config,
        output_dir=model_dir,
    )


def _find_data(settings: Settings, model_dir: str) -> build.Data:
    return build.build_data(
        settings.task_names,
        settings.image_size,
        split_file(model_dir),
        train_labels=settings.by_labels,
    )


def assemble_model(settings: Settings, teachers: TeacherPool) -> SokaModel:
    """Builds the model of a run from the bindings, not yet compiled."""
    names = settings.task_names
    with compute_in(settings.precision, "run.precision"):
        student = build.build_student(names, seed=settings.seed)
        build.initialize_student(student, teachers)
        model = build.build_model(
            student,
            teachers,
            build.build_balancing(names),
            build.build_amalgamation(student, teachers),
            build.build_adversary(names),
            settings.max_steps,
            seed=settings.seed,
        )
    if settings.by_labels:
        _check_label_losses(settings, model)
    return model


def _check_label_losses(settings: Settings, model: SokaModel) -> None:
    """Refuses what needs more of the teachers than labels can stand for."""
    if _amalgamated_layers(settings, model):
        raise UserError(
            "run.supervision = 'labels' leaves no teachers' features to amalgamate. "
            "Bind build_amalgamation.variant = None, as gin/methods/dmtl.gin does, or "
            "run.supervision = 'teachers'."
        )
    if model.stage_at(settings.max_steps - 1) == "cycle_gan":
        raise UserError(
            "run.supervision = 'labels' and build_adversary.enabled = True exclude "
            "each other: labels lack pixels, which discriminators would learn to see. "
            "Bind build_adversary.enabled = False or run.supervision = 'teachers'."
        )


def _amalgamated_layers(settings: Settings, model: SokaModel) -> Sequence[str]:
    """The layers whose activations a step of the run asks the teachers for."""
    only_joint = settings.max_steps <= model.joint_steps
    needed = model.joint_amalgamation or not only_joint
    amalgamation = model.amalgamation if needed else None
    return amalgamation.layer_names if amalgamation is not None else ()


def teacher_cache(
    settings: Settings,
    model: SokaModel,
    files: TeacherFiles,
    pool: Optional[TeacherPool] = None,
) -> TeacherCache:
    """The cache of what a run's teachers say; nothing is computed yet.

    Args:
      settings: of the run.
      model: of the run; it decides which activations are needed.
      files: what its teachers were loaded from.
      pool: the teachers to run; None for the model's.
    """
    return TeacherCache(
        settings.teacher_cache_dir
        or os.path.join(build.default_cache_dir(), "teacher_outputs"),
        pool or model.teachers,
        {**files.targets, **files.auxiliaries},
        settings.image_size,
        settings.antialias,
        _amalgamated_layers(settings, model),
    )


def train(
    run: Run,
    model_dir: str,
    callbacks: Sequence[tf.keras.callbacks.Callback] = (),
    writer: Optional[tf.summary.SummaryWriter] = None,
) -> None:
    """Trains a run to its last step, from wherever `model_dir` stands.

    Args:
      run: of `build_run`.
      model_dir: the run's folder.
      callbacks: called beside the run's own.
      writer: TensorBoard's; one for `model_dir` unless told.

    Raises:
      UserError: if the folder's run has another configuration, a loss is no longer
        finite, or no image can be read any more.
    """
    settings, model = run.settings, run.model
    claim(model_dir, run.config, run.output_dir == model_dir)
    writer = writer or summary_writer(run.output_dir)
    for name in remove_leftovers(_checkpoint_dir(run.output_dir)):
        logging.info("Removed %s, left by a save that was interrupted.", name)
    # Every worker must save, for replicas' statistics are gathered while saving.
    manager = _manager(run.output_dir, model, settings.keep_checkpoints)
    start = _restore(model, manager, model_dir)
    _check_workers(run, model_dir, start)
    if start:
        logging.info("Continuing from step %d of %s.", start, model_dir)
    if start >= settings.max_steps:
        logging.info("All %d steps are done.", settings.max_steps)
        return
    teachers = None
    if settings.teacher_cache:
        pool = model.teachers
        if count_workers(run.strategy) > 1:
            # Reading a variable of all workers takes all workers; one fills the cache.
            pool = build.load_pool(run.teacher_files)
        cache = teacher_cache(settings, model, run.teacher_files, pool)
        cache.fill(run.data.train, settings.batch_size)
        teachers = cache.reader(run.data.train)
    if settings.by_labels:
        samples, tasks = run.data.train, settings.targets
        teachers = label_reader(samples, tasks, settings.image_size)
    logging.info(
        "Training on %d images of %s; the first step of a stage takes a while.",
        len(run.data.train),
        run.data.source,
    )
    remaining = settings.max_steps - start
    text_summaries(writer, {"gin/operative_config": run.config}, start)

    def share_of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
        workers = context.num_input_pipelines
        common = dict(
            samples=run.data.train,
            image_size=settings.image_size,
            batch_size=settings.batch_size * model.batches_per_step,
            seed=settings.seed,
            start_step=start,
            antialias=settings.antialias,
            augmentation=settings.augmentation,
            workers=workers,
            replicas=context.num_replicas_in_sync // workers,
        )
        if settings.data_service is not None:
            job = os.path.abspath(model_dir)  # the same for all workers of the run
            return service_dataset(service=settings.data_service, job=job, **common)
        return image_dataset(
            **common,
            steps=remaining,
            teachers=teachers,
            worker=context.input_pipeline_id,
        )

    not_finite = NotFinite(
        model,
        lambda: saved_step(manager),
        lambda step: _broken_answers(run, step),
    )
    columns = [metric.name for metric in model.metrics]
    validation = None
    if settings.validate_every_steps:
        # Every worker keeps the same best ones, for saving is done together.
        best = stored_mean(_best_dir(model_dir))
        validation = _validation(run, not_finite, best)
        columns += [f"validation/soft/{task}" for task in model.tasks] + [MEAN]
    progress = Progress(settings.max_steps)
    own = [
        progress,
        *([validation] if validation else []),
        MetricLog(
            os.path.join(run.output_dir, "metrics.csv"),
            columns,
            settings.log_every_steps,
            run.learning_rate,
            writer,
            not_finite,
            settings.max_steps,
            *([validation.values_at] if validation else []),
        ),
        *callbacks,
        Checkpoints(manager, settings.checkpoint_every_steps, not_finite, [writer]),
    ]
    try:
        # One epoch: everything that happens now and then happens by steps.
        with lost_workers("During training"):
            model.fit(
                run.strategy.distribute_datasets_from_function(share_of_worker),
                epochs=1,
                steps_per_epoch=remaining,
                callbacks=own,
                verbose=0,
            )
    except tf.errors.UnknownError as error:
        # tf.data hands on what a reader raised as text only.
        told = re.search(r"UserError: (.+)", str(error))
        if told is None:
            raise
        raise UserError(told[1]) from error
    finally:
        progress.close()
        with contextlib.suppress(*FAILURES):  # warned of while training
            writer.flush()


def save_checkpoint(run: Run, model_dir: str) -> str:
    """Saves a run as it stands; returns the checkpoint's path.

    Raises:
      UserError: if the folder holds a run of another configuration.
    """
    claim(model_dir, run.config)
    manager = _manager(model_dir, run.model, run.settings.keep_checkpoints)
    return manager.save(checkpoint_number=int(run.model.step.numpy()))


def summary_writer(model_dir: str) -> tf.summary.SummaryWriter:
    """TensorBoard's writer of a run."""
    return tf.summary.create_file_writer(os.path.join(model_dir, "tensorboard"))


def split_file(model_dir: str) -> str:
    """Where a run keeps which images it trains on."""
    return os.path.join(model_dir, "split.json")


def restore_student(
    model_dir: str,
    settings: Settings,
    precision: str = "float32",
    which: str = "last",
) -> Student:
    """Builds the student of a run from the bindings and loads a checkpoint.

    Args:
      model_dir: the run's folder.
      settings: of the run.
      precision: in which the student is to compute; its weights are float32.
      which: "last", or "best", that of the least validation/mean.

    Raises:
      UserError: if the folder has no checkpoint or it does not fit.
    """
    with compute_in(precision, "run.precision"):
        student = build.build_student(settings.task_names, seed=settings.seed)
    step = tf.Variable(0, dtype=tf.int64)
    checkpoint = tf.train.Checkpoint(student=student, step=step)
    path = latest_checkpoint(model_dir, which)
    try:
        status = checkpoint.restore(path)
        status.assert_existing_objects_matched().expect_partial()
    except _MISFITS as error:
        raise UserError(
            f"{path}: the checkpoint does not fit the student of {CONFIG_FILE} or is "
            f"damaged ({_first_line(error)}). Remove it to use the one before."
        ) from error
    return student


def restored_step(model_dir: str, which: str = "last") -> int:
    """The step of a run's last or best checkpoint."""
    return int(latest_checkpoint(model_dir, which).rsplit("-", 1)[1])


def latest_checkpoint(model_dir: str, which: str = "last") -> str:
    """The path of a run's last or best checkpoint; removed ones do not count.

    Raises:
      UserError: if there is none.
    """
    folder = _best_dir(model_dir) if which == "best" else _checkpoint_dir(model_dir)
    path = _last_there(tf.train.get_checkpoint_state(folder))
    if path is None and which == "best":
        raise UserError(
            f"{model_dir}: there is no best student in it, for the run was never "
            "validated (run.validate_every_steps). Give --checkpoint=last."
        )
    if path is None:
        raise UserError(
            f"{model_dir}: there is no checkpoint in it. Give the --model_dir of a run "
            "of soka_tf.train that has saved one."
        )
    return path


def config_of(model_dir: str) -> str:
    """The path of a run's stored configuration.

    Raises:
      UserError: if the folder is not a run's.
    """
    path = os.path.join(model_dir, CONFIG_FILE)
    if not os.path.isfile(path):
        raise UserError(
            f"{model_dir}: not the folder of a run, it has no {CONFIG_FILE}. Give the "
            "--model_dir of soka_tf.train."
        )
    return path


def differing_bindings(stored: str, current: str, of_both: bool = False) -> List[str]:
    """Lists the bindings in which two configurations differ.

    Args:
      stored: the operative configuration of the stored run.
      current: the present one.
      of_both: whether bindings that only one of them has are left out.

    Returns:
      Lines "name: stored value -> current value"; bindings that change no result
      are left out.
    """
    before, now = _parse_bindings(stored), _parse_bindings(current)
    names = set(before) & set(now) if of_both else set(before) | set(now)
    return [
        f"{name}: {before.get(name, 'not bound')} -> {now.get(name, 'not bound')}"
        for name in sorted(names)
        if before.get(name) != now.get(name) and name not in _FREE_BINDINGS
    ]


def _parse_bindings(text: str) -> Dict[str, str]:
    """Reads "name = value" of gin's own, possibly folded, output."""
    bindings: Dict[str, str] = {}
    name = None
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        match = re.match(r"([\w./]+) =(.*)", line)
        if match:
            name = match.group(1)
            bindings[name] = match.group(2).strip(" \\")
        elif name is not None:
            bindings[name] = f"{bindings[name]} {line.strip()}".strip()
    return bindings


def claim(model_dir: str, config: str, chief: bool = True) -> None:
    """Stores the configuration (the chief does), or refuses to go on with another."""
    _refuse_differences(model_dir, config)
    path = os.path.join(model_dir, CONFIG_FILE)
    if os.path.exists(path) or not chief:
        return
    write_text(path, config)


def _refuse_differences(model_dir: str, config: str, of_both: bool = False) -> None:
    path = os.path.join(model_dir, CONFIG_FILE)
    if not os.path.exists(path):
        return
    with open(path, encoding="utf-8") as file:
        differences = differing_bindings(file.read(), config, of_both)
    if differences:
        raise UserError(
            f"{model_dir} holds a run with another configuration: "
            + "; ".join(differences)
            + ". Bind the stored values or choose another --model_dir."
        )


def _checkpoint_dir(model_dir: str) -> str:
    return os.path.join(model_dir, _CHECKPOINTS)


def _best_dir(model_dir: str) -> str:
    return os.path.join(model_dir, _BEST)


def _validation(run: Run, not_finite: NotFinite, best: float) -> Validation:
    settings, model, samples = run.settings, run.model, run.data.validation
    count = min(settings.validation_images, len(samples))
    batch_size = min(settings.evaluation_batch_size, count)
    predict = both(model.student, model.teachers, model.run_eagerly)

    def measure():
        images = image_dataset(
            samples,
            settings.image_size,
            batch_size,
            seed=0,  # always the same images, whatever the run's seed
            steps=count // batch_size,
            antialias=settings.antialias,
        )
        values = soft_errors(predict, images)
        # Workers round differently, and must choose the same student as the best.
        means = mean_over_workers(run.strategy, list(values.values()))
        return dict(zip(values, means))

    folder = _best_dir(run.output_dir)
    remove_leftovers(folder)
    return Validation(
        measure,
        model.student,
        folder,
        settings.validate_every_steps,
        settings.max_steps,
        not_finite,
        best,
    )


def _broken_answers(run: Run, step: int) -> List[str]:
    """Which teachers answered the images of a step with what is not finite.

    Args:
      run: of `build_run`.
      step: counted from 0.

    Returns:
      A sentence on each of them; none where they are cached, for the cache refuses
      what is not finite, or do not teach.
    """
    settings, pool = run.settings, run.model.teachers
    if settings.teacher_cache or settings.by_labels:
        return []

    def batch(augmentation, answers):
        dataset = image_dataset(
            run.data.train,
            settings.image_size,
            settings.batch_size * run.model.batches_per_step,
            settings.seed,
            start_step=step,
            steps=1,
            antialias=settings.antialias,
            augmentation=augmentation,
            teachers=answers,
        )
        return next(iter(dataset))

    images = batch(settings.augmentation, None)["rgb"]
    numbers = batch("none", lambda number: number)["teachers"].numpy()
    files = {**run.teacher_files.targets, **run.teacher_files.auxiliaries}
    sentences = []
    for task, path in files.items():
        finite = np.ones(len(numbers), bool)
        for values in pool.run(task, images).values():
            values = np.asarray(tf.cast(values, tf.float32))
            finite &= np.isfinite(values.reshape(len(numbers), -1)).all(axis=1)
        if not finite.all():
            image = run.data.train[int(numbers[np.argmin(finite)])].files["rgb"]
            sentences.append(
                f"The teacher of {task} ({path}) answers with NaN or infinite values "
                f"on {np.count_nonzero(~finite)} of the step's {len(numbers)} images, "
                f"such as {image}."
            )
    return sentences


def _last_there(state: Any) -> Optional[str]:
    """The last checkpoint of the list that has not been removed by hand."""
    paths = state.all_model_checkpoint_paths if state is not None else []
    there = [path for path in paths if os.path.exists(path + ".index")]
    return there[-1] if there else None


def _manager(model_dir: str, model: SokaModel, keep: int) -> tf.train.CheckpointManager:
    return tf.train.CheckpointManager(
        _checkpoint(model), _checkpoint_dir(model_dir), max_to_keep=keep
    )


def _checkpoint(model: SokaModel) -> tf.train.Checkpoint:
    items = {k: v for k, v in model.checkpoint_items().items() if v is not None}
    return tf.train.Checkpoint(**items)


def _restore(
    model: SokaModel, manager: tf.train.CheckpointManager, model_dir: str
) -> int:
    path = _last_there(tf.train.get_checkpoint_state(_checkpoint_dir(model_dir)))
    if path is None:
        return 0
    try:
        manager.checkpoint.restore(path).assert_existing_objects_matched()
    except _MISFITS as error:
        raise UserError(
            f"{path}: the checkpoint does not fit the run or is damaged "
            f"({_first_line(error)}). Remove it to go on from the one before."
        ) from error
    return int(model.step.numpy())


def _check_workers(run: Run, model_dir: str, start: int) -> None:
    """Refuses workers that would not train the same run."""
    own = [start, len(run.data.train)]
    mean = mean_over_workers(run.strategy, own)
    if mean != own:
        raise UserError(
            f"{model_dir} and the images must be the same on all workers. Received: "
            f"here step {own[0]} and {own[1]} images to train on, {mean[0]:g} and "
            f"{mean[1]:g} on average. Give a folder that all workers see."
        )


def _throw_away_folder() -> str:
    folder = tempfile.mkdtemp(prefix="soka_tf_worker_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
