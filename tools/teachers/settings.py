"""The bindings of tools/train_teachers.py."""

from typing import Any, Mapping, NamedTuple, Sequence

from soka_tf.errors import UserError
from soka_tf.runs.gin_text import read_gin
from tools.teachers.rooms import Rooms


class Settings(NamedTuple):
    """The bindings of train_teachers; see gin/rooms/teachers.gin.

    Attributes:
      tasks: to train a teacher of.
      losses: task -> "l1"; or "l2", for sparse maps, whose median, all that l1 finds,
        is empty, and for classes.
      encoder: arguments of `Encoder`.
      decoder: arguments of `Decoder`.
      gradient_weights: task -> weight of the squared error of the map's gradients in
        the loss of its teacher, alone with its task; others 0. Depth has its outlines
        from it; from random weights it leads to a smooth mean.
      image_size: side in pixels.
      data_dir: where rooms are drawn.
      train: seed, rooms and views to train on; of others than the next two.
      tune: the same, of those that settings are chosen by.
      test: the same, of those that teachers are measured on, once.
      together_steps: of one encoder with a decoder a task, from which all encoders
        begin; 0 for encoders of random weights.
      together_rate: its learning rate at the start; it falls to 0, as the next.
      steps: task -> steps of its teacher, on its task alone.
      learning_rate: of these, at the start.
      batch_size: images a step.
      frozen_share: of the steps, at the end, run with BatchNorm's moving statistics, as
        the teacher is used: an unusual image, which a batch's own statistics would
        tame, otherwise drives a small network to its limits.
      average_decay: of the running mean of the weights, which is what is kept.
      seed: of weights, batches and augmentation.
    """

    tasks: Sequence[str]
    losses: Mapping[str, str]
    encoder: Mapping[str, Any]
    decoder: Mapping[str, Any]
    gradient_weights: Mapping[str, float]
    image_size: int
    data_dir: str
    train: Rooms
    tune: Rooms
    test: Rooms
    together_steps: int
    together_rate: float
    steps: Mapping[str, int]
    learning_rate: float
    batch_size: int
    frozen_share: float
    average_decay: float
    seed: int = 0


def read_settings(gin_files: Sequence[str], gin_params: Sequence[str]) -> Settings:
    """Reads the bindings of train_teachers.

    Raises:
      UserError: for other bindings, where one is missing, or where parts share a seed.
    """
    bound = read_gin(gin_files, gin_params)
    known = [f"train_teachers.{name}" for name in Settings._fields]
    unknown = [name for name in bound if name not in known]
    missing = [name for name in known[:-1] if name not in bound]
    if unknown or missing:
        wrong = [f"unknown {name}" for name in unknown]
        wrong += [f"missing {name}" for name in missing]
        raise UserError(
            f"--gin_file, --gin_param: {', '.join(wrong)}. gin/rooms/teachers.gin "
            "binds all that there is."
        )
    values = {name.split(".")[1]: value for name, value in bound.items()}
    for part in ("train", "tune", "test"):
        values[part] = Rooms(*values[part])
    seeds = [values[part].seed for part in ("train", "tune", "test")]
    if len(set(seeds)) < len(seeds):
        raise UserError(
            "train_teachers.train, tune and test must differ in their seed: rooms to "
            f"measure on are none that were trained on. Received: {seeds}."
        )
    settings = Settings(**values)
    for name in ("losses", "steps"):
        without = [t for t in settings.tasks if t not in getattr(settings, name)]
        if without:
            raise UserError(
                f"train_teachers.{name} has nothing for {', '.join(without)}."
            )
    return settings
