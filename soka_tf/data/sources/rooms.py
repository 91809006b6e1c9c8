"""Procedural rooms, drawn where they are not there yet."""

import dataclasses
import os
from typing import Annotated, List, NamedTuple, Optional, Sequence

from soka_tf.data.image_files import RGB
from soka_tf.data.rooms import room_files as drawing
from soka_tf.data.samples import Data, Sample
from soka_tf.data.sources import taskonomy
from soka_tf.errors import UserError
from soka_tf.kinds import Count, CountOrZero, Path, Seed, check_fields, whole


@dataclasses.dataclass(frozen=True)
class Rooms:
    """Collections of rooms and their views.

    Attributes:
      dir: where collections are kept; None for $SOKA_TF_CACHE or ~/.cache/soka_tf.
      seed: of the rooms to train on; the shipped teachers learnt on seed 1.
      count: how many of them.
      train_views: views of each to train on.
      validation_seed: of the rooms to validate on; None for further views of the rooms
        trained on, as the paper's one building.
      validation_count: how many of them, if they are others.
      validation_views: views of each to validate on.
    """

    dir: Path = None
    seed: Seed = 2
    count: Count = 100
    train_views: Count = 20
    validation_seed: Annotated[Optional[int], whole(0, 2**32 - 1)] = 6
    validation_count: Count = 50
    validation_views: CountOrZero = 4

    def __post_init__(self):
        check_fields(self, "rooms.")


def find(
    rooms: Rooms,
    folder: str,
    domains: Sequence[str],
    image_size: int,
    draw: bool = True,
    train_labels: bool = False,
) -> Data:
    """Finds the views of the rooms, after drawing those that are missing.

    Args:
      rooms: which.
      folder: where collections of rooms are kept, each in a folder of its own.
      domains: label domains wanted beside rgb.
      image_size: side in pixels.
      draw: whether missing views are drawn; False only looks what is there.
      train_labels: whether the views to train on are drawn with labels, too.

    Raises:
      UserError: if rooms have no labels of a domain, or the folder holds other rooms.
    """
    for domain in domains:
        if domain not in drawing.DOMAINS:
            raise UserError(
                f"tasks: procedural rooms have no ground truth for {domain!r}. They "
                f"have {', '.join(drawing.DOMAINS)}. Bind taskonomy_dir, images_dir or "
                "records_dir."
            )
    # Images to train on come without labels, unless these are asked for: nothing can
    # open what is not there.
    wanted = domains if train_labels else []
    train = _Part(rooms.seed, rooms.count, range(rooms.train_views))
    if rooms.validation_seed in (None, rooms.seed):
        last = rooms.train_views + rooms.validation_views
        validation = train._replace(views=range(rooms.train_views, last))
        other = "further views of the same rooms"
    else:
        views = range(rooms.validation_views)
        validation = _Part(rooms.validation_seed, rooms.validation_count, views)
        other = f"other procedural rooms, of seed {rooms.validation_seed}"
    return Data(
        _samples(train, folder, wanted, image_size, draw),
        _samples(validation, folder, domains, image_size, draw),
        f"procedural rooms of seed {rooms.seed}",
        f"A run draws what is missing of {train} and {validation} in {folder}.",
        other,
    )


class _Part(NamedTuple):
    """Some views of each of the first rooms of a seed."""

    seed: int
    rooms: int
    views: range

    def __str__(self) -> str:
        return f"{self.rooms} rooms x {len(self.views)} views of seed {self.seed}"


def _samples(
    part: _Part, folder: str, domains: Sequence[str], image_size: int, draw: bool
) -> List[Sample]:
    """The views of a part, after drawing those that are missing."""
    if not (part.rooms and part.views):
        return []
    root = os.path.join(folder, drawing.rooms_folder_name(part.seed, image_size))
    if draw:
        drawing.generate_rooms(
            *(root, part.seed, part.rooms, part.views, image_size, [RGB, *domains])
        )
    samples = []
    for sample in taskonomy.find(root, domains) if os.path.isdir(root) else []:
        room, view = drawing.room_and_view(sample.key)
        if room < part.rooms and view in part.views:
            samples.append(sample)
    return samples
