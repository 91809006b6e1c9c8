"""A training step of the whole method against those of the studies' baselines."""

import itertools
from typing import Any, Callable, Dict, Optional, Sequence, Tuple

import gin
import numpy as np
import tensorflow as tf

from soka_tf.errors import UserError
from soka_tf.runs import build_parts
from soka_tf.runs.build_run import assemble_model
from soka_tf.runs.config import parse_gin
from soka_tf.runs.settings import Settings
from soka_tf.soka.model import SokaModel
from tools.benchmarks.cycle import LAYERS, step_case, with_outputs
from tools.benchmarks.measure import Measurement, time_cases

# Method -> its auxiliary teachers, as in the studies; a method after its baselines.
METHODS = {"kd": (), "kd_mia": ("keypoints3d",), "soka": ("keypoints3d",)}
REPEATS = 40  # a step takes tenths of a second


def run(scale: str, repeats: Optional[int], precision: str) -> Measurement:
    """Times the steps of the small studies, `gin/rooms/study.gin`.

    Args:
      scale: "small"; the networks of the full one are those of the benchmark "cycle".
      repeats: timed rounds, None for `REPEATS`.
      precision: of the student, see `soka_tf.networks.precision`.
    """
    if scale != "small":
        raise UserError(
            "--scale=full: what full-size steps cost is measured by the benchmark "
            "'cycle'. 'methods' is of --scale=small."
        )
    params = [f"run.precision = {precision!r}"]
    return measure_methods(["gin/rooms/study.gin"], params, repeats or REPEATS)


def measure_methods(
    files: Sequence[str], params: Sequence[str], repeats: int
) -> Measurement:
    """Times a step of each method, the teachers' outputs given and the teachers run.

    Args:
      files: gin files of a run, below those of the methods.
      params: bindings after those of the methods.
      repeats: timed rounds.
    """
    cases: Dict[str, Callable[[], Any]] = {}
    for method in METHODS:
        model, images, stage = _build(method, files, params)
        layers = LAYERS if model.amalgamation is not None else ()
        given = with_outputs(images, model.teachers(images, layers))
        cases[method] = step_case(model, stage, given)
        cases[f"{method}, with teachers"] = step_case(model, stage, {"rgb": images})
    times = time_cases(cases, repeats)
    pairs = list(itertools.combinations(METHODS, 2))
    ratio = {
        f"{method}_over_{other}{ending}": times.over(method + ending, other + ending)
        for ending in ("", ", with teachers")
        for other, method in pairs
    }
    settings = {"files": list(files), "batch_size": len(images), "repeats": repeats}
    return Measurement(times.medians, ratio, settings, (), times.peak_gib)


def _build(
    method: str, files: Sequence[str], params: Sequence[str]
) -> Tuple[SokaModel, tf.Tensor, str]:
    """The compiled model of a method, a batch of noise, and its last steps' stage."""
    gin.clear_config()
    auxiliaries = METHODS[method]
    parse_gin([*files, f"gin/methods/{method}.gin"], params)
    settings = Settings()
    pool = build_parts.load_pool(
        build_parts.find_teachers(settings.task_names, auxiliaries)
    )
    model = assemble_model(settings, pool)
    model.compile(build_parts.build_optimizers(model.schedule)[0])
    size = settings.image_size
    shape = (settings.batch_size, size, size, 3)
    images = np.random.default_rng(0).uniform(-1, 1, shape)
    stage = model.stage_at(settings.max_steps - 1)
    return model, tf.constant(images, tf.float32), stage
