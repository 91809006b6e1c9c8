"""What students make of one photograph: pictures to look at, maps to take away."""

import dataclasses
import time
from typing import Any, Dict, List, Mapping, Sequence, Tuple

import numpy as np

from soka_tf.evaluation import image_grid, map_pictures
from soka_tf.serving.full_size import pixels_at
from soka_tf.serving.predictions import maps_of
from soka_tf.tasks import Task

_LONGEST_PX = 768  # of what is shown
_JPEG_QUALITY = 90


@dataclasses.dataclass(frozen=True)
class Answer:
    """What one student says.

    Attributes:
      maps: task name -> float32 [S, S, C] in its unit.
      pictures: task name -> the map in colours, at the shown size, a PNG.
      seconds: that the student took.
    """

    maps: Mapping[str, np.ndarray]
    pictures: Mapping[str, bytes]
    seconds: float


@dataclasses.dataclass(frozen=True)
class Trial:
    """What all students say of a photograph.

    Attributes:
      height: of the photograph in pixels.
      width: of the photograph in pixels.
      photograph: it, at the shown size, a JPEG.
      answers: student -> what it says.
      ranges: task name -> values at the ends of its colour scale, one for all students.
    """

    height: int
    width: int
    photograph: bytes
    answers: Mapping[str, Answer]
    ranges: Mapping[str, Tuple[float, float]]

    def raw_map(self, student: str, task: Task) -> bytes:
        """The map as a PNG in the task's encoding, at the photograph's size."""
        values = self.answers[student].maps[task.name]
        return image_grid.encoded(pixels_at(task, values, self.height, self.width))


def try_students(students: Mapping[str, Any], image: np.ndarray) -> Trial:
    """Shows a photograph to all students.

    Args:
      students: name -> callable as `serving.exported.Exported`, with its `tasks`.
      image: uint8 [height, width, 3].
    """
    height, width = image.shape[:2]
    maps: Dict[str, Dict[str, np.ndarray]] = {}
    seconds: Dict[str, float] = {}
    for name, student in students.items():
        start = time.perf_counter()
        maps[name] = maps_of(student, student.tasks, image)
        seconds[name] = time.perf_counter() - start
    tasks = tasks_of(students)
    ranges = {
        name: map_pictures.display_range(task, _values(maps, name))
        for name, task in tasks.items()
    }
    factor = _LONGEST_PX / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))

    def draw(name: str, values: np.ndarray) -> bytes:
        colours = map_pictures.draw_map(tasks[name], values, ranges[name], size)
        return image_grid.encoded(colours, compress_level=1)

    answers = {
        student: Answer(
            of_tasks, {k: draw(k, v) for k, v in of_tasks.items()}, seconds[student]
        )
        for student, of_tasks in maps.items()
    }
    shown = map_pictures.resize_picture(image, size)
    photograph = image_grid.encoded(shown, "JPEG", quality=_JPEG_QUALITY)
    return Trial(height, width, photograph, answers, ranges)


def tasks_of(students: Mapping[str, Any]) -> Dict[str, Task]:
    """The tasks of all students, each once, by name."""
    return {task.name: task for one in students.values() for task in one.tasks}


def warm_up(students: Mapping[str, Any]) -> None:
    """Shows them a black image: what only the first one costs, nobody waits for."""
    side = max(student.image_size for student in students.values())
    trial = try_students(students, np.zeros([side, side, 3], np.uint8))
    for name, student in students.items():
        for task in student.tasks:
            trial.raw_map(name, task)


def named(folders: Sequence[str]) -> List[str]:
    """A short name for each folder of a student, all different.

    Args:
      folders: of SavedModels; of one in a run's `saved_model` the run's is taken.
    """
    names: List[str] = []
    for folder in folders:
        parts = [p for p in folder.replace("\\", "/").split("/") if p not in ("", ".")]
        if parts[-1:] == ["saved_model"] and parts[1:]:
            parts.pop()
        first = name = (parts or ["student"])[-1]
        number = 1
        while name in names:
            number += 1
            name = f"{first} ({number})"
        names.append(name)
    return names


def _values(maps: Mapping[str, Mapping[str, np.ndarray]], task: str) -> np.ndarray:
    """All students' values of a task, one after the other."""
    return np.concatenate([m[task].ravel() for m in maps.values() if task in m])
