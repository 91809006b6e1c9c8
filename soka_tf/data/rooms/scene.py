"""What stands in a procedural room (numpy only)."""

import dataclasses
from typing import ClassVar, List, Tuple

import numpy as np

from soka_tf.data.rooms.base_builder import CLASSES, Material, linear
from soka_tf.data.rooms.furniture import Furnisher
from soka_tf.data.rooms.raycast import BOX, Solid, Solids


@dataclasses.dataclass(frozen=True)
class Decal:
    """A flat rectangle on a face of the room: a window, a door, a picture, a lamp.

    Attributes:
      face: number of the room's face, 2 * axis + (1 on the positive side).
      low, high: two opposite corners in the face's coordinates, metres.
      material: index of its material.
      label: index of its class, one of `base_builder.CLASSES`.
    """

    face: int
    low: Tuple[float, float]
    high: Tuple[float, float]
    material: int
    label: int


@dataclasses.dataclass(frozen=True)
class Light:
    """A round lamp: place (world metres), radius (metres) and linear rgb power."""

    place_m: Tuple[float, float, float]
    radius_m: float
    colour: Tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Scene:
    """A room; its box is solid 0, face_materials are those of the box's six faces."""

    # Classes of the box's faces: four walls, floor, ceiling.
    face_labels: ClassVar[Tuple[int, ...]] = tuple(
        map(CLASSES.index, (*["wall"] * 4, "floor", "ceiling"))
    )

    solids: Solids
    materials: Tuple[Material, ...]
    face_materials: Tuple[int, ...]
    decals: Tuple[Decal, ...]
    lights: Tuple[Light, ...]
    ambient: Tuple[float, float, float]
    skirting_m: float
    noise: np.ndarray
    interests: np.ndarray


def build_scene(seed: int, room: int) -> Scene:
    """Furnishes one room; the same for the same seed and room.

    Args:
      seed: of the whole collection.
      room: number of the room, 0 or more.

    Returns:
      The scene; its origin is the middle of the room's floor.
    """
    rng = np.random.default_rng([seed, room])
    make = Furnisher(rng)
    half = (make.between(1.3, 3.5), make.between(1.3, 3.5))
    height = make.between(2.3, 3.2)
    faces = _surfaces(make)
    decals = _decorate(make, half, height)
    _furnish(make, half)
    warm = make.between(-1, 1)
    tint = np.array([1 + 0.18 * warm, 1.0, 1 - 0.22 * warm])
    lights = _lights(make, half, height, tint, decals)
    # The material of the box itself is not seen: each of its faces has one.
    box = Solid(BOX, (0, 0, height / 2), (*half, height / 2), 0.0, 0)
    return Scene(
        solids=Solids([box, *make.solids]),
        materials=tuple(make.materials),
        face_materials=faces,
        decals=tuple(decals),
        lights=tuple(lights),
        ambient=tuple(make.between(0.25, 0.6) * (0.5 + 0.5 * tint)),
        skirting_m=make.between(0.05, 0.12) if make.chance(0.7) else 0.0,
        noise=_noise_tile(rng),
        interests=np.array(make.interests or [(0.0, 0.0, 0.5)]),
    )


def _noise_tile(rng, size=256) -> np.ndarray:
    """A periodic fractal pattern, float32 [size, size] in [0, 1]."""
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(size) * size] * 2))
    spectrum = np.fft.fft2(rng.standard_normal((size, size)))
    spectrum *= np.where(frequency > 0, (frequency + 2.0) ** -1.9, 0)
    tile = np.fft.ifft2(spectrum).real
    return np.clip(tile / (5 * tile.std()) + 0.5, 0, 1).astype(np.float32)


def _decorate(make: Furnisher, half, height) -> List[Decal]:
    """Windows, doors and pictures on the walls, a rug on the floor."""
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
                    linear(make.between(0.5, 0.62), make.between(0.05, 0.4), 0.95),
                    linear(make.between(0.1, 0.35), 0.25, make.between(0.3, 0.7)),
                    size / make.pick(1, 2, 2),
                    glow=make.between(0.5, 1.6),
                )
            else:
                low = foot + make.between(1.1, 1.5)
                high = low + size * make.between(0.6, 1.2)
                high = min(high, height / 2 - 0.1)
                look = make.colourful("picture", size, 0.1, 0.8)
            label = CLASSES.index(what)
            decals.append(Decal(face, (x, low), (x + size, high), look, label))
            x += size + make.between(0.3, 1.2)
    if make.chance(0.5):
        wide, deep = make.between(0.5, 0.95) * half[0], make.between(0.5, 0.9) * half[1]
        rug = make.colourful(make.pick("rug", "rug", "stripes"), 0.35, 0.1, 0.6)
        x, y = make.between(-0.3, 0.3), make.between(-0.3, 0.3)
        corner = ((x - wide / 2, y - deep / 2), (x + wide / 2, y + deep / 2))
        decals.append(Decal(4, *corner, rug, CLASSES.index("rug")))
    return decals


def _surfaces(make: Furnisher) -> Tuple[int, ...]:
    """Materials of the four walls, the floor and the ceiling."""
    hue = make.pick(make.between(0.05, 0.15), make.between(0, 1))
    pale = linear(hue, make.between(0, 0.12), make.between(0.75, 0.98))
    strong = linear(make.between(0, 1), make.between(0.1, 0.6), make.between(0.3, 0.9))
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
            linear(make.between(0.01, 0.08), make.between(0.1, 0.6), 0.6),
            linear(0.1, 0.08, make.between(0.4, 0.8)),
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
            linear(0.1, make.between(0, 0.2), make.between(0.4, 0.9)),
            linear(0.1, 0.05, make.between(0.2, 0.6)),
            make.between(0.25, 0.6),
        ),
        lambda: make.colourful("checker", make.between(0.5, 1.0), 0.0, 0.25),
    )()
    ceiling = make.material("plain", linear(hue, 0.03, make.between(0.82, 0.98)))
    return (*walls, floor, ceiling)


def _furnish(make: Furnisher, half) -> None:
    at_wall = [
        make.table, make.table, make.sofa, make.armchair, make.cabinet, make.cabinet,
        make.shelf, make.bed, make.floor_lamp, make.plant, make.cartons,
    ]  # fmt: skip
    in_middle = [
        make.table, make.coffee_table, make.coffee_table, make.chair, make.chair,
        make.drum, make.toy, make.cartons, make.armchair, make.pillar,
    ]  # fmt: skip
    area = 4 * half[0] * half[1]
    for _ in range(int(make.rng.integers(3, 6) + area / 9)):
        make.place(make.pick(*at_wall), half, at_wall=True)
    for _ in range(int(make.rng.integers(1, 3) + area / 14)):
        make.place(make.pick(*in_middle), half, at_wall=False)


def _lights(make: Furnisher, half, height, tint, decals: List[Decal]) -> List[Light]:
    """The ceiling's lamp, which becomes a decal, and the light of one window."""
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
            CLASSES.index("lamp"),
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
    return lights
