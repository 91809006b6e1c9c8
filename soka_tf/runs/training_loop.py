"""Training a run to its last step, and going on after an interruption."""

import contextlib
import os
import re
from typing import Any, Dict, List, Optional, Sequence

import numpy as np
import tensorflow as tf
from absl import logging

from soka_tf.data.pipeline import Batches, Share, image_dataset
from soka_tf.data.samples import describe_samples
from soka_tf.data.service import service_dataset
from soka_tf.data.targets import label_reader
from soka_tf.errors import UserError, counted
from soka_tf.evaluation.soft_errors import MEAN, both, soft_errors
from soka_tf.processes import Interruption
from soka_tf.runs import build_parts, checkpoints
from soka_tf.runs.build_run import STEP, Run, teacher_cache
from soka_tf.runs.callbacks.events import code_block, write_texts
from soka_tf.runs.callbacks.metric_log import MetricLog
from soka_tf.runs.callbacks.not_finite import NotFinite
from soka_tf.runs.callbacks.progress import Progress
from soka_tf.runs.callbacks.save_checkpoints import Checkpoints
from soka_tf.runs.callbacks.step import FAILURES, Every, StepCallback
from soka_tf.runs.callbacks.validate import Validation
from soka_tf.runs.checkpoint_folder import CheckpointFolder
from soka_tf.runs.cluster import in_cluster
from soka_tf.runs.folder import open_folder, training_in
from soka_tf.runs.strategy import (
    compare_workers,
    count_workers,
    lost_workers,
    mean_over_workers,
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
      writer: of `open_folder`, which is called, and refuses the folder of another
        run, unless it is given.

    Raises:
      UserError: if the folder's run has another configuration or other teachers, a
        loss is no longer finite, or no image can be read any more.
      Interrupted: after SIGINT or SIGTERM; the step is saved.
    """
    with training_in(model_dir):
        writer = writer or open_folder(
            model_dir, run.config, run.fingerprints, run.output_dir
        )
        _train(run, model_dir, callbacks, writer)


def _train(
    run: Run,
    model_dir: str,
    callbacks: Sequence[tf.keras.callbacks.Callback],
    writer: tf.summary.SummaryWriter,
) -> None:
    settings, model = run.settings, run.model
    # Every worker must save, for replicas' statistics are gathered while saving.
    saved = checkpoints.folder_of(model, run.output_dir, settings.keep_checkpoints)
    saved.refuse_fragments()
    for name in saved.remove_leftovers():
        logging.info("Removed %s, left by a save that was interrupted.", name)
    start = checkpoints.restore(model, model_dir)
    images = {
        "the images to train on": describe_samples(run.data.train),
        "the images to validate on": describe_samples(run.data.validation),
    }
    compare_workers(run.strategy, {STEP: str(start), **images})
    if start:
        logging.info("Continuing from step %d of %s.", start, model_dir)
    if start >= settings.max_steps:
        logging.info(
            "All %d steps are done. Measuring and exporting are done again.",
            settings.max_steps,
        )
        return
    targets = _stored_targets(run)
    logging.info(
        "Training on %s of %s; the first step of a stage takes a while.",
        counted(len(run.data.train), "image"),
        run.data.source,
    )
    write_texts(writer, {"gin/operative_config": code_block(run.config)}, start)
    not_finite = NotFinite(
        model,
        saved.last_step,
        lambda step: _broken_teachers(run, step),
    )
    every_steps = settings.checkpoint_every_steps
    progress = Progress(settings.max_steps)
    interruption = Interruption()
    own = [
        progress,
        *_measurements(run, model_dir, not_finite, writer),
        *callbacks,
        Checkpoints(saved, every_steps, not_finite, [writer], interruption),
    ]
    try:
        # Workers save together: one that was interrupted alone would wait for ever.
        with contextlib.nullcontext() if in_cluster() else interruption:
            _fit(run, model_dir, start, targets, own)
    finally:
        progress.close()
        with contextlib.suppress(*FAILURES):  # warned of while training
            writer.flush()


def _stored_targets(run: Run) -> Any:
    """What the data set reads beside each image; None where the teachers are run."""
    settings, model, samples = run.settings, run.model, run.data.train
    if settings.by_labels:
        return label_reader(samples, settings.targets, settings.image_size)
    if not settings.teacher_cache:
        return None
    pool = model.teachers
    if count_workers(run.strategy) > 1:
        # Reading a variable of all workers takes all workers; one fills the cache.
        pool = build_parts.load_pool(run.teacher_files)
    cache = teacher_cache(settings, model, pool)
    cache.fill(samples, settings.batch_size)
    return cache.reader(samples)


def _fit(run: Run, model_dir: str, start: int, targets: Any, own: List[Any]) -> None:
    settings = run.settings
    remaining = settings.max_steps - start

    def share_of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
        workers = context.num_input_pipelines
        replicas = context.num_replicas_in_sync // workers
        common = dict(
            samples=run.data.train,
            batches=_batches(run),
            seed=settings.seed,
            start_step=start,
            augmentation=settings.augmentation,
            share=Share(workers, context.input_pipeline_id, replicas),
        )
        if settings.data_service is not None:
            job = os.path.abspath(model_dir)  # the same for all workers of the run
            return service_dataset(service=settings.data_service, job=job, **common)
        return image_dataset(**common, steps=remaining, targets=targets)

    try:
        # One epoch: everything that happens now and then happens by steps.
        with lost_workers("During training"):
            run.model.fit(
                run.strategy.distribute_datasets_from_function(share_of_worker),
                epochs=1,
                steps_per_epoch=remaining,
                callbacks=own,
                verbose=0,
            )
    except tf.errors.UnknownError as error:
        # tf.data hands on what a reader raised as text only.
        found = re.search(r"UserError: (.+)", str(error))
        if found is None:
            raise
        raise UserError(found[1]) from error


def _batches(run: Run) -> Batches:
    size = run.settings.batch_size * run.model.batches_per_step
    return Batches(run.settings.image_size, size, run.settings.antialias)


def _measurements(
    run: Run,
    model_dir: str,
    not_finite: NotFinite,
    writer: tf.summary.SummaryWriter,
) -> List[StepCallback]:
    """The validation, where there is one, and the log, which reports it."""
    settings, model = run.settings, run.model
    columns = [metric.name for metric in model.metrics]
    validations = []
    if settings.validate_every_steps:
        # Every worker keeps the same best ones, for saving is done together.
        best = checkpoints.stored_mean(checkpoints.checkpoint_dir(model_dir, "best"))
        validations = [_validation(run, not_finite, best)]
        columns += [f"validation/soft/{task}" for task in model.tasks] + [MEAN]
    columns += model.conflict_names
    log = MetricLog(
        os.path.join(run.output_dir, "metrics.csv"),
        columns,
        Every(settings.log_every_steps, settings.max_steps),
        run.learning_rate,
        writer,
        not_finite,
        *(validation.values_at for validation in validations),
    )
    return [*validations, log]


def _validation(run: Run, not_finite: NotFinite, best: float) -> Validation:
    settings, model, samples = run.settings, run.model, run.data.validation
    count = min(settings.validation_images, len(samples))
    batch_size = min(settings.evaluation_batch_size, count)
    predict = both(model.student, model.teachers, model.run_eagerly)

    def measure() -> Dict[str, float]:
        images = image_dataset(
            samples,
            Batches(settings.image_size, batch_size, settings.antialias),
            seed=0,  # always the same images, whatever the run's seed
            steps=count // batch_size,
        )
        values = soft_errors(predict, images)
        # Workers round differently, and must choose the same student as the best.
        means = mean_over_workers(run.strategy, list(values.values()))
        return dict(zip(values, means))

    folder = checkpoints.checkpoint_dir(run.output_dir, "best")
    CheckpointFolder(folder).remove_leftovers()
    return Validation(
        measure,
        checkpoints.BestStudent(model.student, folder, best),
        Every(settings.validate_every_steps, settings.max_steps),
        not_finite,
    )


def _broken_teachers(run: Run, step: int) -> Optional[List[str]]:
    """Which teachers answered the images of a step with what is not finite.

    Args:
      run: of `build_run`.
      step: counted from 0.

    Returns:
      A sentence on each of them; none where they are cached, for the cache refuses
      what is not finite, or do not teach. None where a service chose the images.
    """
    settings, pool = run.settings, run.model.teachers
    if settings.teacher_cache or settings.by_labels:
        return []
    if settings.data_service is not None:
        return None

    def batch(augmentation, targets):
        dataset = image_dataset(
            run.data.train,
            _batches(run),
            settings.seed,
            start_step=step,
            steps=1,
            augmentation=augmentation,
            targets=targets,
        )
        return next(iter(dataset))

    images = batch(settings.augmentation, None)["rgb"]
    numbers = batch("none", lambda number: number)["targets"].numpy()
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
                f"The teacher of {task} ({path}) predicts NaN or infinite values "
                f"on {np.count_nonzero(~finite)} of the step's {len(numbers)} images, "
                f"such as {image}."
            )
    return sentences
