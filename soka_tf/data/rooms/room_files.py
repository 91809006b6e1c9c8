"""Procedural rooms: pictures with exact ground truth, drawn on the spot (no download).

Nothing here is measured: depth, normals and occlusions come from the geometry itself.
The pictures are the library's own, so that teachers trained on them may be shipped.
No TensorFlow is imported, so that worker processes start in a moment.
"""

import concurrent.futures
import contextlib
import functools
import itertools
import multiprocessing
import os
import re
import sys
import types
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np
import tqdm
from absl import logging
from PIL import Image

from soka_tf.atomic import locked, replacing, write_json
from soka_tf.data import encodings
from soka_tf.data.documents import read_json
from soka_tf.data.rooms import camera as cameras
from soka_tf.data.rooms import views as seen
from soka_tf.data.rooms.scene import build_scene
from soka_tf.errors import UserError, short
from soka_tf.processes import end_with_parent
from soka_tf.tasks import TASKS

# Part of every folder's name and record: change it whenever any picture changes.
GENERATOR_VERSION = 2
DOMAINS = (
    "rgb",
    "depth_zbuffer",
    "depth_euclidean",
    "normal",
    "edge_texture",
    "edge_occlusion",
    "keypoints2d",
    "keypoints3d",
    "reshading",
    "segment_semantic",
    "vanishing_point",
)
BUILDING = "rooms"
_RECORD = "rooms.json"  # of what the folder holds

_scene = functools.lru_cache(maxsize=4)(build_scene)


def rooms_folder_name(seed: int, size: int) -> str:
    """Returns the name of the folder for pictures of one seed and size, in pixels."""
    return f"rooms-v{GENERATOR_VERSION}-seed{seed}-{size}px"


def _check_domains(domains: Sequence[str]) -> None:
    if isinstance(domains, str) or not domains:
        raise UserError(
            f"domains must be a list of names such as ['rgb', 'normal']. Received: "
            f"{domains!r}."
        )
    unknown = [name for name in domains if name not in DOMAINS]
    if unknown:
        raise UserError(
            f"Procedural rooms have no domain {unknown[0]!r}. Domains: "
            f"{', '.join(DOMAINS)}."
        )


def render_room(
    seed: int,
    room: int,
    view: int,
    size: int,
    domains: Sequence[str],
    supersample: int = 2,
) -> Dict[str, np.ndarray]:
    """Draws one view of one room, with the ground truths asked for.

    The scene depends on (seed, room), the camera on (seed, room, view), neither on
    size. Every label is of the ray through the pixel's centre; only rgb is averaged.

    Args:
      seed: of the whole collection, 0 or more.
      room: number of the room, 0 or more.
      view: number of the camera in that room, 0 or more.
      size: side of the picture, pixels.
      domains: some of `DOMAINS`; others cost nothing.
      supersample: rays per pixel and side for rgb.

    Returns:
      domain -> values in physical units:
      rgb uint8 [size, size, 3]; depth_zbuffer (along the optical axis) and
      depth_euclidean float32 [size, size, 1], metres; normal float32
      [size, size, 3], unit vectors right, up, towards the camera; edge_texture,
      edge_occlusion, keypoints2d, keypoints3d, reshading float32 [size, size, 1],
      fractions of a file's full scale; segment_semantic uint8 [size, size, 1], indices
      of `base_builder.CLASSES`; vanishing_point float32 [3, 3], rows are the
      room's axes (rightmost, up, away) in the frame of normal.

    Raises:
      UserError: if a domain is unknown.
    """
    _check_domains(domains)
    scene = _scene(seed, room)
    rng = np.random.default_rng([seed, room, 1 + view])
    camera = cameras.place_camera(scene, rng)
    windows = cameras.windows_of(scene.solids, camera)
    grid = functools.lru_cache(None)(
        lambda per_pixel: seen.Geometry(scene, camera, size * per_pixel, windows)
    )
    photograph = functools.partial(seen.rgb, supersample=supersample, rng=rng)
    rgb = functools.lru_cache(None)(lambda: photograph(grid(supersample)))
    makers = {
        "rgb": rgb,
        "depth_zbuffer": lambda: grid(1).depth,
        "depth_euclidean": lambda: grid(1).depth * grid(1).stretch,
        "normal": lambda: grid(1).normal,
        "edge_texture": lambda: seen.edge_texture(rgb()),
        "edge_occlusion": lambda: seen.edge_occlusion(grid(2), size),
        "keypoints2d": lambda: seen.keypoints2d(rgb()),
        "keypoints3d": lambda: seen.keypoints3d(grid(2), size),
        "reshading": lambda: seen.reshading(grid(1)),
        "segment_semantic": lambda: seen.segment_semantic(grid(1)),
        "vanishing_point": lambda: seen.vanishing_point(camera.axes),
    }
    return {d: _with_channels(d, makers[d]()) for d in DOMAINS if d in domains}


def _with_channels(domain: str, values: np.ndarray) -> np.ndarray:
    if domain in ("rgb", "normal", "vanishing_point"):
        return values
    kept = domain == "segment_semantic"
    return values[..., None] if kept else values[..., None].astype(np.float32)


def room_and_view(key: str) -> Tuple[int, int]:
    """The room and the view of a sample, from its key "rooms/point_1_view_2"."""
    room, view = re.fullmatch(r".*point_(\d+)_view_(\d+)", key).groups()
    return int(room), int(view)


def _file_path(root: str, domain: str, room: int, view: int) -> str:
    suffix = "npy" if domain == "vanishing_point" else "png"
    name = f"point_{room}_view_{view}_domain_{domain}.{suffix}"
    return os.path.join(root, BUILDING, domain, name)


def _write(path: str, domain: str, values: np.ndarray) -> None:
    with replacing(path, flushed=False) as temporary, open(temporary, "wb") as file:
        if domain == "vanishing_point":
            np.save(file, values)
            return
        as_it_is = domain in ("rgb", "segment_semantic")
        pixels = values if as_it_is else encodings.store(TASKS[domain], values)
        # Level 1: noise and 16 bits hardly compress, and drawing shall not wait.
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        image.save(file, format="PNG", compress_level=1)


def _draw_missing(root: str, seed: int, size: int, jobs: Sequence[Tuple]) -> int:
    """Draws and writes the jobs (room, view, missing domains); runs in a worker."""
    for room, view, domains in jobs:
        for domain, values in render_room(seed, room, view, size, domains).items():
            _write(_file_path(root, domain, room, view), domain, values)
    return len(jobs)


def _check_record(root: str, record: Mapping[str, int]) -> bool:
    """Whether there is a record; one of another generator, seed or size is refused."""
    path = os.path.join(root, _RECORD)
    if not os.path.exists(path):
        return False
    remedy = "Choose another folder or remove this one."
    found = read_json(path, {str: int}, remedy, "it is not the record of rooms")
    if found != record:
        raise UserError(
            f"{path} says that the folder holds other rooms. Found: {short(found)}; "
            f"asked for: {dict(record)}. {remedy}"
        )
    return True


@contextlib.contextmanager
def light_workers() -> Iterator[None]:
    """Lets spawned workers start with one thread each and without the main program.

    A spawned process imports the parent's main module again. The workers need nothing
    of it: it may be a command that imports TensorFlow, a script that would start over,
    or text from a pipe that cannot be imported at all.
    """
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in threads}
    main = sys.modules["__main__"]
    os.environ.update(dict.fromkeys(threads, "1"))
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _draw_in_workers(workers: int, draw, chunks: List[List[Tuple]], bar) -> None:
    with drawing_pool(workers) as pool:
        # Processes start while tasks are submitted.
        with light_workers():
            futures = [pool.submit(draw, chunk) for chunk in chunks]
        for future in concurrent.futures.as_completed(futures):
            bar.update(future.result())


@contextlib.contextmanager
def drawing_pool(
    workers: Optional[int] = None,
) -> Iterator[concurrent.futures.Executor]:
    """Processes to draw in; they end with this one, and what waits is given up then.

    Args:
      workers: how many; None for one a processor.
    """
    pool = concurrent.futures.ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=end_with_parent,
        initargs=(os.getpid(),),
    )
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def generate_rooms(
    folder: str,
    seed: int,
    rooms: Union[int, range],
    views: Union[int, range],
    size: int,
    domains: Sequence[str],
    workers: Optional[int] = None,
    progress: bool = True,
) -> str:
    """Draws rooms into a folder in Taskonomy's layout; files that exist are kept.

    A file is `{folder}/rooms/{domain}/point_{room}_view_{view}_domain_{domain}.png`
    (vanishing_point: .npy). It can be interrupted and called again, also with other
    rooms, views or domains.

    Args:
      folder: where to; its name is best `rooms_folder_name(seed, size)`, as a folder
        holds pictures of one generator version, seed and size.
      seed: of the whole collection, 0 or more.
      rooms: how many, numbered from 0; or a range of their numbers, so that sets of
        rooms can be disjoint.
      views: how many cameras in each, or a range of their numbers.
      size: side of the pictures, pixels.
      domains: some of `DOMAINS`.
      workers: processes; None for one per processor, 0 for this process alone.
      progress: whether to show a bar.

    Returns:
      The folder: a root for `sources.taskonomy.find`.

    Raises:
      UserError: if a domain is unknown or the folder holds other rooms.
    """
    _check_domains(domains)
    root = os.fspath(folder)
    for domain in domains:
        os.makedirs(os.path.join(root, BUILDING, domain), exist_ok=True)
    record = {"version": GENERATOR_VERSION, "seed": seed, "size": size}
    there = _check_record(root, record)
    rooms, views = (n if isinstance(n, range) else range(n) for n in (rooms, views))
    views_of = list(itertools.product(rooms, views))
    if there and not _missing(root, domains, views_of):
        return root
    with locked(os.path.join(root, "lock"), f"draws rooms in {root}"):
        if not _check_record(root, record):  # another process may have written one
            write_json(os.path.join(root, _RECORD), record, indent=2)
        jobs = _missing(root, domains, views_of)
        # A chunk is a room's views, so that a room is built once.
        length = max(len(views), 8)
        chunks = [jobs[i : i + length] for i in range(0, len(jobs), length)]
        draw = functools.partial(_draw_missing, root, seed, size)
        with tqdm.tqdm(
            total=len(jobs), desc="drawing rooms", unit="view", disable=not progress
        ) as bar:
            _draw(chunks, draw, workers, bar)
    return root


_Job = Tuple[int, int, Tuple[str, ...]]  # room, view, what is to be drawn of it


def _missing(
    root: str, domains: Sequence[str], views: Sequence[Tuple[int, int]]
) -> List[_Job]:
    jobs = []
    for room, view in views:
        missing = tuple(
            domain
            for domain in domains
            if not os.path.exists(_file_path(root, domain, room, view))
        )
        if missing:
            jobs.append((room, view, missing))
    return jobs


def _draw(
    chunks: List[List[_Job]], draw: Any, workers: Optional[int], bar: tqdm.tqdm
) -> None:
    if workers is None:
        workers = os.cpu_count() or 1
    workers = min(workers, len(chunks))
    if workers > 1:
        try:
            _draw_in_workers(workers, draw, chunks, bar)
            return
        except (concurrent.futures.BrokenExecutor, OSError) as error:
            logging.warning(
                "Could not use worker processes (%s): drawing rooms in this one.",
                error,
            )
            bar.reset()
    for chunk in chunks:
        for job in chunk:
            bar.update(draw([job]))
