"""Rays against simple convex solids, vectorised over rays (numpy only).

Every solid is a unit shape (box [-1, 1]^3, cylinder, ball) that was stretched by its
half sizes, turned about the vertical and moved; a ray is brought into the unit frame,
where the three intersections are a few lines each. Solid 0 is the room: a box seen
from inside, so it is hit where a ray leaves it.
"""

import dataclasses
from typing import Sequence, Tuple

import numpy as np

BOX, CYLINDER, BALL = 0, 1, 2
_ROOM = 3
FAR_M = 1e6


@dataclasses.dataclass(frozen=True)
class Solid:
    """One convex solid standing upright in the world (z is up).

    Attributes:
      kind: BOX, CYLINDER (axis vertical) or BALL (an ellipsoid).
      centre_m: x, y, z of its centre, metres.
      half_m: half its extent along its own x, y, z, metres.
      yaw: turn about the vertical, radians.
      material: index of its material.
      label: index of its class, one of `base_builder.CLASSES`.
    """

    kind: int
    centre_m: Tuple[float, float, float]
    half_m: Tuple[float, float, float]
    yaw: float
    material: int
    label: int = 0


class Solids:
    """Solids as arrays, number 0 being the room."""

    def __init__(self, solids: Sequence[Solid]):
        as_array = lambda rows: np.array(rows, np.float32).T.copy()  # noqa: E731
        self.kind = np.array([s.kind for s in solids])
        self.material = np.array([s.material for s in solids])
        self.label = np.array([s.label for s in solids], np.uint8)
        self.centre = as_array([s.centre_m for s in solids])
        self.half = as_array([s.half_m for s in solids])
        yaw = np.array([s.yaw for s in solids])
        self.cos = np.cos(yaw).astype(np.float32)
        self.sin = np.sin(yaw).astype(np.float32)
        self._to_unit_x = np.stack([self.cos, self.sin]) / self.half[0]
        self._to_unit_y = np.stack([-self.sin, self.cos]) / self.half[1]
        self.radius = np.sqrt((self.half**2).sum(0))

    def __len__(self) -> int:
        return len(self.kind)

    def into_unit(self, i, vectors: np.ndarray) -> np.ndarray:
        """Turns and scales world vectors [3, ...] into the unit frame of solid(s) i."""
        to_x, to_y, to_z = self._to_unit_x[:, i], self._to_unit_y[:, i], self.half[2, i]
        x, y, z = vectors
        unit = np.empty((3, *np.broadcast(x, to_z).shape), np.float32)
        np.add(to_x[0] * x, to_x[1] * y, out=unit[0])
        np.add(to_y[0] * x, to_y[1] * y, out=unit[1])
        np.divide(z, to_z, out=unit[2])
        return unit

    def corners(self) -> np.ndarray:
        """Corners of every solid's bounding box, world metres, [3, solids, 8]."""
        signs = np.array(
            [[i & 1, i >> 1 & 1, i >> 2] for i in range(8)], np.float32
        ).T * 2 - 1  # fmt: skip
        x, y, z = self.half[:, :, None] * signs[:, None, :]
        cos, sin = self.cos[:, None], self.sin[:, None]
        turned = np.stack([cos * x - sin * y, sin * x + cos * y, z])
        return turned + self.centre[:, :, None]

    def clearance(self, point: np.ndarray) -> float:
        """Distance in metres from a point to the nearest solid's bounding box."""
        offset = point.astype(np.float32)[:, None] - self.centre[:, 1:]
        x, y, z = offset
        cos, sin = self.cos[1:], self.sin[1:]
        local = np.stack([cos * x + sin * y, cos * y - sin * x, z])
        outside = np.maximum(np.abs(local) - self.half[:, 1:], 0)
        return float(np.sqrt((outside**2).sum(0)).min(initial=FAR_M))


def _roots(a, b, c):
    """Entry and exit of a t^2 + 2 b t + c <= 0; an empty span where there is none."""
    square = b * b - a * c
    root = np.sqrt(np.maximum(square, 0))
    enter = np.where(square > 0, (-b - root) / a, FAR_M)
    return enter, (root - b) / a


def _span(kind: int, o: np.ndarray, d: np.ndarray):
    """Where rays o + t d (unit frame, [3, ...]) enter and leave a unit shape."""
    if kind == BALL:
        return _roots((d * d).sum(0), (o * d).sum(0), (o * o).sum(0) - 1)
    inverse = 1 / d
    middle, reach = -o * inverse, np.abs(inverse)
    if kind == BOX:
        return (middle - reach).max(0), (middle + reach).min(0)
    a = d[0] * d[0] + d[1] * d[1]
    b = o[0] * d[0] + o[1] * d[1]
    enter, leave = _roots(a, b, o[0] * o[0] + o[1] * o[1] - 1)
    return (
        np.maximum(enter, middle[2] - reach[2]),
        np.minimum(leave, middle[2] + reach[2]),
    )


# Keeps 1 / d finite for rays parallel to a face; far below any ray's components.
_PARALLEL = np.float32(1e-9)


def cast(
    solids: Solids, origin: np.ndarray, directions: np.ndarray, windows: np.ndarray
) -> Tuple[np.ndarray, np.ndarray]:
    """First hits of a picture's rays.

    Args:
      solids: the room and what stands in it.
      origin: [3], common to all rays, inside the room, metres.
      directions: float32 [3, H, W], not normalised.
      windows: [solids, 4], the part of the picture that a solid may cover: left, top,
        right, bottom as fractions of its width and height.

    Returns:
      The ray parameter t at the hit, float32 [H, W] (metres of depth if directions
      have length 1 along the optical axis), and the number of the solid, int [H, W].
    """
    height, width = directions.shape[1:]
    origin = origin.astype(np.float32)[:, None]
    unit_origins = solids.into_unit(np.arange(len(solids)), origin - solids.centre)
    _, t = _span(
        BOX, unit_origins[:, 0, None, None], solids.into_unit(0, directions) + _PARALLEL
    )
    index = np.zeros((height, width), np.int16)
    pixels = windows * np.array([width, height, width, height])
    low = np.floor(np.clip(pixels[:, :2], 0, None)).astype(int)
    high = np.ceil(np.clip(pixels[:, 2:], None, [width, height])).astype(int)
    for i in range(1, len(solids)):
        (left, top), (right, bottom) = low[i], high[i]
        if left >= right or top >= bottom:
            continue
        part = (slice(top, bottom), slice(left, right))
        unit = solids.into_unit(i, directions[(slice(None), *part)]) + _PARALLEL
        enter, leave = _span(solids.kind[i], unit_origins[:, i, None, None], unit)
        hit = (enter < leave) & (enter > 0) & (enter < t[part])
        t[part] = np.where(hit, enter, t[part])
        index[part][hit] = i
    return t, index


def cast_few(solids: Solids, origin: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """First depths of a handful of rays [3, N]: every ray against every solid."""
    unit_rays = solids.into_unit(np.arange(len(solids))[:, None], rays[:, None])
    unit_rays += _PARALLEL
    origin = origin.astype(np.float32)[:, None]
    start = solids.into_unit(np.arange(len(solids)), origin - solids.centre)[..., None]
    depth = _span(BOX, start[:, 0], unit_rays[:, 0])[1]
    for kind in (BOX, CYLINDER, BALL):
        some = 1 + np.flatnonzero(solids.kind[1:] == kind)
        enter, leave = _span(kind, start[:, some], unit_rays[:, some])
        hits = np.where((enter < leave) & (enter > 0), enter, FAR_M)
        depth = np.minimum(depth, hits.min(0, initial=FAR_M))
    return depth


def _first_depth(kind: np.ndarray, o: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Ray parameter where rays meet unit shapes of mixed kinds; far where they miss."""
    depth = np.empty(d.shape[1], np.float32)
    for one in (BOX, CYLINDER, BALL, _ROOM):
        some = np.flatnonzero(kind == one)
        if not some.size:
            continue
        if one == _ROOM:
            depth[some] = _span(BOX, o.take(some, 1), d.take(some, 1))[1]
        else:
            enter, leave = _span(one, o.take(some, 1), d.take(some, 1))
            depth[some] = np.where((enter < leave) & (enter > 0), enter, FAR_M)
    return depth


def find_jumps(
    solids: Solids,
    origin: np.ndarray,
    rays: Tuple[np.ndarray, np.ndarray],
    index: Tuple[np.ndarray, np.ndarray],
    halvings: int = 7,
) -> Tuple[np.ndarray, np.ndarray]:
    """Finds the border between neighbouring rays that hit different solids.

    Args:
      solids: the room and what stands in it.
      origin: [3], common to all rays.
      rays: first and second ray of every pair, float32 [3, N] each.
      index: the solids that they hit, int [N] each.
      halvings: how often the span between the two rays is halved.

    Returns:
      Place of the border, 0 (first ray) to 1 (second), float32 [N], and how far depth
      jumps there as a part of the distance, float32 [N].
    """
    origin = origin.astype(np.float32)[:, None]
    kinds, starts, unit_rays = [], [], []
    for solid in index:
        kinds.append(np.where(solid == 0, _ROOM, solids.kind[solid]))
        starts.append(solids.into_unit(solid, origin - solids.centre[:, solid]))
        unit_rays.append([solids.into_unit(solid, r) + _PARALLEL for r in rays])
    low = np.zeros(len(index[0]), np.float32)
    high = np.ones_like(low)

    def depths(place):
        return [
            _first_depth(kind, start, first + (second - first) * place)
            for kind, start, (first, second) in zip(kinds, starts, unit_rays)
        ]

    for _ in range(halvings):
        middle = (low + high) / 2
        of_first, of_second = depths(middle)
        before_border = of_first <= of_second
        low = np.where(before_border, middle, low)
        high = np.where(before_border, high, middle)
    near, far = depths(low)[0], depths(high)[1]
    near, far = np.minimum(near, far), np.maximum(near, far)
    return (low + high) / 2, (far - near) / near


def is_shadowed(
    solids: Solids, points: np.ndarray, light: np.ndarray, light_radius_m: float
) -> np.ndarray:
    """Whether anything stands between points and the light.

    Args:
      solids: the room and what stands in it.
      points: float32 [3, N], world metres.
      light: float32 [3, N], the place on the light that each point looks at.
      light_radius_m: how far those places lie from their mean at most.

    Returns:
      bool [N].
    """
    rays = points - light
    length = np.sqrt((rays * rays).sum(0))
    shadowed = np.zeros(points.shape[1], bool)
    centre = light.mean(1, keepdims=True)
    to_solid = solids.centre - centre
    distance = np.maximum(np.sqrt((to_solid * to_solid).sum(0)), 1e-3)
    # A solid can only shade what lies in the cone around its corners, as seen from the
    # lamp, which is widened by the lamp's own size.
    to_corners = solids.corners() - centre[:, :, None]
    to_corners /= np.sqrt((to_corners * to_corners).sum(0))
    cosine = (to_corners * (to_solid / distance)[:, :, None]).sum(0).min(1)
    nearest = distance - solids.radius - light_radius_m
    angle = np.arccos(np.clip(cosine, -1, 1))
    angle += np.arcsin(np.clip(light_radius_m / np.maximum(nearest, 1e-3), 0, 1))
    limit = np.where((nearest > 0) & (angle < np.pi), np.cos(angle), -1)
    along = (to_solid / distance).T @ (rays / length)
    for i in range(1, len(solids)):
        near = along[i] >= limit[i].astype(np.float32)
        near &= length > np.float32(nearest[i])
        some = np.flatnonzero(near)
        if not some.size:
            continue
        start = light.take(some, 1) - solids.centre[:, i, None]
        unit = solids.into_unit(i, rays.take(some, 1)) + _PARALLEL
        enter, leave = _span(solids.kind[i], solids.into_unit(i, start), unit)
        # The point itself is at t = 1; a solid that holds the lamp does not hide it.
        shadowed[some] |= (enter < leave) & (enter > 0) & (enter < 0.998)
    return shadowed


def surface(
    solids: Solids, points: np.ndarray, index: np.ndarray
) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normals and surface coordinates of points that lie on solids.

    Args:
      solids: the room and what stands in it.
      points: float32 [3, N], world metres.
      index: int [N], the solid of each point.

    Returns:
      normals: float32 [3, N], world frame, unit length, towards the visible side.
      local: float32 [3, N], metres from the solid's centre in its own frame.
      axis: int [N], the face: the axis that the surface is across (0, 1, 2), or 3 for
        what is round.
    """
    unit = solids.into_unit(index, points - solids.centre[:, index])
    half = solids.half[:, index]
    local = unit * half
    kind = solids.kind[index]
    size = np.abs(unit)
    axis = np.argmax(size, axis=0)
    cylinder = kind == CYLINDER
    round_side = cylinder & (unit[0] ** 2 + unit[1] ** 2 > unit[2] ** 2)
    axis = np.where(cylinder, 2, axis)
    axis = np.where(round_side | (kind == BALL), 3, axis)
    normal = np.where(axis == np.arange(3)[:, None], np.sign(unit), 0)
    round_normal = unit / half
    round_normal[2] *= kind == BALL
    normal = np.where(axis == 3, round_normal, normal).astype(np.float32)
    normal /= np.sqrt((normal * normal).sum(0))
    normal *= np.where(index == 0, np.float32(-1), np.float32(1))
    cos, sin = solids.cos[index], solids.sin[index]
    x, y, z = normal
    return np.stack([cos * x - sin * y, sin * x + cos * y, z]), local, axis
