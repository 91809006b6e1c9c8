"""Procedural rooms, drawn where they are not there yet."""

import dataclasses
import os
from typing import Optional, Sequence

from soka_tf.data.image_files import RGB
from soka_tf.data.rooms import room_files as drawing
from soka_tf.data.samples import Data
from soka_tf.data.sources import taskonomy
from soka_tf.errors import UserError


@dataclasses.dataclass(frozen=True)
class Rooms:
    """A collection of rooms and its views.

    Attributes:
      dir: where collections are kept; None for $SOKA_TF_CACHE or ~/.cache/soka_tf.
      seed: of the rooms; the shipped teachers saw other seeds.
      count: number of rooms.
      train_views: views of each room to train on.
      validation_views: further views of the same rooms, to validate on.
    """

    dir: Optional[str] = None
    seed: int = 2
    count: int = 100
    train_views: int = 20
    validation_views: int = 4


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
    root = os.path.join(folder, drawing.rooms_folder_name(rooms.seed, image_size))
    labelled = [RGB, *domains]
    if draw:
        # Images to train on come without labels, unless these are asked for: nothing
        # can open what is not there.
        for first, views, drawn in (
            (0, rooms.train_views, labelled if train_labels else [RGB]),
            (rooms.train_views, rooms.validation_views, labelled),
        ):
            where = root, rooms.seed, rooms.count
            shown = range(first, first + views)
            drawing.generate_rooms(*where, shown, image_size, drawn)
    views = rooms.train_views + rooms.validation_views
    train, validation = [], []
    for sample in taskonomy.find(root, domains) if os.path.isdir(root) else []:
        room, view = drawing.room_and_view(sample.key)
        if room < rooms.count and view < views:
            (train if view < rooms.train_views else validation).append(sample)
    return Data(
        train,
        validation,
        f"procedural rooms in {root}",
        f"A run draws what is missing of {rooms.count} rooms x {views} views.",
    )
