"""What an exported student makes of images and videos, written to files."""

import os
from typing import Callable, Dict, List, Sequence

import numpy as np
from absl import logging
from tqdm import tqdm

from soka_tf.data.image_files import RGB, DamagedFile, NoRoom
from soka_tf.data.samples import Sample
from soka_tf.evaluation import image_grid
from soka_tf.evaluation.map_pictures import display_range, draw_prediction
from soka_tf.serving import videos
from soka_tf.serving.full_size import pixels_at
from soka_tf.serving.inputs import files_of, video_of
from soka_tf.tasks import Task

SIZES = ("input", "network")


def predict_images(
    student: Callable,
    tasks: Sequence[Task],
    samples: Sequence[Sample],
    names: Sequence[str],
    out_dir: str,
    size: str = "input",
) -> int:
    """Writes the results of every image that can be read.

    Args:
      student: uint8 [1, H, W, 3] -> task name -> [1, S, S, C] in its unit.
      tasks: the tasks to write.
      samples: the images.
      names: name of each image's results.
      out_dir: folder of the results.
      size: of the raw maps: "input", each image's own, see `full_size.pixels_at`; or
        "network", as they are.

    Returns:
      The number of images that could not be read; each was named in a warning.
    """
    damaged = 0
    for sample, name in zip(tqdm(samples, "predicting", unit="image"), names):
        try:
            image = sample.read(RGB)
        except (DamagedFile, NoRoom) as error:
            damaged += 1
            logging.warning("%s is left out: %s.", error.path, error.reason)
            continue
        maps = maps_of(student, tasks, image)
        path, *map_paths = (
            os.path.join(out_dir, file) for file in files_of(name, list(maps))
        )
        for task, map_path in zip(tasks, map_paths):
            values = maps[task.name]
            shape = values.shape if size == "network" else image.shape
            pixels = pixels_at(task, values, *shape[:2])
            image_grid.write_png(map_path, pixels)
        # The picture comes last: where it is, all of an image's results are.
        image_grid.write_png(path, draw_prediction(image, maps, tasks))
    return damaged


def predict_videos(
    student: Callable,
    tasks: Sequence[Task],
    samples: Sequence[Sample],
    names: Sequence[str],
    out_dir: str,
) -> int:
    """Writes a video of every video that can be read: each frame beside its maps.

    Ends of colour scales that a task leaves open are those of the first frame, so that
    a colour means the same throughout.

    Args:
      student: as in `predict_images`.
      tasks: the tasks to show.
      samples: the videos.
      names: name of each video's result.
      out_dir: folder of the results.

    Returns:
      The number of videos that could not be read to their end, each named in a warning;
      nothing is written of them.

    Raises:
      UserError: if the package for videos is missing.
    """
    damaged = 0
    for sample, name in zip(samples, names):
        path = os.path.join(out_dir, video_of(name))
        try:
            with videos.reading(sample.files[RGB]) as video:
                about = {"desc": name, "unit": "frame", "total": video.frame_count}
                frames = _draw_frames(student, tasks, tqdm(video.frames, **about))
                videos.write(path, frames, video.fps)
        except DamagedFile as error:
            damaged += 1
            logging.warning("%s is left out: %s.", error.path, error.reason)
    return damaged


def _draw_frames(student: Callable, tasks: Sequence[Task], frames):
    ranges = None
    for frame in frames:
        maps = maps_of(student, tasks, frame)
        if ranges is None:
            ranges = {t.name: display_range(t, maps[t.name]) for t in tasks}
        yield draw_prediction(frame, maps, tasks, ranges)


def maps_of(
    student: Callable, tasks: Sequence[Task], image: np.ndarray
) -> Dict[str, np.ndarray]:
    """Task name -> float32 [S, S, C] in its unit, of uint8 [height, width, 3]."""
    outputs = student(image[None])
    return {task.name: outputs[task.name].numpy()[0] for task in tasks}


def result_names(
    images: Sequence[str], videos_: Sequence[str], tasks: Sequence[str]
) -> List[str]:
    """All files that will be written, given the names of the results."""
    files = [file for name in images for file in files_of(name, tasks)]
    return files + [video_of(name) for name in videos_]
