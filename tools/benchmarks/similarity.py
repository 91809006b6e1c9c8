"""RDMs and the similarity of teachers against NumPy and SciPy, all in memory."""

import functools
import itertools
import tempfile
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence

import numpy as np
import tensorflow as tf
from scipy import stats

from soka_tf.data.pipeline import labelled_dataset
from soka_tf.data.reading import RGB
from soka_tf.data.samples import Sample
from soka_tf.networks.encoder import ENCODER_50, Encoder
from soka_tf.teachers.pool import load_teachers
from soka_tf.teachers.similarity import (
    compare_teachers,
    compute_rdm,
    compute_similarity,
)
from soka_tf.teachers.taskonomy.network import TaskonomyTeacher, save_teacher
from tools.benchmarks.input import write_images
from tools.benchmarks.measure import Measurement, time_cases

_NAMES = ("depth_zbuffer", "edge_texture", "keypoints3d", "normal")
_BATCH = 16


class Scale(NamedTuple):
    """Sizes of a benchmark.

    Attributes:
      images: rows of the features that are held in memory.
      channels: of the features, 16 x 16 x channels.
      teachers: how many are compared.
      network_units: of the encoders that are compared from end to end; few units
        are soon built.
      network_width: of the same.
      network_images: images that these are shown.
      image_size: their side in pixels.
      repeats: timed rounds.
    """

    images: int
    channels: int
    teachers: int
    network_units: Sequence[int]
    network_width: float
    network_images: int
    image_size: int
    repeats: int


SCALES = {
    "small": Scale(200, 128, 4, (1, 1, 1, 1), 0.25, 64, 128, 3),
    "full": Scale(500, 2048, 2, ENCODER_50, 1.0, 64, 256, 3),
}


def run(scale: str, repeats: Optional[int], precision: str) -> Measurement:
    """Times RDMs and their comparison, each alone, and the two from end to end.

    Args:
      scale: one of `SCALES`.
      repeats: timed rounds, None for the scale's.
      precision: not used; teachers that are compared run in float32.
    """
    return measure_similarity(SCALES[scale], repeats)


def measure_similarity(sizes: Scale, repeats: Optional[int] = None) -> Measurement:
    """`run` at any size."""
    sizes = sizes._replace(repeats=repeats or sizes.repeats)
    with tempfile.TemporaryDirectory() as folder:
        cases = {**_network_cases(folder, sizes), **_array_cases(sizes)}
        times = time_cases(cases, sizes.repeats)
    del cases  # and the features with it
    return Measurement(
        times.medians,
        {
            "ours_over_plain": times.over("RDMs", "RDMs, plain"),
            "ranks_ours_over_plain": times.over("ranks", "ranks, plain"),
            "end_to_end_ours_over_plain": times.over("end to end", "end to end, plain"),
        },
        sizes._asdict(),
        notes=(
            f"RDMs: of {sizes.teachers} teachers' features, held as float32; ranks: "
            "of their RDMs; end to end: weights and images from files. A peak counts "
            "the features held for all cases.",
        ),
        peak_gib=times.peak_gib,
    )


def plain_rdm(features: np.ndarray) -> np.ndarray:
    """The RDM as one would write it down: float [n, ...] -> float64 [n, n]."""
    rows = features.reshape(len(features), -1).astype(np.float64)
    rows -= rows.mean(axis=0)
    return 1 - np.corrcoef(rows)


def plain_similarity(rdms: Sequence[np.ndarray]) -> np.ndarray:
    """Spearman's correlation of every two RDMs, pair by pair."""
    lower = np.tril_indices(len(rdms[0]), -1)
    similarity = np.eye(len(rdms))
    for i, j in itertools.combinations(range(len(rdms)), 2):
        found = stats.spearmanr(rdms[i][lower], rdms[j][lower])
        similarity[i, j] = similarity[j, i] = found[0]
    return similarity


def _array_cases(sizes: Scale) -> Dict[str, Callable[[], Any]]:
    random = np.random.default_rng(0)
    shape = (sizes.images, 16, 16, sizes.channels)
    features = [random.random(shape, np.float32) for _ in range(sizes.teachers)]
    rdms = [random.random((sizes.images,) * 2) for _ in range(sizes.teachers)]
    return {
        "RDMs": lambda: [compute_rdm(f) for f in features],
        "RDMs, plain": lambda: [plain_rdm(f) for f in features],
        "ranks": lambda: compute_similarity(rdms),
        "ranks, plain": lambda: plain_similarity(rdms),
    }


def _network_cases(folder: str, sizes: Scale) -> Dict[str, Callable[[], Any]]:
    names = _NAMES[: sizes.teachers]
    for seed, name in enumerate(names):
        tf.keras.utils.set_random_seed(seed)
        teacher = TaskonomyTeacher(
            name, Encoder(sizes.network_units, sizes.network_width)
        )
        save_teacher(teacher, f"{folder}/{name}.safetensors")
    samples = write_images(
        f"{folder}/images", sizes.network_images, sizes.image_size, "PNG"
    )
    settings = (names, folder, samples, sizes.image_size)
    return {
        "end to end": lambda: compare_teachers(
            *settings, layer="block4", batch_size=_BATCH, progress=False
        ),
        "end to end, plain": lambda: plain_comparison(*settings),
    }


def plain_comparison(
    names: Sequence[str], folder: str, samples: Sequence[Sample], image_size: int
) -> np.ndarray:
    """The same from files, by block 4: everything is loaded, everything is kept."""
    teachers: Mapping[str, TaskonomyTeacher] = load_teachers(names, folder)
    dataset = labelled_dataset(samples, [], image_size, _BATCH)
    images = [batch[RGB] for batch in dataset]
    rdms: List[np.ndarray] = []
    for teacher in teachers.values():
        encode = tf.function(
            functools.partial(teacher, layers=("block4",)), autograph=False
        )
        features = [encode(batch)["block4"].numpy() for batch in images]
        rdms.append(plain_rdm(np.concatenate(features)))
    return plain_similarity(rdms)
