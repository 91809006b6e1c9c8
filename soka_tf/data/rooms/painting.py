"""Colours of a procedural room: patterns, lamps and the photograph (numpy only)."""

import dataclasses
from typing import Callable, Dict, Iterator, Tuple

import numpy as np

from soka_tf.data.rooms.base_builder import Material
from soka_tf.data.rooms.raycast import is_shadowed
from soka_tf.data.rooms.scene import Decal, Scene


@dataclasses.dataclass(frozen=True)
class Spots:
    """Points on one material, as a pattern sees them.

    Attributes:
      u, v: surface coordinates, metres.
      across, down: the same as fractions of the whole face, [0, 1].
      footprint: width that one ray covers there, metres.
      noise: the room's periodic noise tile.
    """

    u: np.ndarray
    v: np.ndarray
    across: np.ndarray
    down: np.ndarray
    footprint: np.ndarray
    noise: np.ndarray

    def fade(self, detail_m: float) -> np.ndarray:
        """1 where a detail is large enough to be seen, 0 where it would alias."""
        return np.clip(detail_m / (2 * self.footprint) - 0.5, 0, 1)

    def clouds(self, u, v, seed: float) -> np.ndarray:
        """Smooth noise in [0, 1]; its coarsest clouds are about 1 unit wide."""
        size = self.noise.shape[0]
        x, y = (u * 0.25 + seed) * size, (v * 0.25 + 2 * seed) * size
        x0, y0 = np.floor(x), np.floor(y)
        fx, fy = x - x0, y - y0
        x0, y0 = x0.astype(np.int32) % size, y0.astype(np.int32) % size
        x1, y1 = (x0 + 1) % size, (y0 + 1) % size
        tile = self.noise
        top = tile[y0, x0] * (1 - fx) + tile[y0, x1] * fx
        return top * (1 - fy) + (tile[y1, x0] * (1 - fx) + tile[y1, x1] * fx) * fy


def _random_of(cell: np.ndarray, seed: float) -> np.ndarray:
    """A number in [0, 1) for every whole number."""
    value = np.sin(cell * 12.9898 + seed * 78.233) * 43758.547
    return value - np.floor(value)


def _line(x: np.ndarray, half_width: float) -> np.ndarray:
    """1 within half_width of a whole number."""
    return np.abs(x - np.round(x)) < half_width


def _plain(spots, material):
    return np.zeros_like(spots.u)


def _plaster(spots, material):
    return spots.clouds(spots.u, spots.v, material.seed)


def _cloth(spots, material):
    fine = spots.clouds(spots.u * 12, spots.v * 12, material.seed) * spots.fade(0.03)
    return 0.5 * fine + 0.4 * spots.clouds(spots.u * 2, spots.v * 2, material.seed)


def _stripes(spots, material):
    period = material.period_m
    along = spots.u if material.seed < 5 else spots.v
    wave = np.sin(along * (2 * np.pi / period))
    return 0.5 + spots.fade(period) * 0.5 * np.clip(4 * wave, -1, 1)


def _checker(spots, material):
    period = material.period_m
    odd = (np.floor(2 * spots.u / period) + np.floor(2 * spots.v / period)) % 2
    return 0.5 + spots.fade(period / 2) * (odd - 0.5)


def _tiles(spots, material):
    u, v = spots.u / material.period_m, spots.v / material.period_m
    shade = 0.3 * _random_of(np.floor(u + 0.5) * 7 + np.floor(v + 0.5), material.seed)
    return np.where(_line(u, 0.025) | _line(v, 0.025), spots.fade(0.03), 0.0) + shade


def _brick(spots, material):
    u, v = spots.u / material.period_m, spots.v / (0.38 * material.period_m)
    u = u + 0.5 * (np.floor(v + 0.5) % 2)
    seam = _line(u, 0.03) | _line(v, 0.08)
    shade = 0.4 * _random_of(np.floor(u + 0.5) * 3 + np.floor(v + 0.5), material.seed)
    return np.where(seam, 0.9, shade) * spots.fade(0.04)


def _wood(spots, material):
    plank = spots.v / material.period_m
    tone = _random_of(np.floor(plank), material.seed)
    grain = spots.clouds(spots.u * 1.5 + 5 * tone, spots.v * 18, material.seed)
    seam = _line(plank, 0.02) * spots.fade(0.02)
    return 0.45 * tone + 0.7 * (grain - 0.2) * spots.fade(0.03) + 0.5 * seam


def _panels(spots, material):
    rows = spots.down * np.maximum(1, np.round(1.2 / material.period_m))
    columns = spots.across * 2
    seam = _line(rows, 0.03) | _line(columns, 0.02)
    middle = np.abs(rows - np.floor(rows) - 0.75) < 0.05
    knob = middle & (np.abs(columns - np.floor(columns) - 0.5) < 0.12)
    return np.where(seam | knob, spots.fade(0.02), 0.0)


def _books(spots, material):
    place = spots.u / material.period_m
    return _random_of(np.floor(place), material.seed) * 1.6 - 0.3


def _picture(spots, material):
    frame = np.minimum(
        np.minimum(spots.across, 1 - spots.across),
        np.minimum(spots.down, 1 - spots.down),
    )
    clouds = spots.clouds(2 * spots.across, 2 * spots.down, material.seed)
    motif = np.floor(5 * np.clip(2 * clouds - 0.5, 0, 0.999)) / 4
    return np.where(frame < 0.06, 1.4 * (material.seed % 1), motif)


def _window(spots, material):
    edge = np.minimum(
        np.minimum(spots.across, 1 - spots.across),
        np.minimum(spots.down, 1 - spots.down),
    )
    bar = (edge < 0.05) | (_line(spots.u / material.period_m, 0.03) & (edge > 0))
    hills = spots.clouds(2 * spots.across, 0 * spots.down, material.seed) * 0.6
    return np.where(bar, -1.0, np.clip((hills - spots.down) * 8 + 0.5, 0, 1))


def _door(spots, material):
    x, y = np.abs(spots.across - 0.5), np.abs((spots.down * 2) % 1 - 0.5)
    panel = (np.abs(np.maximum(x * 1.4, y) - 0.42) < 0.025) & (x < 0.35)
    handle = (np.abs(spots.across - 0.9) < 0.04) & (np.abs(spots.down - 0.5) < 0.012)
    return np.where((x > 0.46) | (spots.down > 0.98) | panel | handle, 0.8, 0.0)


def _rug(spots, material):
    edge = np.minimum(
        np.minimum(spots.across, 1 - spots.across),
        np.minimum(spots.down, 1 - spots.down),
    )
    return np.where((edge > 0.06) & (edge < 0.11), 1.0, 0.4 * _cloth(spots, material))


_PATTERNS: Dict[str, Callable[[Spots, Material], np.ndarray]] = {
    "plain": _plain,
    "plaster": _plaster,
    "cloth": _cloth,
    "stripes": _stripes,
    "checker": _checker,
    "tiles": _tiles,
    "brick": _brick,
    "wood": _wood,
    "panels": _panels,
    "books": _books,
    "picture": _picture,
    "window": _window,
    "door": _door,
    "rug": _rug,
}


def faces(axis: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Numbers of the box's faces, [N], of points there; see `Decal.face`."""
    # The room's normals look inwards, so its positive faces have negative ones.
    return 2 * axis + (np.take_along_axis(normal, axis[None], 0)[0] < 0)


def decals_at(
    scene: Scene, face: np.ndarray, u: np.ndarray, v: np.ndarray
) -> Iterator[Tuple[Decal, np.ndarray]]:
    """Yields the decals that show at some points of the box, later ones on top.

    Args:
      scene: the room.
      face: [N] of `faces`.
      u: [N], a point's place along its face, metres; v: the other.
      v: [N].

    Yields:
      A decal and which points show it, bool [N].
    """
    for decal in scene.decals:
        inside = (face == decal.face) & (u > decal.low[0]) & (u < decal.high[0])
        inside &= (v > decal.low[1]) & (v < decal.high[1])
        if inside.any():
            yield decal, inside


def _albedo(scene: Scene, index, local, axis, normal, footprint):
    """Colour and glow, [3, N] each, of points on the room's surfaces."""
    x, y, z = local
    flat_u = np.where(axis == 0, y, x)
    v = np.where(axis == 2, y, z)
    half = scene.solids.half[:, index]
    wide = np.where(axis == 0, half[1], half[0])
    high = np.where(axis == 2, half[1], half[2])
    u = np.where(axis == 3, np.arctan2(y, x) * half[0], flat_u)
    wide = np.where(axis == 3, half[0] * np.pi, wide)
    across, down = (u / wide + 1) / 2, (v / high + 1) / 2
    material = scene.solids.material[index]

    walls = np.flatnonzero(index == 0)
    face = faces(axis[walls], normal[:, walls])
    material[walls] = np.array(scene.face_materials)[face]
    for decal, inside in decals_at(scene, face, u[walls], v[walls]):
        some = walls[inside]
        material[some] = decal.material
        across[some] = (u[some] - decal.low[0]) / (decal.high[0] - decal.low[0])
        down[some] = (v[some] - decal.low[1]) / (decal.high[1] - decal.low[1])
        u[some] -= decal.low[0]

    colour = np.empty((3, len(index)), np.float32)
    glow = np.zeros((3, len(index)), np.float32)
    order = np.argsort(material, kind="stable")
    ends = np.searchsorted(material[order], np.arange(len(scene.materials) + 1))
    for number, look in enumerate(scene.materials):
        some = order[ends[number] : ends[number + 1]]
        if not some.size:
            continue
        first, second = np.array(look.colours, np.float32)[:, :, None]
        if look.pattern == "plain":
            colour[:, some] = first
        else:
            spots = Spots(
                u[some], v[some], across[some], down[some], footprint[some], scene.noise
            )
            mix = _PATTERNS[look.pattern](spots, look).astype(np.float32)
            colour[:, some] = np.clip(first + (second - first) * mix, 0.01, 1)
        if look.glow:
            glow[:, some] = look.glow * colour[:, some]
    if scene.skirting_m:
        height = scene.solids.half[2, 0]
        low = walls[(axis[walls] < 2) & (z[walls] < scene.skirting_m - height)]
        plain = low[np.isin(material[low], scene.face_materials)]
        colour[:, plain] = 0.5 * colour[:, plain] + 0.35
    return colour, glow


def radiance(
    scene: Scene,
    points: np.ndarray,
    normal: np.ndarray,
    index: np.ndarray,
    local: np.ndarray,
    axis: np.ndarray,
    footprint: np.ndarray,
    lamp_spot: np.ndarray,
) -> np.ndarray:
    """Light that comes from points of a room.

    Args:
      scene: the room.
      points: [3, N] world metres.
      normal: [3, N] world.
      index: [N] solids; local, axis: `raycast.surface`'s.
      local: [3, N].
      axis: [N].
      footprint: [N], width covered by a ray there, metres.
      lamp_spot: [3, N], in [-1, 1]: which place on the lamps each point looks at, in
        radii; neighbouring rays look at different places, which softens shadows.

    Returns:
      Linear rgb, float32 [3, N], 0 or more, without upper bound.
    """
    colour, glow = _albedo(scene, index, local, axis, normal, footprint)
    half = scene.solids.half[:, 0:1]
    # Light gathers less in the room's creases; 0.35 m is how far that reaches.
    gaps = half - np.abs(points - scene.solids.centre[:, 0:1])
    open_sky = np.prod(1 - 0.3 * np.exp(-np.maximum(gaps, 0) / 0.35), axis=0) / 0.7
    ambient = np.array(scene.ambient, np.float32)[:, None]
    light = ambient * (np.minimum(open_sky, 1) * (0.85 + 0.15 * normal[2]))
    for lamp in scene.lights:
        place = np.array(lamp.place_m, np.float32)[:, None] + lamp_spot * lamp.radius_m
        to_lamp = place - points
        square = (to_lamp * to_lamp).sum(0)
        facing = (normal * to_lamp).sum(0) / np.sqrt(square)
        lit = np.flatnonzero(facing > 0)
        shadowed = is_shadowed(
            scene.solids, points.take(lit, 1), place.take(lit, 1), 1.8 * lamp.radius_m
        )
        lit = lit[~shadowed]
        strength = facing[lit] / (0.35 + 0.16 * square[lit])
        light[:, lit] += np.array(lamp.colour, np.float32)[:, None] * strength
    return colour * light + glow


def photograph(light: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a camera makes of the light: exposure, white balance, curve and noise.

    Args:
      light: linear rgb, float32 [H, W, 3].
      rng: the camera's own generator.

    Returns:
      uint8 [H, W, 3].
    """
    target, balance = rng.uniform(0.35, 0.65), 1 + rng.normal(0, 0.05, 3)
    noise_level = rng.uniform(0, 0.012)
    # Metered on the lighter parts, so that a dark floor does not bleach the walls.
    bright = max(float(np.percentile(light, 75)), 1e-3)
    exposed = light * balance * (target / bright)
    # A soft shoulder: bright lamps and windows bleach instead of cutting off.
    curved = np.where(exposed < 0.6, exposed, 1 - 0.4 * np.exp((0.6 - exposed) / 0.4))
    shown = np.clip(curved, 0, 1) ** (1 / 2.2)
    shown = shown + noise_level * rng.standard_normal(shown.shape, np.float32)
    return np.clip(np.rint(shown * 255), 0, 255).astype(np.uint8)
