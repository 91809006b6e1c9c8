"""Procedural rooms: pictures with exact ground truth, drawn on the spot (no download).

Nothing here is measured: depth, normals and occlusions come from the geometry itself.
The pictures are the library's own, so that teachers trained on them may be shipped.
No TensorFlow is imported, so that worker processes start in a moment.
"""

import concurrent.futures
import contextlib
import functools
import json
import math
import multiprocessing
import os
import re
import sys
import types
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import tqdm
from absl import logging
from PIL import Image
from scipy import ndimage

from soka_tf.data import encodings
from soka_tf.data.rooms import painting as room_painting
from soka_tf.data.rooms import raycast
from soka_tf.data.rooms import scene as room_scene
from soka_tf.disk import locked, replacing, write_json
from soka_tf.errors import UserError
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
    "vanishing_point",
)
BUILDING = "rooms"
_FROM_RGB = {"rgb", "edge_texture", "keypoints2d"}
_FROM_EXACT_RAYS = {"depth_zbuffer", "depth_euclidean", "normal", "reshading"}
# Depth jumps beyond this part of the distance count in full.
_CLEAR_GAP = 0.04
# Encoded value that silhouettes reach, just below tanh's end.
_SILHOUETTE = 0.95
# A grey step that fills the range of edge_texture.
_STRONG_STEP = 0.35

_scene = functools.lru_cache(maxsize=4)(room_scene.build_scene)


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


def _pixel_centres(count: int) -> np.ndarray:
    return (2 * np.arange(count) + 1) / count - 1


class _Geometry:
    """First hits of a square grid of rays, and the surfaces there."""

    def __init__(self, scene, camera, count, windows):
        self.scene, self.camera = scene, camera
        self.rays = room_scene.ray_directions(camera, _pixel_centres(count))
        self.depth, self.index = raycast.cast(
            scene.solids, camera.place, self.rays, windows
        )

    @functools.cached_property
    def points(self) -> np.ndarray:
        """World metres, [3, H * W]."""
        rays, depth = self.rays.reshape(3, -1), self.depth.ravel()
        return self.camera.place.astype(np.float32)[:, None] + rays * depth

    @functools.cached_property
    def surface(self):
        """`raycast.surface` of the pixels."""
        return raycast.surface(self.scene.solids, self.points, self.index.ravel())

    @functools.cached_property
    def normal(self) -> np.ndarray:
        """Unit normals in the camera's frame (right, up, backward), [H, W, 3]."""
        normal = self.camera.axes.astype(np.float32) @ self.surface[0]
        return np.moveaxis(normal.reshape(self.rays.shape), 0, -1)

    @functools.cached_property
    def stretch(self) -> np.ndarray:
        """Length of the rays: distance from the camera per metre of depth, [H, W]."""
        return np.sqrt((self.rays * self.rays).sum(0))


def _rgb(geometry: _Geometry, supersample: int, rng) -> np.ndarray:
    """The photograph, uint8 [S, S, 3], from supersample^2 rays a pixel."""
    normal, local, axis = geometry.surface
    points, count = geometry.points, geometry.depth.shape[0]
    pixel_angle = 2 * geometry.camera.half_width / count
    slope = np.abs((normal * geometry.rays.reshape(3, -1)).sum(0))
    footprint = geometry.depth.ravel() * pixel_angle / np.clip(slope, 0.15, 1)
    # Each ray of a pixel looks at another quarter of the lamp.
    turn = np.array([[0.3, 3.4], [5.0, 1.8]])
    turn = np.tile(turn, (count // 2 + 1,) * 2)[:count, :count].ravel()
    radius = np.tile(np.array([[0.9, 0.5], [0.6, 0.8]]), (count // 2 + 1,) * 2)
    radius = radius[:count, :count].ravel()
    lamp_spot = np.stack([np.cos(turn), np.sin(turn), np.zeros_like(turn)]) * radius
    light = room_painting.radiance(
        geometry.scene, points, normal, geometry.index.ravel(), local, axis,
        footprint, lamp_spot.astype(np.float32),
    )  # fmt: skip
    size = count // supersample
    light = light.reshape(3, size, supersample, size, supersample)
    # A lamp's pixel is white, however bright: cut before the mean to keep edges smooth.
    light = np.minimum(light, 4 * np.median(light)).mean((2, 4))
    return room_painting.photograph(np.moveaxis(light, 0, -1), rng)


def _grey(rgb: np.ndarray) -> np.ndarray:
    return rgb.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) / 255


def _smooth(values: np.ndarray, sigma_px: float, order=0) -> np.ndarray:
    return ndimage.gaussian_filter(values, sigma_px, order=order, mode="nearest")


def _slight_sigma_px(size: int) -> float:
    """A blur that keeps edges crisp at any size, yet steady in angle."""
    return 0.7 * math.sqrt(size / 64)


def _edge_texture(rgb: np.ndarray) -> np.ndarray:
    sigma = _slight_sigma_px(len(rgb))
    grey = _grey(rgb)
    strength = np.hypot(_smooth(grey, sigma, (0, 1)), _smooth(grey, sigma, (1, 0)))
    # The peak over a blurred step is its height / (sigma sqrt(2 pi)).
    step = strength * sigma * math.sqrt(2 * math.pi)
    return step * (TASKS["edge_texture"].encoding.high / _STRONG_STEP)


def _corner_response(channels: Sequence[np.ndarray], sigma_px: float) -> np.ndarray:
    """The smaller eigenvalue of the structure tensor (Shi and Tomasi 1994), rooted."""
    xx = xy = yy = 0.0
    for channel in channels:
        dx = _smooth(channel, sigma_px, (0, 1)) * sigma_px
        dy = _smooth(channel, sigma_px, (1, 0)) * sigma_px
        xx, xy, yy = xx + dx * dx, xy + dx * dy, yy + dy * dy
    xx, xy, yy = (_smooth(product, 1.5 * sigma_px) for product in (xx, xy, yy))
    smaller = (xx + yy) / 2 - np.sqrt(((xx - yy) / 2) ** 2 + xy * xy)
    return np.sqrt(np.maximum(smaller, 0))


def _keypoints2d(rgb: np.ndarray) -> np.ndarray:
    response = _corner_response([_grey(rgb)], _slight_sigma_px(len(rgb)))
    return response * (TASKS["keypoints2d"].encoding.high / 0.06)


def _keypoints3d(fine: _Geometry, size: int) -> np.ndarray:
    """Where surfaces of three directions or depths meet, from a twofold grid.

    The mean over each pixel's rays takes the steps off slanted outlines, which would
    look like rows of corners.
    """
    channels = np.concatenate([fine.normal, np.log(fine.depth)[..., None]], -1)
    step = len(fine.depth) // size
    channels = channels.reshape(size, step, size, step, 4).mean((1, 3))
    response = _corner_response(np.moveaxis(channels, -1, 0), size / 64)
    return np.tanh(response / 0.25)


def _edge_occlusion(fine: _Geometry, size: int) -> np.ndarray:
    """Lines where depth jumps, from a grid with twice the picture's rays per side.

    A jump lies between two neighbouring rays that hit different solids: nothing
    convex hides itself, and the room is convex from inside. Where exactly it lies,
    and how far depth jumps there, is found by bisection, so that surfaces that meet
    show no line. Jumps between horizontal and between vertical neighbours are
    smoothed apart and then joined like the parts of a gradient, so that a slanted
    line is as strong as an upright one and as even.
    """
    count, index = len(fine.depth), fine.index
    rays = fine.rays.reshape(3, -1)
    numbers = np.arange(count * count).reshape(count, count)
    sigma = 0.6 * count / 64
    across = index[:, :-1] != index[:, 1:]
    down = index[:-1] != index[1:]
    first = np.concatenate([numbers[:, :-1][across], numbers[:-1][down]])
    second = np.concatenate([numbers[:, 1:][across], numbers[1:][down]])
    place, jump = raycast.find_jumps(
        fine.scene.solids,
        fine.camera.place,
        (rays.take(first, 1), rays.take(second, 1)),
        (index.ravel()[first], index.ravel()[second]),
    )
    jump = np.minimum(jump / _CLEAR_GAP, 1)
    parts, split = [], np.count_nonzero(across)
    for some in slice(None, split), slice(split, None):
        part = np.bincount(first[some], (jump * (1 - place))[some], count * count)
        part += np.bincount(second[some], (jump * place)[some], count * count)
        parts.append(_smooth(part.reshape(count, count), sigma))
    line = np.hypot(*parts).reshape(size, count // size, size, -1).mean((1, 3))
    # A line's height after a Gaussian is its area over sqrt(2 pi) sigma; where lines
    # lie close together they are made weaker, so that their sum stays in range.
    encoding = TASKS["edge_occlusion"].encoding
    blur = encoding.blur_sigma_px * size / 256
    # Placing between two rays and the mean over a pixel widen it by another 0.3 px.
    total = math.sqrt(blur**2 + (sigma * size / count) ** 2 + 0.1)
    line *= math.sqrt(2 * math.pi) * total * (count / size)
    seen = ndimage.maximum_filter(_smooth(line, blur), 2 * int(math.ceil(blur)) + 1)
    line /= np.maximum(seen, 1)
    return line * ((_SILHOUETTE + 1) / 2 * encoding.high)


def _reshading(geometry: _Geometry) -> np.ndarray:
    """Grey surfaces under a lamp a little above the camera, without shadows."""
    lamp = np.array([0.1, 0.35, 0.0], np.float32)
    rays = np.moveaxis(geometry.rays, 0, -1) @ geometry.camera.axes.T.astype(np.float32)
    to_lamp = lamp - rays * geometry.depth[..., None]
    square = (to_lamp * to_lamp).sum(-1)
    facing = np.maximum((geometry.normal * to_lamp).sum(-1), 0) / np.sqrt(square)
    return np.clip(1.15 * facing / (1 + 0.06 * square), 0, 1)


def _vanishing_point(axes: np.ndarray) -> np.ndarray:
    """The room's axes in the camera's frame: rightmost, up, and away from the camera.

    A room looks the same from its four sides, so the horizontal axes are named by how
    the camera sees them; that makes signs and order unique.
    """
    x, y, up = axes.T
    away = min((x, -x, y, -y), key=lambda direction: direction[2])
    return np.stack([np.cross(away, up), up, away]).astype(np.float32)


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
      fractions of a file's full scale; vanishing_point float32 [3, 3], rows are the
      room's axes (rightmost, up, away) in the frame of normal.

    Raises:
      UserError: if a domain is unknown.
    """
    _check_domains(domains)
    asked = set(domains)
    scene = _scene(seed, room)
    rng = np.random.default_rng([seed, room, 1 + view])
    camera = room_scene.place_camera(scene, rng)
    windows = room_scene.windows_of(scene.solids, camera)
    grid = functools.lru_cache(None)(
        lambda per_pixel: _Geometry(scene, camera, size * per_pixel, windows)
    )
    made: Dict[str, np.ndarray] = {}
    rgb = _rgb(grid(supersample), supersample, rng) if asked & _FROM_RGB else None
    if "rgb" in asked:
        made["rgb"] = rgb
    if "edge_texture" in asked:
        made["edge_texture"] = _edge_texture(rgb)
    if "keypoints2d" in asked:
        made["keypoints2d"] = _keypoints2d(rgb)
    if "edge_occlusion" in asked:
        made["edge_occlusion"] = _edge_occlusion(grid(2), size)
    if "keypoints3d" in asked:
        made["keypoints3d"] = _keypoints3d(grid(2), size)
    if "vanishing_point" in asked:
        made["vanishing_point"] = _vanishing_point(camera.axes)
    if asked & _FROM_EXACT_RAYS:
        exact = grid(1)
        if "depth_zbuffer" in asked:
            made["depth_zbuffer"] = exact.depth
        if "depth_euclidean" in asked:
            made["depth_euclidean"] = exact.depth * exact.stretch
        if "normal" in asked:
            made["normal"] = exact.normal
        if "reshading" in asked:
            made["reshading"] = _reshading(exact)
    for name, values in made.items():
        if name not in ("rgb", "normal", "vanishing_point"):
            made[name] = values[..., None].astype(np.float32)
    return made


def room_and_view(key: str) -> Tuple[int, int]:
    """The room and the view of a sample, from its key "rooms/point_1_view_2"."""
    room, view = re.fullmatch(r".*point_(\d+)_view_(\d+)", key).groups()
    return int(room), int(view)


def _file_path(root: str, domain: str, room: int, view: int) -> str:
    suffix = "npy" if domain == "vanishing_point" else "png"
    name = f"point_{room}_view_{view}_domain_{domain}.{suffix}"
    return os.path.join(root, BUILDING, domain, name)


def _write(path: str, domain: str, values: np.ndarray) -> None:
    with replacing(path) as temporary, open(temporary, "wb") as file:
        if domain == "vanishing_point":
            np.save(file, values)
            return
        pixels = values if domain == "rgb" else encodings.store(TASKS[domain], values)
        # Level 1: noise and 16 bits hardly compress, and drawing shall not wait.
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        image.save(file, format="PNG", compress_level=1)


def _draw_missing(root: str, seed: int, size: int, jobs: Sequence[Tuple]) -> int:
    """Draws and writes the jobs (room, view, missing domains); runs in a worker."""
    for room, view, domains in jobs:
        for domain, values in render_room(seed, room, view, size, domains).items():
            _write(_file_path(root, domain, room, view), domain, values)
    return len(jobs)


def _check_record(root: str, record: Mapping[str, int]) -> None:
    """Makes sure that a folder's pictures are of this generator, seed and size."""
    path = os.path.join(root, "rooms.json")
    if os.path.exists(path):
        try:
            with open(path, encoding="utf-8") as file:
                found = json.load(file)
        except ValueError:
            found = "no JSON"
        if found != record:
            raise UserError(
                f"{path} says that the folder holds other rooms. Found: {found}; "
                f"asked for: {dict(record)}. Choose another folder or remove this one."
            )
        return
    write_json(path, record, indent=2)


@contextlib.contextmanager
def _light_workers() -> Iterator[None]:
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
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(workers, mp_context=context)
    try:
        # Processes start while tasks are submitted.
        with _light_workers():
            futures = [pool.submit(draw, chunk) for chunk in chunks]
        for future in concurrent.futures.as_completed(futures):
            bar.update(future.result())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def generate_rooms(
    folder: str,
    seed: int,
    rooms: int,
    views: int,
    size: int,
    domains: Sequence[str],
    first_room: int = 0,
    first_view: int = 0,
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
      rooms: number of rooms.
      views: number of cameras in each.
      size: side of the pictures, pixels.
      domains: some of `DOMAINS`.
      first_room: number of the first room, so that sets of rooms can be disjoint.
      first_view: number of the first view of every room.
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
    _check_record(root, {"version": GENERATOR_VERSION, "seed": seed, "size": size})
    views_of = [
        (room, view)
        for room in range(first_room, first_room + rooms)
        for view in range(first_view, first_view + views)
    ]
    if not _missing(root, domains, views_of):
        return root
    with locked(os.path.join(root, "lock"), f"draws rooms in {root}"):
        jobs = _missing(root, domains, views_of)
        # A chunk is a room's views, so that a room is built once.
        length = max(views, 8)
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
