"""Which teachers see images alike: representation similarity, and the choice it gives.

A teacher's representation dissimilarity matrix (RDM) says how differently it sees every
two images; two teachers are as similar as their RDMs are in rank. The paper asks this
similarity whether its tasks need an auxiliary teacher, and which.
"""

import dataclasses
import gc
import itertools
import math
import shutil
import tempfile
from typing import Any, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import tensorflow as tf
import tqdm
from absl import logging

from soka_tf.data.pipeline import labelled_dataset
from soka_tf.data.reading import RGB
from soka_tf.data.samples import Sample
from soka_tf.disk import PathLike
from soka_tf.errors import UserError
from soka_tf.teachers.pool import INPUTS_SHOWN, load_teachers, shown_images
from soka_tf.teachers.teacher import Teacher

LAYERS = ("block1", "block2", "block3", "block4", "representation")
# The paper names none. In the widest gap between the similarities of the shipped
# teachers on rooms.
DEFAULT_THRESHOLD = 0.4
FEWEST_IMAGES = 3  # two images have one dissimilarity: nothing to rank

_BLOCK_BYTES = 32 << 20  # of float64; several such arrays are alive at a time
_MEMORY_BYTES = 256 << 20  # larger features go to a temporary file
# A spread of values below this share of their size is rounding, not variation.
_CONSTANT = 1e-12


def compute_rdm(features: Any, centred: bool = True) -> np.ndarray:
    """Computes 1 - Pearson correlation of the features of every two images.

    Columns are taken in blocks, so that large features may stay in a file.

    Args:
      features: [n, ...], any array or memmap of numbers; a row an image.
      centred: whether to subtract the mean over the images from every dimension
        first, as the released code does; a row's correlation is else dominated by
        what all images have in common.

    Returns:
      float64 [n, n] in [0, 2], symmetric, 0 on the diagonal.

    Raises:
      UserError: if there are fewer than 3 images, a value is not finite, or an image's
        features do not vary, so that their correlation is undefined.
    """
    if not hasattr(features, "reshape"):
        features = np.asarray(features)
    count = len(features) if features.ndim else 0
    _check_count(count)
    rows = features.reshape(count, math.prod(features.shape[1:]))
    width = _block_columns(count)
    starts = range(0, rows.shape[1], width)
    return _rdm_of_blocks((rows[:, i : i + width] for i in starts), count, centred)


def _check_count(count: int) -> None:
    if count < FEWEST_IMAGES:
        raise UserError(
            f"Representations are compared over at least {FEWEST_IMAGES} images. "
            f"Received: {count}."
        )


def _block_columns(count: int) -> int:
    return max(1, _BLOCK_BYTES // (8 * count))


def _rdm_of_blocks(
    blocks: Iterable[np.ndarray], count: int, centred: bool
) -> np.ndarray:
    """The RDM of features given as blocks [n, columns]; every block has all images."""
    products = np.zeros((count, count))
    sums, sizes = np.zeros(count), np.zeros(count)
    columns, shift = 0, None
    for block in blocks:
        block = np.array(block, np.float64)
        bad = ~np.isfinite(block).all(axis=1)
        if bad.any():
            raise UserError(
                f"The features of {_some(bad)} hold NaN or infinite values. Look at "
                "the teacher and the images."
            )
        np.maximum(sizes, np.abs(block).max(axis=1, initial=0.0), out=sizes)
        if centred:
            block -= block.mean(axis=0)
        if shift is None:
            # Correlation does not see it; without it large means would cancel badly.
            shift = block.mean(axis=1, keepdims=True)
        block -= shift
        with np.errstate(over="ignore", invalid="ignore"):  # refused below
            products += block @ block.T
        sums += block.sum(axis=1)
        columns += block.shape[1]
    if not columns:
        raise UserError(f"The features of {count} images are empty.")
    with np.errstate(over="ignore", invalid="ignore"):
        covariance = products - np.outer(sums, sums / columns)
    deviations = np.sqrt(np.maximum(covariance.diagonal(), 0.0))
    if not np.isfinite(deviations).all():
        raise UserError("The features are too large to be squared. Scale them.")
    constant = deviations <= _CONSTANT * math.sqrt(columns) * sizes
    if constant.any():
        raise UserError(_constant_rows(constant, centred))
    rdm = 1.0 - covariance / np.outer(deviations, deviations)
    rdm = np.clip((rdm + rdm.T) / 2, 0.0, 2.0)
    np.fill_diagonal(rdm, 0.0)
    return rdm


def _constant_rows(constant: np.ndarray, centred: bool) -> str:
    if not centred:
        what = "do not vary"
    elif constant.all():
        what = "do not vary beyond their mean over the images (the same for every one?)"
    else:
        what = "do not vary once the mean over the images is subtracted"
    return (
        f"The features of {_some(constant)} {what}: their correlation is undefined. "
        "Look at the teacher, leave these images out, or take another layer."
    )


def _some(flags: np.ndarray) -> str:
    """Names the flagged images by number."""
    numbers = np.flatnonzero(flags)
    shown = ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
    return f"{len(numbers)} of {len(flags)} images (number {shown}, from 0)"


def compute_similarity(rdms: Any) -> np.ndarray:
    """Computes the rank correlation of every two RDMs.

    Args:
      rdms: m arrays [n, n], or one [m, n, n]; their strict lower triangles count.

    Returns:
      float64 [m, m] in [-1, 1]: Spearman's correlation, ties averaged; symmetric, 1 on
      the diagonal.

    Raises:
      UserError: if an RDM is of another shape than the first, smaller than 3 x 3, not
        finite, or constant.
    """
    from scipy import stats  # a fifth of the time to start, needed by few

    rdms = [np.asarray(rdm, np.float64) for rdm in rdms]
    if not rdms:
        raise UserError("There are no RDMs to compare.")
    shape = rdms[0].shape
    for number, rdm in enumerate(rdms):
        if rdm.ndim != 2 or rdm.shape != (len(rdm), len(rdm)) or rdm.shape != shape:
            raise UserError(
                "RDMs must be square and of one shape, the same images in the same "
                f"order. Received: {shape} first, {rdm.shape} as number {number}."
            )
    _check_count(shape[0])
    lower = np.tril_indices(shape[0], -1)
    ranks = []
    for number, rdm in enumerate(rdms):
        values = rdm[lower]
        if not np.isfinite(values).all() or np.ptp(values) == 0:
            raise UserError(
                f"RDM number {number} (from 0) is constant or not finite: it has no "
                "ranks to compare."
            )
        ranks.append(stats.rankdata(values))
    similarity = np.clip(np.atleast_2d(np.corrcoef(ranks)), -1.0, 1.0)
    similarity = (similarity + similarity.T) / 2
    np.fill_diagonal(similarity, 1.0)
    return similarity


def sample_images(samples: Sequence[Sample], count: int) -> List[Sample]:
    """Takes samples evenly from a list, at most `count`, always the same ones."""
    count = min(count, len(samples))
    return [samples[i * len(samples) // count] for i in range(count)]


def compute_teacher_rdm(
    teacher: Teacher,
    batches: Iterable[tf.Tensor],
    count: int,
    layer: str = "representation",
    inputs: str = "training",
    centred: bool = True,
    memory_bytes: int = _MEMORY_BYTES,
) -> np.ndarray:
    """Computes the RDM of one layer of a teacher, batch by batch.

    Features larger than `memory_bytes` wait in a temporary file, which is gone
    afterwards whatever happens.

    Args:
      teacher: the teacher; nothing of it runs that comes after the layer.
      batches: float32 [B, H, W, 3] in [-1, 1], `count` images in all.
      count: number of images.
      layer: one of the teacher's.
      inputs: what the teacher is shown, "training" or "released", see
        `soka_tf.teachers.pool.TeacherPool`.
      centred: see `compute_rdm`.
      memory_bytes: how much of the features may be held in memory.

    Returns:
      float64 [count, count].

    Raises:
      UserError: as `compute_rdm`, naming teacher and layer; or if the disk is too
        small for the features.
    """
    _check_settings(layer, inputs, tuple(teacher.layers))
    _check_count(count)

    def activations(images):
        # What comes after the layer is pruned from the graph.
        return teacher(shown_images(teacher, images, inputs), (layer,))[layer]

    # Traced here and now: TensorFlow would warn of a function a teacher.
    encode = tf.function(activations, autograph=False).get_concrete_function(
        tf.TensorSpec([None, None, None, 3])
    )
    store, done = None, 0
    try:
        for images in batches:
            features = encode(images).numpy().reshape(len(images), -1)
            if store is None:
                store = _Store(count, features.shape[1], memory_bytes)
            store.add(done, features)
            done += len(features)
        if done != count:
            raise ValueError(f"{count} images were announced, {done} came.")
        try:
            return _rdm_of_blocks(store.blocks(), count, centred)
        except UserError as error:
            raise UserError(f"{teacher.task.name}, {layer}: {error}") from error
    finally:
        if store is not None:
            store.close()


class _Store:
    """Features [n, d] that come by rows and go by columns, in memory or in a file.

    The file has no name any more, so that it cannot outlive the process. A block of
    columns lies in one piece in it: to read one is to read on, and nothing is mapped
    into memory.
    """

    def __init__(self, count: int, dimensions: int, memory_bytes: int):
        self._count, self._dimensions = count, dimensions
        self._width = _block_columns(count)
        self._array, self._file = None, None
        size = 4 * count * dimensions
        if size <= memory_bytes:
            self._array = np.empty((count, dimensions), np.float32)
            return
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
        if size > free:
            raise UserError(
                f"The features of {count} images take {size / 2**30:.1f} GiB; {folder} "
                f"has {free / 2**30:.1f} GiB free. Take fewer images or a later layer, "
                "or set TMPDIR to a folder on another disk."
            )
        logging.info(
            "Features of %d images: %.1f GiB, for now in a temporary file in %s.",
            count,
            size / 2**30,
            folder,
        )
        self._file = tempfile.TemporaryFile(dir=folder)

    def _spans(self) -> Iterator[Tuple[int, int]]:
        for start in range(0, self._dimensions, self._width):
            yield start, min(start + self._width, self._dimensions)

    def add(self, first: int, rows: np.ndarray) -> None:
        """Stores float32 [B, d] as the rows from `first` on."""
        if self._array is not None:
            self._array[first : first + len(rows)] = rows
            return
        for start, stop in self._spans():
            place = self._count * start + first * (stop - start)
            self._file.seek(4 * place)
            self._file.write(np.ascontiguousarray(rows[:, start:stop], np.float32))

    def blocks(self) -> Iterator[np.ndarray]:
        """Yields float32 [n, columns], from the first column to the last."""
        for start, stop in self._spans():
            if self._array is not None:
                yield self._array[:, start:stop]
                continue
            self._file.seek(4 * self._count * start)
            block = np.empty((self._count, stop - start), np.float32)
            self._file.readinto(block)
            yield block

    def close(self) -> None:
        """Removes the file."""
        if self._file is not None:
            self._file.close()


def _check_settings(layer: str, inputs: str, layers: Sequence[str] = LAYERS) -> None:
    if layer not in layers:
        raise UserError(f"layer must be one of {layers}. Received: {layer!r}.")
    if inputs not in INPUTS_SHOWN:
        raise UserError(f"inputs must be one of {INPUTS_SHOWN}. Received: {inputs!r}.")


def compare_teachers(
    names: Sequence[str],
    teachers_dir: Optional[PathLike],
    samples: Sequence[Sample],
    image_size: int,
    layer: str = "representation",
    inputs: str = "training",
    centred: bool = True,
    batch_size: int = 16,
    antialias: bool = False,
    progress: bool = True,
) -> np.ndarray:
    """Computes the similarity of every two teachers of a folder.

    One teacher is in memory at a time.

    Args:
      names: tasks whose teachers are compared, any alias.
      teachers_dir: the folder of <task>.safetensors; None for the teachers of soka_tf.
      samples: readable images, see `soka_tf.data.samples.drop_damaged`.
      image_size: side in pixels of what the teachers are shown.
      layer: one of `LAYERS`.
      inputs: "training" or "released", see `soka_tf.teachers.pool.TeacherPool`.
      centred: see `compute_rdm`.
      batch_size: images at a time.
      antialias: widens the filter when images are reduced.
      progress: whether to show a bar.

    Returns:
      float64 [m, m] in the order of the names, see `compute_similarity`.

    Raises:
      UserError: if a teacher is missing or its RDM cannot be computed.
    """
    _check_settings(layer, inputs)
    _check_count(len(samples))
    # Without labels: a mask would be read for nothing.
    plain = [dataclasses.replace(s, files={RGB: s.files[RGB]}) for s in samples]
    dataset = labelled_dataset(plain, [], image_size, batch_size, antialias)
    rdms = []
    with tqdm.tqdm(
        total=len(names) * len(samples),
        desc="comparing teachers",
        unit="image",
        disable=not progress,
    ) as bar:

        def images() -> Iterator[tf.Tensor]:
            for batch in dataset:
                yield batch[RGB]
                bar.update(len(batch[RGB]))

        for name in names:
            (teacher,) = load_teachers([name], teachers_dir).values()
            rdms.append(
                compute_teacher_rdm(
                    teacher, images(), len(samples), layer, inputs, centred
                )
            )
            # Keras models and graphs refer to themselves: only this frees them now.
            del teacher
            gc.collect()
    return compute_similarity(rdms)


class Pair(NamedTuple):
    """Two targets.

    Attributes:
      first: a task.
      second: another.
      similarity: S of their teachers.
      similar: whether that reaches the threshold.
    """

    first: str
    second: str
    similarity: float
    similar: bool


class Candidate(NamedTuple):
    """What a teacher would add.

    Attributes:
      name: its task.
      gains: (S(i, x) - S(i, j)) + (S(j, x) - S(i, j)), one for each pair of targets
        below the threshold; for every pair where none is.
      gain: their sum.
      similarities: S to each target, in the targets' order.
    """

    name: str
    gains: Tuple[float, ...]
    gain: float
    similarities: Tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Choice:
    """Whether the targets need an auxiliary teacher, and which.

    Attributes:
      targets: the student's tasks.
      threshold: the gate (delta of the paper).
      pairs: every two targets.
      ranking: all other teachers, the largest gain first.
      auxiliary: the chosen one, None for none.
    """

    targets: Tuple[str, ...]
    threshold: float
    pairs: Tuple[Pair, ...]
    ranking: Tuple[Candidate, ...]
    auxiliary: Optional[str]

    @property
    def _low(self) -> List[Pair]:
        return [pair for pair in self.pairs if not pair.similar]

    @property
    def summary(self) -> str:
        """What was chosen and why, in one line."""
        low = self._low
        if not low:
            return (
                f"no auxiliary teacher: {', '.join(map(_told, self.pairs))}, "
                f"not below the threshold {self.threshold:g}"
            )
        why = f"{', '.join(map(_told, low))}, below the threshold {self.threshold:g}"
        if not self.ranking:
            return f"no auxiliary teacher: {why}, but there is no other teacher"
        best = self.ranking[0]
        if self.auxiliary is None:
            return (
                f"no auxiliary teacher: {why}, but the best of {len(self.ranking)}, "
                f"{best.name}, gains {best.gain:+.3f}, which is not above 0"
            )
        return (
            f"auxiliary teacher {best.name}: {why}; its gain {best.gain:+.3f} is the "
            f"largest of {len(self.ranking)}"
        )

    def explain(self) -> str:
        """The arithmetic in words, several lines, every number in it."""
        lines = []
        for pair in self.pairs:
            verdict = (
                f"not below the threshold {self.threshold:g}: similar enough."
                if pair.similar
                else f"below the threshold {self.threshold:g}: an auxiliary teacher is "
                "looked for."
            )
            lines.append(f"{_told(pair)}, {verdict}")
        counted = self._low or self.pairs
        if self.ranking:
            lines.append(
                "Gain of x: (S(i, x) - S(i, j)) + (S(j, x) - S(i, j))"
                + (", summed over the pairs" if len(counted) > 1 else "")
                + (" below the threshold" if len(counted) < len(self.pairs) else "")
                + (":" if self._low else " (none is needed):")
            )
        for candidate in self.ranking:
            near = dict(zip(self.targets, candidate.similarities))
            terms = " + ".join(
                f"({near[one]:.3f} - {pair.similarity:.3f})".replace("- -", "+ ")
                for pair in counted
                for one in (pair.first, pair.second)
            )
            if not self._low:
                verdict = "not needed"
            elif candidate.name == self.auxiliary:
                verdict = "chosen"
            else:
                verdict = "not above 0" if candidate.gain <= 0 else "not the largest"
            lines.append(
                f"  {candidate.name}: {terms} = {candidate.gain:+.3f}, {verdict}"
            )
        lines.append(f"Decision: {self.summary}.")
        return "\n".join(lines)


def _told(pair: Pair) -> str:
    return f"S({pair.first}, {pair.second}) = {pair.similarity:.3f}"


def check_choice(
    names: Sequence[str], targets: Sequence[str], threshold: float
) -> None:
    """Refuses, before any work, what `choose_auxiliary` would refuse after it.

    Raises:
      UserError: if the threshold is out of range, or a target is unknown, named twice,
        or the only one.
    """
    if not -1.0 <= threshold <= 1.0:
        raise UserError(
            f"A threshold of similarity must lie in [-1, 1]. Received: {threshold}."
        )
    missing = [name for name in targets if name not in names]
    if missing:
        raise UserError(
            f"There is no teacher of the target {', '.join(missing)}. Teachers: "
            f"{', '.join(names)}."
        )
    if len(targets) < 2 or len(set(targets)) != len(targets):
        raise UserError(
            "An auxiliary teacher is chosen for two or more different targets. "
            f"Received: {', '.join(targets) or 'none'}."
        )


def choose_auxiliary(
    similarity: np.ndarray,
    names: Sequence[str],
    targets: Sequence[str],
    threshold: float = DEFAULT_THRESHOLD,
) -> Choice:
    """Decides whether targets need an auxiliary teacher, and which (Sec. 3.2).

    For two targets i, j: where S(i, j) < threshold, the teacher x of largest gain
    (S(i, x) - S(i, j)) + (S(j, x) - S(i, j)), if that is above 0. For more: the sum of
    the gains over the pairs below the threshold.

    Args:
      similarity: float [m, m], of `compute_similarity`.
      names: the m tasks.
      targets: two or more of them.
      threshold: in [-1, 1].

    Raises:
      UserError: as `check_choice`.
    """
    similarity = np.asarray(similarity, np.float64)
    if similarity.shape != (len(names), len(names)):
        raise ValueError(f"{len(names)} names, similarities {similarity.shape}.")
    check_choice(names, targets, threshold)
    place = {name: i for i, name in enumerate(names)}

    def s(one: str, other: str) -> float:
        return float(similarity[place[one], place[other]])

    pairs = tuple(
        Pair(i, j, s(i, j), s(i, j) >= threshold)
        for i, j in itertools.combinations(targets, 2)
    )
    low = [pair for pair in pairs if not pair.similar]
    candidates = []
    for x in names:
        if x in targets:
            continue
        gains = tuple(
            (s(p.first, x) - p.similarity) + (s(p.second, x) - p.similarity)
            for p in low or pairs
        )
        near = tuple(s(target, x) for target in targets)
        candidates.append(Candidate(x, gains, math.fsum(gains), near))
    ranking = tuple(sorted(candidates, key=lambda candidate: -candidate.gain))
    needed = bool(low and ranking and ranking[0].gain > 0)
    return Choice(
        tuple(targets),
        float(threshold),
        pairs,
        ranking,
        ranking[0].name if needed else None,
    )
