"""Drawn rooms as arrays on disk: images, and labels as networks predict them."""

import concurrent.futures
import os
import pathlib
from typing import Dict, Iterator, List, NamedTuple, Sequence, Tuple

import numpy as np
import tqdm

from soka_tf.atomic import locked, replacing, write_json
from soka_tf.data import encodings
from soka_tf.data.documents import Number, read_json, refusing
from soka_tf.data.image_files import RGB, VANISHING_POINT
from soka_tf.data.rooms import room_files
from soka_tf.tasks import TASKS

SEGMENTATION = "segment_semantic"  # the one domain whose pixels are classes
_DONE = "done.json"
_DRAW_AGAIN = "Remove its folder: what it holds is drawn again."
_CHUNK = 64  # rooms between two notes of how far it is


class Rooms(NamedTuple):
    """Which rooms. Those of different seeds have none in common.

    Attributes:
      seed: of the collection.
      rooms: how many.
      views: of each.
    """

    seed: int
    rooms: int
    views: int


def draw(
    data_dir: str, rooms: Rooms, size: int, domains: Sequence[str]
) -> Dict[str, np.ndarray]:
    """Draws rooms into arrays, or goes on with it; what is there is kept.

    Args:
      data_dir: where to; these rooms get a folder of their own.
      rooms: which.
      size: side of the pictures in pixels.
      domains: some of `room_files.DOMAINS`, beside rgb.

    Returns:
      Domain -> array on disk, a row a view: "rgb" [N, S, S, 3] and "segment_semantic"
      [N, S, S, 1] uint8, "vanishing_point" float32 [N, 9], others float32
      [N, S, S, C] in the network's range.
    """
    name = (
        f"{room_files.rooms_folder_name(rooms.seed, size)}-{rooms.rooms}x{rooms.views}"
    )
    folder = pathlib.Path(os.path.expanduser(data_dir)) / name
    folder.mkdir(parents=True, exist_ok=True)
    names = [RGB, *(domain for domain in domains if domain != RGB)]
    with locked(folder / "lock", f"draws rooms in {folder}"):
        path = folder / _DONE
        done = _read_done(path) if path.exists() else {}
        with tqdm.tqdm(
            total=rooms.rooms * len(names), desc=f"drawing {name}", mininterval=2.0
        ) as bar:
            bar.update(sum(done.get(domain, 0) for domain in names))
            with room_files.drawing_pool() as pool:
                for some, chunk in _missing(names, done, rooms.rooms):
                    _draw_chunk(folder, some, chunk, rooms, size, pool)
                    done.update(dict.fromkeys(some, chunk.stop))
                    write_json(path, done)
                    bar.update(len(some) * len(chunk))
    return {domain: _opened(folder / f"{domain}.npy", "r") for domain in names}


def _missing(
    domains: Sequence[str], done: Dict[str, int], count: int
) -> Iterator[Tuple[List[str], range]]:
    """Domains that have come equally far, and the next rooms of them."""
    done = {domain: done.get(domain, 0) for domain in domains}
    while min(done.values()) < count:
        start = min(done.values())
        some = [domain for domain, rooms in done.items() if rooms == start]
        others = [rooms for rooms in done.values() if rooms > start]
        stop = min([start + _CHUNK, count, *others])
        yield some, range(start, stop)
        done.update(dict.fromkeys(some, stop))


def _draw_chunk(
    folder: pathlib.Path,
    domains: List[str],
    chunk: range,
    rooms: Rooms,
    size: int,
    pool: concurrent.futures.Executor,
) -> None:
    """Draws some rooms in worker processes, into their rows of the arrays."""
    with room_files.light_workers():
        drawn = [
            pool.submit(_draw_room, rooms.seed, n, rooms.views, size, domains)
            for n in chunk
        ]
    for room, future in zip(chunk, drawn):
        rows = slice(room * rooms.views, (room + 1) * rooms.views)
        for domain, values in future.result().items():
            array = _array(folder / f"{domain}.npy", values, rooms)
            array[rows] = values
            array.flush()


def _draw_room(
    seed: int, room: int, views: int, size: int, domains: List[str]
) -> Dict[str, np.ndarray]:
    drawn = [room_files.render_room(seed, room, v, size, domains) for v in range(views)]
    return {
        d: np.stack([_encoded(d, view[d], size) for view in drawn]) for d in domains
    }


def _encoded(domain: str, values: np.ndarray, size: int) -> np.ndarray:
    """A label as a network of its task predicts it, by way of the file's pixels."""
    if domain in (RGB, SEGMENTATION):
        return values
    if domain == VANISHING_POINT:
        return values.reshape(9)
    task = TASKS[domain]
    return encodings.encode(task, encodings.store(task, values), size)


def _array(path: pathlib.Path, row: np.ndarray, rooms: Rooms) -> np.ndarray:
    """The array on disk of one domain, made if it is not there."""
    if not path.exists():
        shape = (rooms.rooms * rooms.views, *row.shape[1:])
        with replacing(path) as temporary:
            np.lib.format.open_memmap(temporary, "w+", row.dtype, shape)
    return _opened(path, "r+")


def _read_done(path: pathlib.Path) -> Dict[str, int]:
    """Domain -> how many of its rooms are drawn."""
    return read_json(path, {str: Number(int, 0, 1e15)}, _DRAW_AGAIN)


def _opened(path: pathlib.Path, mode: str) -> np.ndarray:
    with refusing(path, _DRAW_AGAIN):
        return np.load(path, mmap_mode=mode)
