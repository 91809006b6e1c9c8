"""From bindings to the images of a run."""

import os
from typing import Annotated, Any, Callable, List, Optional, Sequence, Tuple, Union

import gin
from absl import logging

from soka_tf.data import samples as sampling
from soka_tf.data.image_files import RGB
from soka_tf.data.samples import MASK_DOMAIN, Data, Sample, drop_damaged
from soka_tf.data.sources import folder, records, taskonomy
from soka_tf.data.sources import rooms as drawn
from soka_tf.errors import UserError
from soka_tf.kinds import TEXT, Flag, Path, configurable, either, list_of
from soka_tf.runs.config import made_by
from soka_tf.tasks import get_targets

rooms = gin.external_configurable(drawn.Rooms, "rooms")
split = gin.external_configurable(
    sampling.split_samples, "split", denylist=["samples", "path"]
)


_BUILDINGS = either(list_of(TEXT, "a list of names of buildings"), TEXT)
_SOURCE = configurable("a reference to a source, @your_source,")


@gin.configurable("folders", denylist=["domains"])
def find_in_folders(
    domains: Sequence[str],
    records_dir: Path = None,
    images_dir: Path = None,
    taskonomy_dir: Path = None,
    buildings: Annotated[Optional[Sequence[str]], _BUILDINGS] = None,
) -> Optional[Tuple[List[Sample], str]]:
    """The samples of the first folder there is, and its name; None without any.

    Args:
      domains: label domains wanted beside rgb.
      records_dir: shards that hold the files of either of the next.
      images_dir: any folder of images; trains without labels.
      taskonomy_dir: root of a Taskonomy folder (docs: three layouts).
      buildings: of Taskonomy, or of records of it; None for all that are there.
    """
    if records_dir:
        found = records.find(records_dir, domains, buildings)
        return found, f"records in {records_dir}"
    if images_dir:
        return folder.find(images_dir), f"the folder {images_dir}"
    if taskonomy_dir:
        found = taskonomy.find(taskonomy_dir, domains, buildings)
        return found, f"Taskonomy folder {taskonomy_dir}"
    return None


@gin.configurable(denylist=["measure_only"])
def build_data(
    tasks: Sequence[str],
    image_size: int,
    split_file: Optional[str] = None,
    draw: bool = True,
    train_labels: bool = False,
    source: Annotated[
        Optional[Callable[[List[str]], Union[List[Sample], Data]]], _SOURCE
    ] = None,
    check_files: Flag = True,
    measure_only: Flag = False,
) -> Data:
    """Finds the images: a source's, those of the bound `folders`, else of `rooms`.

    Args:
      tasks: the student's tasks, for the labels of the validation images.
      image_size: side in pixels; rooms are drawn at this size.
      split_file: where a folder's split is kept; None to keep it nowhere.
      draw: whether missing rooms are drawn; False only looks what is there.
      train_labels: whether the images to train on must have labels, too.
      source: finds samples with labels of the domains it is given, beside rgb: a list
        to be checked and split, or a `Data`. Used before all others.
      check_files: whether every image is opened once beforehand; not those of rooms.
      measure_only: whether nothing is trained: images that are none of the split file's
        are all to validate on, and no split is written.

    Raises:
      UserError: if there are no images, or no labels where they are needed.
    """
    targets = get_targets(tasks)
    # Tasks of one's own have gaps in their label files, if any.
    masks = [] if all(task.registered for task in targets) else [MASK_DOMAIN]
    labels = [task.name for task in targets]
    domains = masks + labels
    if source is not None:
        found = _of_source(source, domains)
    else:
        found = find_in_folders(domains)
    if found is None:
        bound = rooms()
        place = bound.dir or default_cache_dir()
        return drawn.find(bound, place, domains, image_size, draw, train_labels)
    data, name = found
    if not isinstance(data, Data):
        whole = drop_damaged(data, [RGB])[0] if check_files else data
        if measure_only and not sampling.knows_any(split_file or "", whole):
            logging.info("%s: none is in the run's split; all are measured.", name)
            return Data([], whole, name)
        data = Data(*_split(whole, name, split_file), name)
    if train_labels:
        _check_labels(data.train, labels, data.source)
    return data


def _of_source(source: Any, domains: List[str]) -> Tuple[Any, str]:
    """What a source from outside finds, looked over, and its name."""
    name = getattr(source, "__name__", repr(source))
    found = made_by(name, source, list(dict.fromkeys(domains)))
    for samples in found[:2] if isinstance(found, Data) else [found]:
        if not isinstance(samples, list) or not all(
            isinstance(sample, Sample) and RGB in sample.files for sample in samples
        ):
            raise UserError(
                "build_data.source must be a reference to a source: a gin configurable "
                "that takes the names of domains and returns a list of "
                "soka_tf.data.samples.Sample, all with an rgb file, or a Data of such. "
                f"Received: {name}, which is {type(found).__name__}."
            )
    return found, f"source @{name}"


def _split(
    samples: List[Sample], source: str, path: Optional[str]
) -> Tuple[List[Sample], List[Sample]]:
    if len(samples) < 2:
        raise UserError(
            f"{source}: {len(samples)} readable image; at least 2 are needed, one "
            "to train on and one to validate on; damaged ones are left out."
        )
    train, validation = split(samples, path=path)
    if not validation:
        raise UserError(
            "split.validation_fraction must leave an image to validate on. "
            f"Received: 0 of {len(samples)} images."
        )
    return train, validation


def _check_labels(samples: List[Sample], domains: List[str], source: str) -> None:
    missing = [d for d in domains if not any(d in sample.files for sample in samples)]
    if missing:
        raise UserError(
            f"run.supervision = 'labels' needs labels of {', '.join(missing)}: the "
            f"images to train on, of {source}, have none. Bind taskonomy_dir or "
            "records_dir to images with labels (and images_dir = None), bind none of "
            "them for drawn rooms, or bind run.supervision = 'teachers'."
        )


def default_cache_dir() -> str:
    """Where generated images are kept: $SOKA_TF_CACHE, else ~/.cache/soka_tf."""
    return os.environ.get("SOKA_TF_CACHE") or os.path.expanduser("~/.cache/soka_tf")
