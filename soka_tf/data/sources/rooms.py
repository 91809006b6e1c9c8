"""Procedural rooms, drawn where they are not there yet."""

import os
from typing import Sequence

from soka_tf.data.reading import RGB
from soka_tf.data.rooms import draw as drawing
from soka_tf.data.samples import Data
from soka_tf.data.sources import taskonomy
from soka_tf.errors import UserError


def find(
    folder: str,
    domains: Sequence[str],
    image_size: int,
    seed: int,
    rooms: int,
    train_views: int,
    validation_views: int,
    draw: bool = True,
    train_labels: bool = False,
) -> Data:
    """Finds the views of the rooms, after drawing those that are missing.

    Args:
      folder: where collections of rooms are kept, each in a folder of its own.
      domains: label domains wanted beside rgb.
      image_size: side in pixels.
      seed: of the rooms.
      rooms: number of rooms.
      train_views: views of each room to train on.
      validation_views: further views of the same rooms, to validate on.
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
    root = os.path.join(folder, drawing.rooms_folder_name(seed, image_size))
    labelled = [RGB, *domains]
    if draw:
        # Images to train on come without labels, unless these are asked for: nothing
        # can open what is not there.
        for first, views, drawn in (
            (0, train_views, labelled if train_labels else [RGB]),
            (train_views, validation_views, labelled),
        ):
            drawing.generate_rooms(
                root, seed, rooms, range(first, first + views), image_size, drawn
            )
    views = train_views + validation_views
    train, validation = [], []
    for sample in taskonomy.find(root, domains) if os.path.isdir(root) else []:
        room, view = drawing.room_and_view(sample.key)
        if room < rooms and view < views:
            (train if view < train_views else validation).append(sample)
    return Data(
        train,
        validation,
        f"procedural rooms in {root}",
        f"A run draws what is missing of {rooms} rooms x {views} views.",
    )
