"""Furniture and the small things on it (numpy only)."""

# A method is named after what it builds.
# ruff: noqa: D102

import dataclasses
import math

from soka_tf.data.rooms.base_builder import Builder, linear
from soka_tf.data.rooms.raycast import BOX, CYLINDER

# Piece of furniture -> its class; parts of it may be of another.
_CLASS_OF = {
    **dict.fromkeys(("table", "coffee_table"), "table"),
    **dict.fromkeys(("chair", "sofa", "armchair", "drum"), "seat"),
    **dict.fromkeys(("toy", "cartons"), "thing"),
    **{name: name for name in ("cabinet", "shelf", "bed", "plant")},
    "floor_lamp": "lamp",
    "pillar": "wall",
}


class Furnisher(Builder):
    """Builds furniture and places it in a room."""

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
        with self.labelled("thing"):
            self._small_thing(x, y, z, width, depth)

    def _small_thing(self, x, y, z, width, depth):
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
            with self.labelled("screen"):
                self.box(x, y + 0.11, z + 0.02, 0.32, 0.012, 0.21, self.screen())
        elif what == "vase":
            tint, size = self.colourful(), min(width, 0.16)
            self.ball(x, y, z, size, size, 0.24, tint)
            self.cylinder(x, y, z + 0.2, size * 0.4, 0.1, tint)
        elif what == "lamp" and width > 0.18:
            with self.labelled("lamp"):
                self.cylinder(x, y, z, 0.14, 0.02, self.grey())
                self.cylinder(x, y, z + 0.02, 0.025, 0.26, self.grey())
                shade = linear(0.1, self.between(0, 0.3), 0.9)
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
            linear(self.between(0.5, 0.7), 0.4, 0.12 if dark else 0.6),
            linear(self.between(0, 1), 0.3, 0.8),
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
            with self.labelled("screen"):
                self.monitor(depth, height)
            self.clutter(width, depth * 0.4, height, int(self.rng.integers(1, 4)))
        else:
            self.clutter(width, depth, height, int(self.rng.integers(1, 6)))
        return width, depth

    def monitor(self, depth, z):
        black = self.grey(0.03, 0.2)
        self.box(0, depth * 0.25, z, 0.24, 0.18, 0.02, black)
        self.box(0, depth * 0.3, z, 0.05, 0.03, 0.2, black)
        wide = self.between(0.45, 0.7)
        self.box(0, depth * 0.27, z + 0.12, wide, 0.03, wide * 0.6, black)
        self.box(
            0, depth * 0.27 - 0.017, z + 0.135, wide - 0.03, 0.006,
            wide * 0.6 - 0.03, self.screen(),
        )  # fmt: skip

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
                with self.labelled("thing"):
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
            "plain", linear(0.1, self.between(0, 0.35), 0.9), glow=self.between(0, 0.9)
        )
        self.cylinder(0, 0, height, self.between(0.3, 0.45), 0.28, shade)
        return 0.4, 0.4

    def plant(self):
        pot, size = self.colourful(), self.between(0.25, 0.4)
        self.cylinder(0, 0, 0, size, size, pot)
        leaf = self.material(
            "cloth",
            linear(self.between(0.22, 0.36), 0.6, self.between(0.3, 0.55)),
            linear(0.3, 0.7, 0.2),
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
        with self.labelled(_CLASS_OF[build.__name__]):
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
