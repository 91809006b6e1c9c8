"""Materials and solids, from which furniture is built (numpy only)."""

# A method is named after what it draws or adds.
# ruff: noqa: D102

import colorsys
import contextlib
import dataclasses
import math
from typing import List, Tuple

import numpy as np

from soka_tf.data.rooms.raycast import BALL, BOX, CYLINDER, Solid
from soka_tf.tasks import ROOM_CLASSES

CLASSES = ROOM_CLASSES  # of segment_semantic


@dataclasses.dataclass(frozen=True)
class Material:
    """A surface's pattern and its two colours.

    Attributes:
      pattern: name of a function of soka_tf.data.rooms.painting.
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


def linear(hue, saturation, value):
    """Linear rgb from hue, saturation and displayed value."""
    return tuple(c**2.2 for c in colorsys.hsv_to_rgb(hue % 1, saturation, value))


class Builder:
    """Fills the lists of a scene from one random generator."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.materials: List[Material] = []
        self.solids: List[Solid] = []
        self.taken: List[Tuple[float, float, float, float]] = []
        self.interests: List[Tuple[float, float, float]] = []
        self._frame = (0.0, 0.0, 0.0, 0.0)
        self._label = 0

    @contextlib.contextmanager
    def labelled(self, name: str):
        """What is built meanwhile is of this class."""
        before, self._label = self._label, CLASSES.index(name)
        yield
        self._label = before

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
            linear(hue, tone, value),
            linear(hue, tone + 0.08, value * self.between(0.65, 0.85)),
            period,
        )

    def grey(self, low=0.05, high=0.95):
        value = self.between(low, high)
        return self.material(
            "plain", linear(self.between(0, 1), self.between(0, 0.06), value)
        )

    def colourful(self, pattern="plain", period=0.3, low=0.2, high=0.8):
        hue, value = self.between(0, 1), self.between(0.25, 0.9)
        first = linear(hue, self.between(low, high), value)
        second = linear(
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
                self._label,
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
