"""What a camera sees: the photograph, and each label from the geometry itself."""

import functools
import math
from typing import Sequence

import numpy as np
from scipy import ndimage

from soka_tf.data.rooms import painting, raycast
from soka_tf.data.rooms.camera import ray_directions
from soka_tf.tasks import TASKS

# Depth jumps beyond this part of the distance count in full.
_CLEAR_GAP = 0.04
# Encoded value that silhouettes reach, just below tanh's end.
_SILHOUETTE = 0.95
# A grey step that fills the range of edge_texture.
_STRONG_STEP = 0.35


def _pixel_centres(count: int) -> np.ndarray:
    return (2 * np.arange(count) + 1) / count - 1


class Geometry:
    """First hits of a square grid of rays, and the surfaces there."""

    def __init__(self, scene, camera, count, windows):
        """Casts count x count rays; `windows` as `camera.windows_of` returns them."""
        self.scene, self.camera = scene, camera
        self.rays = ray_directions(camera, _pixel_centres(count))
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


def rgb(geometry: Geometry, supersample: int, rng) -> np.ndarray:
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
    light = painting.radiance(
        geometry.scene, points, normal, geometry.index.ravel(), local, axis,
        footprint, lamp_spot.astype(np.float32),
    )  # fmt: skip
    size = count // supersample
    light = light.reshape(3, size, supersample, size, supersample)
    # A lamp's pixel is white, however bright: cut before the mean to keep edges smooth.
    light = np.minimum(light, 4 * np.median(light)).mean((2, 4))
    return painting.photograph(np.moveaxis(light, 0, -1), rng)


def _grey(rgb: np.ndarray) -> np.ndarray:
    return rgb.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) / 255


def _smooth(values: np.ndarray, sigma_px: float, order=0) -> np.ndarray:
    return ndimage.gaussian_filter(values, sigma_px, order=order, mode="nearest")


def _slight_sigma_px(size: int) -> float:
    """A blur that keeps edges crisp at any size, yet steady in angle."""
    return 0.7 * math.sqrt(size / 64)


def edge_texture(rgb: np.ndarray) -> np.ndarray:
    """Steps of grey, float [S, S], of an rgb uint8 [S, S, 3]."""
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


def keypoints2d(rgb: np.ndarray) -> np.ndarray:
    """Corners of the picture, float [S, S], of an rgb uint8 [S, S, 3]."""
    response = _corner_response([_grey(rgb)], _slight_sigma_px(len(rgb)))
    return response * (TASKS["keypoints2d"].encoding.high / 0.06)


def keypoints3d(fine: Geometry, size: int) -> np.ndarray:
    """Where surfaces of three directions or depths meet, from a twofold grid.

    The mean over each pixel's rays takes the steps off slanted outlines, which would
    look like rows of corners.
    """
    channels = np.concatenate([fine.normal, np.log(fine.depth)[..., None]], -1)
    step = len(fine.depth) // size
    channels = channels.reshape(size, step, size, step, 4).mean((1, 3))
    response = _corner_response(np.moveaxis(channels, -1, 0), size / 64)
    return np.tanh(response / 0.25)


def edge_occlusion(fine: Geometry, size: int) -> np.ndarray:
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


def reshading(geometry: Geometry) -> np.ndarray:
    """Grey surfaces under a lamp a little above the camera, without shadows."""
    lamp = np.array([0.1, 0.35, 0.0], np.float32)
    rays = np.moveaxis(geometry.rays, 0, -1) @ geometry.camera.axes.T.astype(np.float32)
    to_lamp = lamp - rays * geometry.depth[..., None]
    square = (to_lamp * to_lamp).sum(-1)
    facing = np.maximum((geometry.normal * to_lamp).sum(-1), 0) / np.sqrt(square)
    return np.clip(1.15 * facing / (1 + 0.06 * square), 0, 1)


def segment_semantic(geometry: Geometry) -> np.ndarray:
    """Classes, uint8 [S, S], indices of `base_builder.CLASSES`."""
    normal, local, axis = geometry.surface
    scene, index = geometry.scene, geometry.index.ravel()
    label = scene.solids.label[index]
    walls = np.flatnonzero(index == 0)
    (x, y, z), axis = local[:, walls], axis[walls]
    face = painting.faces(axis, normal[:, walls])
    label[walls] = np.array(scene.face_labels, np.uint8)[face]
    across, up = np.where(axis == 0, y, x), np.where(axis == 2, y, z)
    for decal, inside in painting.decals_at(scene, face, across, up):
        label[walls[inside]] = decal.label
    return label.reshape(geometry.depth.shape)


def vanishing_point(axes: np.ndarray) -> np.ndarray:
    """The room's axes in the camera's frame: rightmost, up, and away from the camera.

    A room looks the same from its four sides, so the horizontal axes are named by how
    the camera sees them; that makes signs and order unique.
    """
    x, y, up = axes.T
    away = min((x, -x, y, -y), key=lambda direction: direction[2])
    return np.stack([np.cross(away, up), up, away]).astype(np.float32)
