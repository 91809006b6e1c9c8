"""What stands in a procedural room and where a camera may stand (numpy only)."""

import colorsys
import dataclasses
import math
from typing import List, Tuple

import numpy as np

from soka_tf.data.rooms.raycast import BALL, BOX, CYLINDER, Solid, Solids, cast_few

MIN_DEPTH_M = 0.4
_CAMERA_TRIES = 60


@dataclasses.dataclass(frozen=True)
class Material:
    """A surface's pattern and its two colours.

    Attributes:
      pattern: name of a function of room_painting.
      colours: two linear rgb albedos.
      period_m: size of one repetition, metres.
      seed: makes two materials of the same pattern differ.
      glow: light that the surface gives off itself.
    """

    pattern: str
    colours: Tuple[Tuple[float, float, float], Tuple[float, float, float]]
    period_m: float = 0.3
    seed: float = 0.0
    glow: float = 0.0


@dataclasses.dataclass(frozen=True)
class Decal:
    """A flat rectangle on a face of the room: a window, a door, a picture, a lamp.

    Attributes:
      face: number of the room's face, 2 * axis + (1 on the positive side).
      low, high: two opposite corners in the face's coordinates, metres.
      material: index of its material.
    """

    face: int
    low: Tuple[float, float]
    high: Tuple[float, float]
    material: int


@dataclasses.dataclass(frozen=True)
class Light:
    """A round lamp: place (world metres), radius (metres) and linear rgb power."""

    place_m: Tuple[float, float, float]
    radius_m: float
    colour: Tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Scene:
    """A room; its box is solid 0, face_materials are those of the box's six faces."""

    solids: Solids
    materials: Tuple[Material, ...]
    face_materials: Tuple[int, ...]
    decals: Tuple[Decal, ...]
    lights: Tuple[Light, ...]
    ambient: Tuple[float, float, float]
    skirting_m: float
    noise: np.ndarray
    interests: np.ndarray


@dataclasses.dataclass(frozen=True)
class Camera:
    """Place (world metres), axes (rows: right, up, backward), half the view's width."""

    place: np.ndarray
    axes: np.ndarray
    half_width: float


def _noise_tile(rng, size=256) -> np.ndarray:
    """A periodic fractal pattern, float32 [size, size] in [0, 1]."""
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(size) * size] * 2))
    spectrum = np.fft.fft2(rng.standard_normal((size, size)))
    spectrum *= np.where(frequency > 0, (frequency + 2.0) ** -1.9, 0)
    tile = np.fft.ifft2(spectrum).real
    return np.clip(tile / (5 * tile.std()) + 0.5, 0, 1).astype(np.float32)


def _linear(hue, saturation, value):
    """Linear rgb from hue, saturation and displayed value."""
    return tuple(c**2.2 for c in colorsys.hsv_to_rgb(hue % 1, saturation, value))


class _Furnisher:
    """Builds the lists of a scene from one random generator."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.materials: List[Material] = []
        self.solids: List[Solid] = []
        self.taken: List[Tuple[float, float, float, float]] = []
        self.interests: List[Tuple[float, float, float]] = []
        self._frame = (0.0, 0.0, 0.0, 0.0)

    # Random draws
    def between(self, low, high):
        return float(self.rng.uniform(low, high))

    def chance(self, probability):
        return self.rng.random() < probability

    def pick(self, *choices):
        return choices[self.rng.integers(len(choices))]

    # Materials
    def material(self, pattern, first, second=None, period=0.3, glow=0.0) -> int:
        self.materials.append(
            Material(
                pattern, (first, second or first), period, self.between(0, 9), glow
            )
        )
        return len(self.materials) - 1

    def wood(self, period=0.12):
        hue, value = self.between(0.055, 0.1), self.between(0.25, 0.85)
        tone = self.between(0.25, 0.6)
        return self.material(
            "wood",
            _linear(hue, tone, value),
            _linear(hue, tone + 0.08, value * self.between(0.65, 0.85)),
            period,
        )

    def grey(self, low=0.05, high=0.95):
        value = self.between(low, high)
        return self.material(
            "plain", _linear(self.between(0, 1), self.between(0, 0.06), value)
        )

    def colourful(self, pattern="plain", period=0.3, low=0.2, high=0.8):
        hue, value = self.between(0, 1), self.between(0.25, 0.9)
        first = _linear(hue, self.between(low, high), value)
        second = _linear(
            hue + self.rng.normal(0, 0.15),
            self.between(0.05, high),
            np.clip(value + self.pick(-1, 1) * self.between(0.12, 0.35), 0.08, 0.95),
        )
        return self.material(pattern, first, second, period)

    def fabric(self):
        kind = self.pick("plain", "cloth", "cloth", "stripes", "checker")
        return self.colourful(kind, self.between(0.06, 0.2), 0.05, 0.6)

    def any_surface(self):
        return self.pick(self.wood, self.wood, self.grey, self.colourful)()

    # Solids, in the frame of the piece of furniture: z from its foot
    def solid(self, kind, x, y, z, width, depth, height, material, yaw=0.0):
        fx, fy, fz, turn = self._frame
        cos, sin = math.cos(turn), math.sin(turn)
        self.solids.append(
            Solid(
                kind,
                (
                    fx + cos * x - sin * y,
                    fy + sin * x + cos * y,
                    fz + z + height / 2,
                ),
                (width / 2, depth / 2, height / 2),
                turn + yaw,
                material,
            )
        )

    def box(self, *args, **kwargs):
        self.solid(BOX, *args, **kwargs)

    def cylinder(self, x, y, z, width, height, material):
        self.solid(CYLINDER, x, y, z, width, width, height, material)

    def ball(self, *args, **kwargs):
        self.solid(BALL, *args, **kwargs)

    def legs(self, width, depth, height, thick, material):
        build = self.pick(BOX, CYLINDER)
        for x in (-1, 1):
            for y in (-1, 1):
                place = (x * (width / 2 - thick), y * (depth / 2 - thick), 0.0)
                self.solid(build, *place, thick, thick, height, material)

    # Small things
    def clutter(self, width, depth, z, count):
        """Sets small things on a top of width x depth at height z, side by side."""
        fx, fy, fz, turn = self._frame
        for slot in self.rng.permutation(max(count, 1))[:count]:
            x = ((slot + 0.5) / count - 0.5) * (width - 0.1)
            room_x = (width - 0.1) / count
            y = self.between(-0.3, 0.3) * max(depth - 0.25, 0)
            self._thing(x, y, z, room_x * 0.9, depth - 0.1)
        if count:
            self.interests.append((fx, fy, fz + z))

    def _thing(self, x, y, z, width, depth):
        what = self.pick(
            "books",
            "mug",
            "bottle",
            "fruit",
            "box",
            "laptop",
            "vase",
            "lamp",
            "upright",
        )
        turn = self.rng.normal(0, 0.35)
        if what == "books":
            for _ in range(self.rng.integers(1, 5)):
                high = self.between(0.015, 0.05)
                size = min(width, self.between(0.15, 0.24))
                self.box(
                    x, y, z, size, min(depth, 0.28), high,
                    self.colourful(), yaw=turn + self.rng.normal(0, 0.15),
                )  # fmt: skip
                z += high
        elif what == "mug":
            self.cylinder(x, y, z, min(width, 0.085), 0.1, self.colourful())
        elif what == "bottle":
            size, tint = min(width, self.between(0.06, 0.1)), self.colourful()
            high = self.between(0.14, 0.24)
            self.cylinder(x, y, z, size, high, tint)
            self.cylinder(x, y, z + high, size * 0.4, 0.08, tint)
        elif what == "fruit":
            size = min(width, depth, self.between(0.07, 0.22))
            self.ball(x, y, z, size, size, size, self.colourful(low=0.4, high=0.9))
        elif what == "box":
            self.box(
                x, y, z, min(width, self.between(0.1, 0.35)),
                min(depth, self.between(0.1, 0.3)), self.between(0.06, 0.3),
                self.pick(self.colourful, self.grey)(), yaw=turn,
            )  # fmt: skip
        elif what == "laptop" and width > 0.25:
            case = self.grey(0.1, 0.7)
            self.box(x, y, z, 0.32, 0.22, 0.02, case, yaw=0)
            self.box(x, y + 0.11, z + 0.02, 0.32, 0.012, 0.21, self.screen())
        elif what == "vase":
            tint, size = self.colourful(), min(width, 0.16)
            self.ball(x, y, z, size, size, 0.24, tint)
            self.cylinder(x, y, z + 0.2, size * 0.4, 0.1, tint)
        elif what == "lamp" and width > 0.18:
            self.cylinder(x, y, z, 0.14, 0.02, self.grey())
            self.cylinder(x, y, z + 0.02, 0.025, 0.26, self.grey())
            shade = _linear(0.1, self.between(0, 0.3), 0.9)
            lit = self.between(0.2, 0.9)
            tint = self.material("plain", shade, glow=lit)
            self.cylinder(x, y, z + 0.24, min(width, 0.24), 0.18, tint)
        else:
            size = min(width, self.between(0.1, 0.5))
            self.box(x, y, z, size, 0.18, self.between(0.18, 0.28), self.books())

    def books(self):
        return self.colourful("books", self.between(0.025, 0.05))

    def screen(self):
        dark = self.chance(0.5)
        return self.material(
            "plain" if dark else "picture",
            _linear(self.between(0.5, 0.7), 0.4, 0.12 if dark else 0.6),
            _linear(self.between(0, 1), 0.3, 0.8),
            0.2,
            glow=0.0 if dark else 0.6,
        )

    # Furniture: each returns its width, depth; built around the origin, back at +y
    def table(self):
        width, depth = self.between(0.8, 1.8), self.between(0.55, 0.95)
        height, top = self.between(0.66, 0.78), self.any_surface()
        self.box(0, 0, height - 0.04, width, depth, 0.04, top)
        leg = self.pick(top, self.grey())
        if self.chance(0.3):
            for side in (-1, 1):
                x = side * (width / 2 - 0.03)
                self.box(x, 0, 0, 0.04, depth * 0.9, height - 0.04, leg)
        else:
            self.legs(width, depth, height - 0.04, self.between(0.04, 0.08), leg)
        if self.chance(0.45):
            black = self.grey(0.03, 0.2)
            self.box(0, depth * 0.25, height, 0.24, 0.18, 0.02, black)
            self.box(0, depth * 0.3, height, 0.05, 0.03, 0.2, black)
            wide = self.between(0.45, 0.7)
            self.box(0, depth * 0.27, height + 0.12, wide, 0.03, wide * 0.6, black)
            self.box(
                0, depth * 0.27 - 0.017, height + 0.135, wide - 0.03, 0.006,
                wide * 0.6 - 0.03, self.screen(),
            )  # fmt: skip
            self.clutter(width, depth * 0.4, height, int(self.rng.integers(1, 4)))
        else:
            self.clutter(width, depth, height, int(self.rng.integers(1, 6)))
        return width, depth

    def coffee_table(self):
        width, height = self.between(0.5, 1.0), self.between(0.35, 0.5)
        top = self.any_surface()
        if self.chance(0.5):
            self.cylinder(0, 0, height - 0.04, width, 0.04, top)
            self.cylinder(0, 0, 0, 0.08, height - 0.04, top)
        else:
            self.box(0, 0, height - 0.04, width, width * 0.7, 0.04, top)
            self.legs(width, width * 0.7, height - 0.04, 0.05, top)
        self.clutter(width * 0.7, width * 0.6, height, int(self.rng.integers(0, 3)))
        return width, width

    def chair(self):
        seat, height = self.between(0.4, 0.5), self.between(0.42, 0.48)
        frame = self.any_surface()
        cover = self.pick(frame, self.fabric())
        self.box(0, 0, height - 0.05, seat, seat, 0.05, cover)
        self.legs(seat, seat, height - 0.05, 0.04, frame)
        back = self.between(0.35, 0.5)
        self.box(0, seat / 2 - 0.02, height, seat, 0.04, back, cover)
        return seat, seat

    def sofa(self):
        width, depth = self.between(1.2, 2.2), self.between(0.75, 0.95)
        cover, height = self.fabric(), self.between(0.38, 0.46)
        self.box(0, 0, 0, width, depth, height, cover)
        self.box(0, depth / 2 - 0.1, height, width, 0.2, self.between(0.3, 0.45), cover)
        for side in (-1, 1):
            self.box(side * (width / 2 - 0.08), 0, height, 0.16, depth, 0.2, cover)
        for _ in range(self.rng.integers(0, 4)):
            x = self.between(-0.35, 0.35) * width
            turn = self.rng.normal(0, 0.3)
            self.ball(
                x, depth / 2 - 0.27, height, 0.42, 0.18, 0.38, self.fabric(), yaw=turn
            )
        return width, depth

    def armchair(self):
        cover = self.fabric()
        self.box(0, 0, 0, 0.8, 0.8, 0.42, cover)
        self.box(0, 0.3, 0.42, 0.8, 0.2, 0.4, cover)
        for side in (-1, 1):
            self.box(side * 0.33, 0, 0.42, 0.14, 0.8, 0.18, cover)
        return 0.8, 0.8

    def cabinet(self):
        width, depth = self.between(0.5, 1.5), self.between(0.35, 0.6)
        height = self.pick(self.between(0.5, 1.1), self.between(1.5, 2.1))
        wood = self.any_surface()
        first = self.materials[wood].colours[0]
        front = self.material(
            "panels", first, tuple(0.35 * c for c in first), self.between(0.3, 0.6)
        )
        self.box(0, 0, 0, width, depth, height, self.pick(wood, front))
        if height < 1.3:
            self.clutter(width, depth, height, int(self.rng.integers(0, 5)))
        return width, depth

    def shelf(self):
        width, depth = self.between(0.6, 1.3), self.between(0.25, 0.38)
        wood, levels = self.any_surface(), int(self.rng.integers(3, 6))
        step = self.between(0.32, 0.4)
        height = levels * step
        for side in (-1, 1):
            x = side * (width / 2 - 0.015)
            self.box(x, 0, 0, 0.03, depth, height + 0.03, wood)
        self.box(0, depth / 2 - 0.01, 0, width - 0.06, 0.02, height, wood)
        for level in range(levels + 1):
            z = level * step
            self.box(0, 0, z, width - 0.06, depth, 0.03, wood)
            if level < levels and self.chance(0.85):
                part = self.between(0.3, 0.95) * (width - 0.08)
                x = self.between(-0.5, 0.5) * (width - 0.08 - part)
                high = self.between(0.18, 0.27)
                self.box(x, 0.03, z + 0.03, part, depth * 0.7, high, self.books())
        return width, depth

    def bed(self):
        width, cover = self.between(0.9, 1.7), self.fabric()
        frame, sheet = self.any_surface(), self.grey(0.6, 0.95)
        self.box(0, 0, 0, width, 2.0, 0.3, frame)
        self.box(0, 0, 0.3, width - 0.06, 1.94, 0.18, sheet)
        self.box(0, -0.35, 0.3, width, 1.3, 0.2, cover)
        self.box(0, 1.0, 0, width, 0.06, self.between(0.7, 1.1), frame)
        for x in (-0.25, 0.25) if width > 1.3 else (0,):
            self.ball(x * width, 0.75, 0.46, 0.6, 0.4, 0.16, sheet)
        return width, 2.06

    def floor_lamp(self):
        height, metal = self.between(1.3, 1.7), self.grey()
        self.cylinder(0, 0, 0, 0.28, 0.03, metal)
        self.cylinder(0, 0, 0.03, 0.03, height, metal)
        shade = self.material(
            "plain", _linear(0.1, self.between(0, 0.35), 0.9), glow=self.between(0, 0.9)
        )
        self.cylinder(0, 0, height, self.between(0.3, 0.45), 0.28, shade)
        return 0.4, 0.4

    def plant(self):
        pot, size = self.colourful(), self.between(0.25, 0.4)
        self.cylinder(0, 0, 0, size, size, pot)
        leaf = self.material(
            "cloth",
            _linear(self.between(0.22, 0.36), 0.6, self.between(0.3, 0.55)),
            _linear(0.3, 0.7, 0.2),
            0.1,
        )
        self.cylinder(0, 0, size, 0.03, 0.3, self.wood())
        for _ in range(self.rng.integers(3, 7)):
            x, y = self.rng.normal(0, 0.1, 2)
            wide, high = self.between(0.15, 0.35), self.between(0.2, 0.5)
            z = size + self.between(0.1, 0.5)
            self.ball(x, y, z, wide, wide * 0.7, high, leaf, yaw=self.between(0, 3))
        return 0.5, 0.5

    def drum(self):
        size, high = self.between(0.25, 0.5), self.between(0.25, 0.6)
        self.cylinder(0, 0, 0, size, high, self.fabric())
        return size, size

    def toy(self):
        size = self.between(0.15, 0.6)
        self.ball(0, 0, 0, size, size, size * self.between(0.7, 1), self.fabric())
        return size, size

    def cartons(self):
        size, z = self.between(0.35, 0.6), 0.0
        for _ in range(self.rng.integers(1, 4)):
            high, tint = self.between(0.2, 0.45), self.colourful("plain", 0.3, 0.2, 0.5)
            self.box(
                0, 0, z, size, size * 0.8, high, tint, yaw=self.rng.normal(0, 0.15)
            )
            z, size = z + high, size * self.between(0.6, 0.95)
        return 0.6, 0.6

    def pillar(self):
        size = self.between(0.25, 0.5)
        build = self.pick(BOX, CYLINDER)
        self.solid(build, 0, 0, 0, size, size, 3.6, self.grey(0.5, 0.95))
        return size, size

    def place(self, build, room_half, at_wall):
        """Builds a piece where it overlaps no other; gives up after some tries."""
        before = len(self.solids), len(self.interests)
        turn = self.rng.integers(4) * math.pi / 2
        if not at_wall and self.chance(0.6):
            turn = self.between(0, 2 * math.pi)
        elif self.chance(0.3):
            turn += self.rng.normal(0, 0.08)
        self._frame = (0.0, 0.0, 0.0, 0.0)
        width, depth = build()
        cos, sin = math.cos(turn), math.sin(turn)
        half_x = (abs(cos) * width + abs(sin) * depth) / 2 + 0.02
        half_y = (abs(sin) * width + abs(cos) * depth) / 2 + 0.02
        free_x, free_y = room_half[0] - half_x, room_half[1] - half_y
        parts = self.solids[before[0] :]
        spots = self.interests[before[1] :]
        del self.solids[before[0] :], self.interests[before[1] :]
        if min(free_x, free_y) < 0.02:
            return
        for _ in range(8):
            x, y = self.between(-free_x, free_x), self.between(-free_y, free_y)
            if at_wall:
                # The back (+y of the piece) towards the nearest fitting wall.
                back_x, back_y = -sin, cos
                if abs(back_x) > abs(back_y):
                    x = math.copysign(free_x, back_x)
                else:
                    y = math.copysign(free_y, back_y)
            if any(
                abs(x - ox) < half_x + hx and abs(y - oy) < half_y + hy
                for ox, oy, hx, hy in self.taken
            ):
                continue
            self.taken.append((x, y, half_x, half_y))
            for part in parts:
                px, py, pz = part.centre_m
                place = (x + cos * px - sin * py, y + sin * px + cos * py, pz)
                self.solids.append(
                    dataclasses.replace(part, centre_m=place, yaw=part.yaw + turn)
                )
            for px, py, pz in spots:
                self.interests.append(
                    (x + cos * px - sin * py, y + sin * px + cos * py, pz)
                )
            self.interests.append((x, y, self.between(0.3, 0.9)))
            return


def _decorate(make: _Furnisher, half, height) -> List[Decal]:
    """Windows, doors and pictures on the walls, a lamp on the ceiling."""
    decals = []
    for face in range(4):
        # A face's coordinates are the two other axes in order; walls: (y, z), (x, z).
        wide = half[1 - face // 2]
        x = -wide + 0.3
        while x < wide - 0.5:
            what = make.pick("none", "none", "picture", "picture", "window", "door")
            size = make.between(0.3, 1.0)
            if what == "none" or x + size > wide - 0.1:
                x += make.between(0.4, 1.4)
                continue
            foot = -height / 2
            if what == "door":
                size = min(0.9, wide - 0.1 - x)
                low, high = foot, foot + 2.02
                tint = make.pick(make.wood, make.grey, make.colourful)()
                first = make.materials[tint].colours[0]
                look = make.material("door", first, tuple(0.45 * c for c in first), 1.0)
            elif what == "window":
                size = min(make.between(0.7, 1.6), wide - 0.1 - x)
                low = foot + make.between(0.7, 1.0)
                high = min(low + make.between(0.8, 1.4), height / 2 - 0.15)
                look = make.material(
                    "window",
                    _linear(make.between(0.5, 0.62), make.between(0.05, 0.4), 0.95),
                    _linear(make.between(0.1, 0.35), 0.25, make.between(0.3, 0.7)),
                    size / make.pick(1, 2, 2),
                    glow=make.between(0.5, 1.6),
                )
            else:
                low = foot + make.between(1.1, 1.5)
                high = low + size * make.between(0.6, 1.2)
                high = min(high, height / 2 - 0.1)
                look = make.colourful("picture", size, 0.1, 0.8)
            decals.append(Decal(face, (x, low), (x + size, high), look))
            x += size + make.between(0.3, 1.2)
    return decals


def build_scene(seed: int, room: int) -> Scene:
    """Furnishes one room; the same for the same seed and room.

    Args:
      seed: of the whole collection.
      room: number of the room, 0 or more.

    Returns:
      The scene; its origin is the middle of the room's floor.
    """
    rng = np.random.default_rng([seed, room])
    make = _Furnisher(rng)
    half = (make.between(1.3, 3.5), make.between(1.3, 3.5))
    height = make.between(2.3, 3.2)

    hue = make.pick(make.between(0.05, 0.15), make.between(0, 1))
    pale = _linear(hue, make.between(0, 0.12), make.between(0.75, 0.98))
    strong = _linear(make.between(0, 1), make.between(0.1, 0.6), make.between(0.3, 0.9))
    wall = make.material("plain", pale)
    accent = make.pick(
        wall,
        wall,
        make.material("plain", strong),
        make.material("plaster", strong, tuple(0.8 * c for c in strong), 1.0),
        make.material(
            "stripes", pale, tuple(0.75 * c for c in pale), make.between(0.1, 0.4)
        ),
        make.material(
            "brick",
            _linear(make.between(0.01, 0.08), make.between(0.1, 0.6), 0.6),
            _linear(0.1, 0.08, make.between(0.4, 0.8)),
            make.between(0.2, 0.3),
        ),
        make.wood(0.2),
    )
    walls = [accent] * 4 if make.chance(0.2) else [wall] * 4
    walls[make.rng.integers(4)] = accent
    floor = make.pick(
        lambda: make.wood(make.between(0.08, 0.2)),
        lambda: make.wood(make.between(0.08, 0.2)),
        lambda: make.colourful("cloth", 0.3, 0, 0.4),
        lambda: make.material(
            "tiles",
            _linear(0.1, make.between(0, 0.2), make.between(0.4, 0.9)),
            _linear(0.1, 0.05, make.between(0.2, 0.6)),
            make.between(0.25, 0.6),
        ),
        lambda: make.colourful("checker", make.between(0.5, 1.0), 0.0, 0.25),
    )()
    ceiling = make.material("plain", _linear(hue, 0.03, make.between(0.82, 0.98)))
    decals = _decorate(make, half, height)
    if make.chance(0.5):
        wide, deep = make.between(0.5, 0.95) * half[0], make.between(0.5, 0.9) * half[1]
        rug = make.colourful(make.pick("rug", "rug", "stripes"), 0.35, 0.1, 0.6)
        x, y = make.between(-0.3, 0.3), make.between(-0.3, 0.3)
        corner = ((x - wide / 2, y - deep / 2), (x + wide / 2, y + deep / 2))
        decals.append(Decal(4, *corner, rug))

    at_wall = [
        make.table, make.table, make.sofa, make.armchair, make.cabinet, make.cabinet,
        make.shelf, make.bed, make.floor_lamp, make.plant, make.cartons,
    ]  # fmt: skip
    in_middle = [
        make.table, make.coffee_table, make.coffee_table, make.chair, make.chair,
        make.drum, make.toy, make.cartons, make.armchair, make.pillar,
    ]  # fmt: skip
    area = 4 * half[0] * half[1]
    for _ in range(int(rng.integers(3, 6) + area / 9)):
        make.place(make.pick(*at_wall), half, at_wall=True)
    for _ in range(int(rng.integers(1, 3) + area / 14)):
        make.place(make.pick(*in_middle), half, at_wall=False)

    warm = make.between(-1, 1)
    tint = np.array([1 + 0.18 * warm, 1.0, 1 - 0.22 * warm])
    spot = (make.between(-0.5, 0.5) * half[0], make.between(-0.5, 0.5) * half[1])
    lamp_size = make.between(0.15, 0.4)
    lights = [
        Light((*spot, height - 0.12), lamp_size, tuple(make.between(0.6, 1.3) * tint))
    ]
    lamp = make.material("plain", (1.0, 1.0, 1.0), glow=make.between(1, 2))
    decals.append(
        Decal(
            5, (spot[0] - lamp_size / 2, spot[1] - lamp_size / 2),
            (spot[0] + lamp_size / 2, spot[1] + lamp_size / 2), lamp,
        )
    )  # fmt: skip
    for decal in decals:
        if make.materials[decal.material].pattern == "window" and len(lights) < 2:
            axis, sign = decal.face // 2, 2 * (decal.face % 2) - 1
            place = [0.0, 0.0, (decal.low[1] + decal.high[1]) / 2 + height / 2]
            place[axis] = sign * (half[axis] - 0.15)
            place[1 - axis] = (decal.low[0] + decal.high[0]) / 2
            day = make.between(0.3, 1.2) * np.array([0.92, 1.0, 1.1])
            lights.append(Light(tuple(place), 0.4, tuple(day)))
    box = Solid(BOX, (0, 0, height / 2), (*half, height / 2), 0.0, wall)
    return Scene(
        solids=Solids([box, *make.solids]),
        materials=tuple(make.materials),
        face_materials=(*walls, floor, ceiling),
        decals=tuple(decals),
        lights=tuple(lights),
        ambient=tuple(make.between(0.25, 0.6) * (0.5 + 0.5 * tint)),
        skirting_m=make.between(0.05, 0.12) if make.chance(0.7) else 0.0,
        noise=_noise_tile(rng),
        interests=np.array(make.interests or [(0.0, 0.0, 0.5)]),
    )


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
