"""The auxiliary teachers of a run: named, none, or chosen by similarity (Sec. 3.2)."""

import dataclasses
import os
from typing import Annotated, Callable, Optional, Sequence, Tuple, Union

import gin
import numpy as np
import tensorflow as tf
from absl import logging

from soka_tf.atomic import write_json
from soka_tf.data.documents import Number, read_json, refusing
from soka_tf.data.image_files import RGB
from soka_tf.data.pipeline import Batches
from soka_tf.data.samples import Sample, drop_damaged
from soka_tf.errors import UserError
from soka_tf.evaluation.similarity_figure import draw_similarity
from soka_tf.kinds import (
    Count,
    Path,
    check_arguments,
    check_fields,
    number,
    one_of,
    whole,
)
from soka_tf.runs.advice import of_comparison
from soka_tf.runs.config import bound_value
from soka_tf.tasks import AuxiliaryNames, get_task
from soka_tf.teachers.auxiliary_choice import (
    DEFAULT_THRESHOLD,
    Choice,
    check_choice,
    choose_auxiliary,
)
from soka_tf.teachers.pool import InputsShown
from soka_tf.teachers.rdm import FEWEST_IMAGES
from soka_tf.teachers.similarity import (
    LAYERS,
    compare_teachers,
    sample_images,
    teachers_with,
)

CHOICE_FILE = "auxiliary.json"


@dataclasses.dataclass(frozen=True)
class Selection:
    """The auxiliary teachers of a run, and why.

    Attributes:
      names: their tasks.
      summary: one line; "" where they were named.
      choice: the decision with its arithmetic; None where there was none to take.
      compared: the tasks of the similarity matrix.
      similarity: float64 [m, m] in their order.
      cached: whether the decision was taken before, by the same run.
    """

    names: Tuple[str, ...]
    summary: str = ""
    choice: Optional[Choice] = None
    compared: Tuple[str, ...] = ()
    similarity: Optional[np.ndarray] = None
    cached: bool = False


@gin.configurable("similarity")
@dataclasses.dataclass(frozen=True)
class Comparison:
    """How the teachers are compared.

    Attributes:
      threshold: of the gate, in [-1, 1]: pairs of targets at least as similar need no
        auxiliary (delta of the paper, which gives no value).
      layer: whose activations are compared.
      inputs: what the teachers are shown, see `TeacherPool`.
      images: how many images they are compared on.
      batch_size: images at a time.
    """

    threshold: Annotated[float, number(-1.0, 1.0)] = DEFAULT_THRESHOLD
    layer: Annotated[str, one_of(LAYERS)] = "representation"
    inputs: InputsShown = "training"
    images: Annotated[int, whole(FEWEST_IMAGES)] = 200
    batch_size: Count = 16

    def __post_init__(self):
        check_fields(self, "similarity.")


@gin.configurable
def select_auxiliary(
    tasks: Sequence[str],
    samples: Optional[Callable[[], Sequence[Sample]]],
    image_size: int,
    antialias: bool,
    model_dir: Optional[str],
    auxiliary: AuxiliaryNames = "none",
    teachers_dir: Path = None,
) -> Selection:
    """Says which teachers lend their features only.

    Args:
      tasks: the student's tasks.
      samples: returns the images to train on; asked only where there is a choice to
        make. None to make none: a choice then stays open.
      image_size: side in pixels of what the teachers are shown.
      antialias: whether images are smoothed before they are reduced.
      model_dir: where the decision is kept, so that a run that goes on keeps it; None
        to keep it nowhere.
      auxiliary: "none"; "auto" for the choice by representation similarity, among all
        teachers that are there and have the layer compared; or a list of tasks.
      teachers_dir: the folder of the teachers; None for those that come with soka_tf.

    Raises:
      UserError: if `auxiliary` is none of these, or the choice cannot be made.
    """
    check_arguments(select_auxiliary, auxiliary=auxiliary)
    named = _named(auxiliary)
    if named is not None:
        return Selection(named)
    targets = tuple(get_task(name).name for name in tasks)
    comparison, folders = Comparison(), bound_value("find_teachers.folders")
    found, lacking = teachers_with(comparison.layer, teachers_dir, folders)
    there = list(found)
    for name in lacking:
        if name in targets:
            raise UserError(
                f"{lacking[name]} Bind auxiliary = 'none', name auxiliary teachers, or "
                "give its manifest such a layer."
            )
    if samples is None:
        others = ", ".join(name for name in there if name not in targets) or "none"
        return Selection((), f"chosen by similarity when a run begins, among: {others}")
    path = model_dir and os.path.join(model_dir, CHOICE_FILE)
    if path and os.path.isfile(path):
        selection = _read(path, targets, comparison.threshold)
    else:
        for sentence in lacking.values():
            logging.warning(sentence)
        check_choice(there, targets, comparison.threshold)
        readable, _ = drop_damaged(sample_images(samples(), comparison.images), [RGB])
        count = len(readable)
        for sentence in of_comparison(count):
            logging.warning(sentence)
        logging.info("Comparing %d teachers on %d images ...", len(there), count)
        shown = {"layer": comparison.layer, "inputs": comparison.inputs}
        similarity = compare_teachers(
            there,
            teachers_dir,
            readable,
            Batches(image_size, comparison.batch_size, antialias),
            **shown,
            folders=folders,
            trust_saved_model=bool(bound_value("load_pool.trust_saved_model")),
        )
        selection = _select(there, similarity, targets, comparison.threshold)
        if path:
            _write(path, selection, {**shown, "images": count})
    logging.info("%s.", selection.summary[0].upper() + selection.summary[1:])
    return selection


def _named(auxiliary: Union[None, str, Sequence[str]]) -> Optional[Tuple[str, ...]]:
    """The tasks that are bound; None where there is a choice to make."""
    if auxiliary is None or auxiliary == "none":
        return ()
    if auxiliary == "auto":
        return None
    return tuple(get_task(name).name for name in auxiliary)


def _select(
    names: Sequence[str],
    similarity: np.ndarray,
    targets: Sequence[str],
    threshold: float,
    cached: bool = False,
) -> Selection:
    choice = choose_auxiliary(similarity, names, targets, threshold)
    chosen = () if choice.auxiliary is None else (choice.auxiliary,)
    return Selection(
        chosen, choice.summary, choice, tuple(names), np.asarray(similarity), cached
    )


def _write(path: str, selection: Selection, settings: dict) -> None:
    content = {
        "auxiliary": list(selection.names),
        "summary": selection.summary,
        "teachers": list(selection.compared),
        "similarity": selection.similarity.tolist(),
        "threshold": selection.choice.threshold,
        **settings,
    }
    write_json(path, content)


def _read(path: str, targets: Sequence[str], threshold: float) -> Selection:
    """Takes the decision again from the similarities of before."""
    wrong = "not a choice of an auxiliary teacher for these tasks"
    remedy = "Restore it, or remove it to have the teachers compared anew."
    shape = {"teachers": [str], "similarity": [[Number(float, -2, 2)]]}
    content = read_json(path, shape, remedy, wrong)
    with refusing(path, remedy, wrong):
        try:
            names = [get_task(name).name for name in content["teachers"]]
            similarity = np.array(content["similarity"], np.float64)
            return _select(names, similarity, targets, threshold, cached=True)
        except UserError as error:
            raise ValueError(error) from error


def log_selection(
    selection: Selection, model_dir: str, writer: tf.summary.SummaryWriter
) -> None:
    """Shows how a run chose its auxiliary teacher, where it did.

    Args:
      selection: of `select_auxiliary`.
      model_dir: gets auxiliary.png.
      writer: TensorBoard's; gets the picture and the arithmetic, once.
    """
    if selection.choice is None:
        return
    picture = draw_similarity(
        selection.similarity,
        selection.compared,
        selection.choice.targets,
        selection.choice.auxiliary,
        os.path.join(model_dir, "auxiliary.png"),
    )
    if selection.cached:
        return
    with writer.as_default(step=0):
        tf.summary.image("auxiliary/similarity", picture[None])
        # Indented lines are taken as they are by TensorBoard's Markdown.
        words = selection.choice.explain().replace("\n", "\n    ")
        tf.summary.text("auxiliary/choice", f"    {words}")
