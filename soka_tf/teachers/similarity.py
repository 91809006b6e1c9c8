"""Which teachers see images alike: representation similarity.

A teacher's representation dissimilarity matrix (RDM) says how differently it sees every
two images; two teachers are as similar as their RDMs are in rank. What follows from it
for auxiliary teachers: `soka_tf.teachers.auxiliary_choice`.
"""

import contextlib
import dataclasses
import gc
import math
import os
import pathlib
import shutil
import tempfile
from typing import (
    Annotated,
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Optional,
    Sequence,
    Tuple,
)

import numpy as np
import tensorflow as tf
import tqdm
from absl import logging

from soka_tf.atomic import PathLike
from soka_tf.data.image_files import RGB
from soka_tf.data.pipeline import Batches, labelled_dataset
from soka_tf.data.samples import Sample
from soka_tf.data.shard_store import in_units
from soka_tf.errors import UserError
from soka_tf.kinds import checked, one_of
from soka_tf.teachers.finding import Folders, found_teachers, load_teachers
from soka_tf.teachers.pool import InputsShown, shown_images
from soka_tf.teachers.saved_model.manifest import FILE, read_manifest
from soka_tf.teachers.teacher import Teacher

LAYERS = ("block1", "block2", "block3", "block4", "representation")
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
    if not teacher.layers:
        raise UserError(
            f"The teacher of {teacher.task.name!r} has no layers: it cannot be "
            "compared with others. Name the auxiliary teachers, or bind auxiliary = "
            "'none'."
        )
    _check_settings(layer, inputs, tuple(teacher.layers))
    _check_count(count)

    def activations(images):
        # What comes after the layer is pruned from the graph.
        return teacher(shown_images(teacher, images, inputs), (layer,))[layer]

    done, encode = 0, None
    with contextlib.ExitStack() as stack:
        for images in batches:
            if encode is None:
                # Traced by itself: TensorFlow would warn of a function a teacher. At
                # the images' size, which folders' teachers resize from.
                any_batch = tf.TensorSpec([None, *images.shape[1:]], tf.float32)
                traced = tf.function(activations, autograph=False)
                encode = traced.get_concrete_function(any_batch)
            rows = encode(images).numpy().reshape(len(images), -1)
            if not done:
                width = _block_columns(count)
                starts = range(0, rows.shape[1], width)
                made = _room(count, rows.shape[1], memory_bytes)
                block = stack.enter_context(made)
            for i in starts:
                block(i, width)[done : done + len(rows)] = rows[:, i : i + width]
            done += len(rows)
        if done != count:
            raise ValueError(f"{count} images were announced, {done} came.")
        try:
            return _rdm_of_blocks((block(i, width) for i in starts), count, centred)
        except UserError as error:
            raise UserError(f"{teacher.task.name}, {layer}: {error}") from error


@contextlib.contextmanager
def _room(
    count: int, dimensions: int, memory_bytes: int
) -> Iterator[Callable[[int, int], np.ndarray]]:
    """Makes room for features [n, d] that come by rows and go by columns.

    Yields:
      A function of a block's first column, a multiple of the block's width, and the
      width, that gives the block: float32 [n, columns] of an array in memory, or of a
      file without a name, which cannot outlive the process. There a block lies in one
      piece and is mapped only while it is in use: mapped pages count as memory.
    """
    size = 4 * count * dimensions
    if size <= memory_bytes:
        array = np.empty((count, dimensions), np.float32)
        yield lambda start, width: array[:, start : start + width]
        return
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(
            f"The features of {count} images take {in_units(size)}; {folder} has "
            f"{in_units(free)} free. Take fewer images or a later layer, or set TMPDIR "
            "to a folder on another disk."
        )
    told = "Features of %d images: %s, for now in a temporary file in %s."
    logging.info(told, count, in_units(size), folder)

    def mapped(start: int, width: int) -> np.ndarray:
        shape = count, min(width, dimensions - start)
        return np.memmap(file, np.float32, "r+", 4 * count * start, shape)

    with tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):  # not on macOS
            # A sparse file on a full disk would end the process: SIGBUS.
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
        yield mapped


def _check_settings(layer: str, inputs: str, layers: Sequence[str] = LAYERS) -> None:
    checked("layer", Annotated[str, one_of(layers)], layer)
    checked("inputs", InputsShown, inputs)


def teachers_with(
    layer: str, teachers_dir: Optional[PathLike] = None, folders: Folders = None
) -> Tuple[Dict[str, pathlib.Path], Dict[str, str]]:
    """Names the teachers that are there and have a layer, and those that lack it.

    Args:
      layer: one of `LAYERS`; teachers that are files have them all.
      teachers_dir: see `soka_tf.teachers.finding.find_teachers`.
      folders: likewise.

    Returns:
      Task -> file of those that have it; task -> sentence on those that have not.
    """
    found, lacking = found_teachers(teachers_dir, folders), {}
    for name, path in found.items():
        if path.name != FILE:
            continue
        layers = read_manifest(path).layers
        if layer not in layers:
            lacking[name] = (
                f"{path}: the teacher of {name!r} cannot be compared with others: it "
                f"has no layer {layer!r} ({', '.join(layers) or 'none at all'})."
            )
    return {n: path for n, path in found.items() if n not in lacking}, lacking


def compare_teachers(
    names: Sequence[str],
    teachers_dir: Optional[PathLike],
    samples: Sequence[Sample],
    batches: Batches,
    layer: str = "representation",
    inputs: str = "training",
    centred: bool = True,
    progress: bool = True,
    folders: Folders = None,
    trust_saved_model: bool = False,
) -> np.ndarray:
    """Computes the similarity of every two teachers.

    One teacher is in memory at a time.

    Args:
      names: tasks whose teachers are compared, any alias.
      teachers_dir: see `soka_tf.teachers.finding.load_teachers`, as the last two.
      samples: readable images, see `soka_tf.data.samples.drop_damaged`.
      batches: sizes of what the teachers are shown.
      layer: one of `LAYERS`.
      inputs: "training" or "released", see `soka_tf.teachers.pool.TeacherPool`.
      centred: see `compute_rdm`.
      progress: whether to show a bar.
      folders: of a teacher each.
      trust_saved_model: whether a SavedModel may do more than compute.

    Returns:
      float64 [m, m] in the order of the names, see `compute_similarity`.

    Raises:
      UserError: if a teacher is missing or its RDM cannot be computed.
    """
    _check_settings(layer, inputs)
    _check_count(len(samples))
    # Without labels: a mask would be read for nothing.
    plain = [dataclasses.replace(s, files={RGB: s.files[RGB]}) for s in samples]
    dataset = labelled_dataset(plain, [], batches)
    bar = tqdm.tqdm(
        total=len(names) * len(samples),
        desc="comparing teachers",
        unit="image",
        disable=not progress,
    )

    def images() -> Iterator[tf.Tensor]:
        for batch in dataset:
            yield batch[RGB]
            bar.update(len(batch[RGB]))

    def rdm(name: str) -> np.ndarray:
        where = (teachers_dir, folders, trust_saved_model)
        (teacher,) = load_teachers([name], *where).values()
        return compute_teacher_rdm(
            teacher, images(), len(samples), layer, inputs, centred
        )

    rdms = []
    with bar:
        for name in names:
            rdms.append(rdm(name))
            gc.collect()  # Keras models and graphs refer to themselves
    return compute_similarity(rdms)
