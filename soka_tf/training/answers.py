"""What a run's teachers answer: cached, replaced by labels, or broken."""

import os
from typing import Any, List, Optional

import numpy as np
import tensorflow as tf

from soka_tf.data.pipeline import image_dataset, label_reader
from soka_tf.soka.model import SokaModel
from soka_tf.teachers.cache import TeacherCache
from soka_tf.teachers.pool import TeacherFiles, TeacherPool
from soka_tf.training import build
from soka_tf.training.run import Run, amalgamated_layers
from soka_tf.training.settings import Settings
from soka_tf.training.strategy import count_workers


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
        amalgamated_layers(settings, model),
    )


def stored_answers(run: Run) -> Optional[Any]:
    """What `image_dataset` reads beside each image; None where teachers are run.

    A cache is filled first, which may take long.

    Args:
      run: of `build_run`.
    """
    settings, model, samples = run.settings, run.model, run.data.train
    if settings.by_labels:
        return label_reader(samples, settings.targets, settings.image_size)
    if not settings.teacher_cache:
        return None
    pool = model.teachers
    if count_workers(run.strategy) > 1:
        # Reading a variable of all workers takes all workers; one fills the cache.
        pool = build.load_pool(run.teacher_files)
    cache = teacher_cache(settings, model, run.teacher_files, pool)
    cache.fill(samples, settings.batch_size)
    return cache.reader(samples)


def broken_answers(run: Run, step: int) -> List[str]:
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
