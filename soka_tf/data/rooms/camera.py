"""Where a camera may stand in a scene, and what it sees of it (numpy only)."""

import dataclasses
import math

import numpy as np

from soka_tf.data.rooms.raycast import Solids, cast_few
from soka_tf.data.rooms.scene import Scene

MIN_DEPTH_M = 0.4
_CAMERA_TRIES = 60


@dataclasses.dataclass(frozen=True)
class Camera:
    """Place (world metres), axes (rows: right, up, backward), half the view's width."""

    place: np.ndarray
    axes: np.ndarray
    half_width: float


def ray_directions(camera: Camera, across: np.ndarray) -> np.ndarray:
    """World directions of a square grid of rays, of length 1 along the optical axis.

    Args:
      camera: where from.
      across: [N], places of the columns, -1 (left edge) to 1 (right edge); the rows
        are the same from the top down.

    Returns:
      float32 [3, N, N].
    """
    x = np.broadcast_to(across * camera.half_width, (len(across),) * 2)
    right, up, backward = camera.axes[:, :, None, None]
    return (right * x - up * x.T - backward).astype(np.float32)


def windows_of(solids: Solids, camera: Camera) -> np.ndarray:
    """What part of the picture each solid can cover: `raycast.cast`'s windows."""
    offset = solids.corners() - camera.place[:, None, None]
    x, y, z = np.einsum("ij,jnk->ink", camera.axes, offset)
    behind = z > -0.05
    depth = np.where(behind, 1.0, -z) * camera.half_width
    x, y = (x / depth + 1) / 2, (1 - y / depth) / 2
    windows = np.stack([x.min(1), y.min(1), x.max(1), y.max(1)], 1)
    windows[behind.any(1)] = 0, 0, 1, 1
    windows[behind.all(1)] = 0
    return windows


def _camera(place, target, roll, half_width) -> Camera:
    forward = target - place
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    up = np.cross(right, forward)
    cos, sin = math.cos(roll), math.sin(roll)
    axes = np.stack([cos * right + sin * up, cos * up - sin * right, -forward])
    return Camera(place, axes, half_width)


def place_camera(scene: Scene, rng: np.random.Generator) -> Camera:
    """Finds free space to stand in that looks into the room.

    Args:
      scene: the room.
      rng: the camera's own generator.

    Returns:
      A camera that sees nothing nearer than `MIN_DEPTH_M` (on a coarse grid), or the
      best of many tries in a room that is too full for that.
    """
    solids = scene.solids
    half_x, half_y, _ = solids.half[:, 0]
    best, best_score = None, -1.0
    for _ in range(_CAMERA_TRIES):
        place = np.array(
            [
                rng.uniform(-1, 1) * (half_x - 0.3),
                rng.uniform(-1, 1) * (half_y - 0.3),
                rng.uniform(1.0, 1.8),
            ]
        )
        target = np.array(
            [
                rng.uniform(-0.9, 0.9) * half_x,
                rng.uniform(-0.9, 0.9) * half_y,
                rng.uniform(0.3, 1.6),
            ]
        )
        if rng.random() < 0.6:
            target = scene.interests[rng.integers(len(scene.interests))] + rng.normal(
                0, 0.15, 3
            )
            if rng.random() < 0.5:
                # Step up to it, as one does to photograph a desk.
                angle, step = rng.uniform(0, 2 * math.pi), rng.uniform(0.7, 1.9)
                place[:2] = target[:2] + step * np.array(
                    [math.cos(angle), math.sin(angle)]
                )
                limit = np.array([half_x, half_y]) - 0.3
                place[:2] = np.clip(place[:2], -limit, limit)
        half_width = math.tan(math.radians(rng.uniform(45, 75)) / 2)
        roll = math.radians(rng.normal(0, 2))
        away = np.hypot(*(target - place)[:2])
        if away < 0.6 or abs(target[2] - place[2]) > 0.8 * away:
            continue
        if best is not None and solids.clearance(place) < 0.35:
            continue
        camera = _camera(place, target, roll, half_width)
        rays = ray_directions(camera, np.linspace(-1, 1, 9))
        depth = cast_few(solids, place, rays.reshape(3, -1))
        nearest, typical = float(depth.min()), float(np.median(depth))
        if nearest >= MIN_DEPTH_M and typical >= 1.0:
            return camera
        score = min(nearest / MIN_DEPTH_M, typical)
        if score > best_score:
            best, best_score = camera, score
    if best is None:
        best = _camera(np.array([0, 0, 1.6]), np.array([half_x, half_y, 1.0]), 0, 0.6)
    return best
