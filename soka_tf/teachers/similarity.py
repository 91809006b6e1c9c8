"""Which teachers see images alike: representation similarity.

Two teachers are as similar as their dissimilarity matrices (`soka_tf.teachers.rdm`) are
in rank. What follows from it for auxiliary teachers:
`soka_tf.teachers.auxiliary_choice`.
"""

import dataclasses
import gc
import pathlib
from typing import Annotated, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import tensorflow as tf
import tqdm

from soka_tf.atomic import PathLike
from soka_tf.data.image_files import RGB
from soka_tf.data.pipeline import Batches, labelled_dataset
from soka_tf.data.samples import Sample
from soka_tf.errors import UserError
from soka_tf.kinds import checked, one_of
from soka_tf.teachers.finding import Folders, found_teachers, load_teachers
from soka_tf.teachers.pool import InputsShown, shown_images
from soka_tf.teachers.rdm import (
    MEMORY_BYTES,
    check_count,
    compute_similarity,
    gathered,
    rdm_of_blocks,
)
from soka_tf.teachers.saved_model.manifest import FILE, read_manifest
from soka_tf.teachers.teacher import Teacher

LAYERS = ("block1", "block2", "block3", "block4", "representation")


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
    memory_bytes: int = MEMORY_BYTES,
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
    check_count(count)
    features = _features(teacher, batches, layer, inputs)
    with gathered(features, count, memory_bytes) as blocks:
        try:
            return rdm_of_blocks(blocks, count, centred)
        except UserError as error:
            raise UserError(f"{teacher.task.name}, {layer}: {error}") from error


def _features(
    teacher: Teacher, batches: Iterable[tf.Tensor], layer: str, inputs: str
) -> Iterator[np.ndarray]:
    """Yields what a layer makes of each batch, float32 [B, d]."""

    def activations(images):
        # What comes after the layer is pruned from the graph.
        return teacher(shown_images(teacher, images, inputs), (layer,))[layer]

    encode = None
    for images in batches:
        if encode is None:
            # Traced by itself: TensorFlow would warn of a function a teacher. At the
            # images' size, which folders' teachers resize from.
            any_batch = tf.TensorSpec([None, *images.shape[1:]], tf.float32)
            traced = tf.function(activations, autograph=False)
            encode = traced.get_concrete_function(any_batch)
        yield encode(images).numpy().reshape(len(images), -1)


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
    check_count(len(samples))
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
