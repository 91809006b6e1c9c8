"""Representation dissimilarity matrices (RDMs), and how alike they are in rank.

An RDM says how differently something sees every two images: 1 - the correlation of its
features. Features that are too large for memory wait in a temporary file.
"""

import contextlib
import math
import os
import shutil
import tempfile
from typing import Any, Callable, Iterable, Iterator

import numpy as np
from absl import logging

from soka_tf.data.shard_store import in_units
from soka_tf.errors import UserError

FEWEST_IMAGES = 3  # two images have one dissimilarity: nothing to rank
MEMORY_BYTES = 256 << 20  # larger features go to a temporary file

_BLOCK_BYTES = 32 << 20  # of float64; several such arrays are alive at a time
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
    check_count(count)
    rows = features.reshape(count, math.prod(features.shape[1:]))
    width = _block_columns(count)
    starts = range(0, rows.shape[1], width)
    return rdm_of_blocks((rows[:, i : i + width] for i in starts), count, centred)


def check_count(count: int) -> None:
    """Refuses fewer images than can be ranked.

    Raises:
      UserError: saying how many there must be.
    """
    if count < FEWEST_IMAGES:
        raise UserError(
            f"Representations are compared over at least {FEWEST_IMAGES} images. "
            f"Received: {count}."
        )


def _block_columns(count: int) -> int:
    return max(1, _BLOCK_BYTES // (8 * count))


def rdm_of_blocks(
    blocks: Iterable[np.ndarray], count: int, centred: bool
) -> np.ndarray:
    """Computes the RDM of features that come in blocks, see `compute_rdm`.

    Args:
      blocks: [count, columns] each; every block has all images.
      count: number of images.
      centred: whether every column's mean is subtracted first.
    """
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


@contextlib.contextmanager
def gathered(
    batches: Iterable[np.ndarray], count: int, memory_bytes: int
) -> Iterator[Iterator[np.ndarray]]:
    """Gathers features that come by images, to be read by columns.

    Args:
      batches: float32 [B, d], `count` rows in all.
      count: number of images.
      memory_bytes: how much of the features may be held in memory. Larger ones wait in
        a temporary file, which is gone afterwards whatever happens.

    Yields:
      The features as blocks [count, columns], once, see `rdm_of_blocks`.

    Raises:
      UserError: if the disk is too small for them.
      ValueError: if another number of images comes.
    """
    done, width = 0, _block_columns(count)
    with contextlib.ExitStack() as stack:
        for rows in batches:
            if not done:
                starts = range(0, rows.shape[1], width)
                made = _room(count, rows.shape[1], memory_bytes)
                block = stack.enter_context(made)
            for i in starts:
                block(i, width)[done : done + len(rows)] = rows[:, i : i + width]
            done += len(rows)
        if done != count:
            raise ValueError(f"{count} images were announced, {done} came.")
        yield (block(i, width) for i in starts)


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
    check_count(shape[0])
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
