"""The settings of a run, and which of them exclude each other."""

import dataclasses
from typing import List, Optional, Sequence

import gin

from soka_tf.data.pipeline import check_augmentation
from soka_tf.errors import UserError
from soka_tf.networks.folding import EXPORT_PRECISIONS
from soka_tf.networks.precision import PRECISIONS
from soka_tf.tasks import Task, get_targets

SUPERVISIONS = ("teachers", "labels")
# Numbers that may be 0 or, the seed, anything.
_NOT_COUNTED = ("seed", "movement_every_steps", "panel_every_steps")


@gin.configurable("run")
@dataclasses.dataclass(frozen=True)
class Settings:
    """What concerns a run as a whole.

    Attributes:
      tasks: names of the student's tasks, any alias.
      image_size: side in pixels of all images and maps.
      batch_size: images of a step, over all replicas; with
        `schedule.new_batch_in_collaboration` of each of its two batches.
      max_steps: steps of the run, the joint start included (paper: 600 000).
      seed: of the initial values, the order of the images and the instance noise.
      antialias: whether images are smoothed before they are reduced; the original
        does not.
      precision: in which the student (and what trains it) computes, see
        `soka_tf.networks.precision`; the teachers' is `load_pool`'s.
      jit_compile: whether XLA compiles the training step, on one device.
      supervision: what the student learns from: the "teachers", or the ground truth
        in place of their predictions, "labels"; teachers are then what it is compared
        with only.
      augmentation: of the images to train on, "none" or "flip".
      teacher_cache: whether the teachers' outputs are computed once per image, before
        training, and read from disk from then on.
      teacher_cache_dir: where they are kept; None for the default.
      data_service: address of a tf.data service that reads the images to train on,
        "grpc://host:port"; None for this process. Batches are then no function of
        (seed, step), see `soka_tf.data.service.service_dataset`.
      log_every_steps: steps between two rows of metrics.csv.
      checkpoint_every_steps: steps between two checkpoints.
      keep_checkpoints: how many of the last ones are kept.
      validate_every_steps: steps between two comparisons with the teachers on
        validation images, and after the last; 0 for none.
      validation_images: how many of them.
      movement_every_steps: steps between two measurements of who moves; 0 for none.
      panel_every_steps: steps between two panels; 0 for one at the end.
      panel_images: validation images on a panel.
      evaluation_batch_size: images of an evaluation step.
      export: whether a SavedModel is written at the end.
      export_precision: of its computations, see `serving.saved_model`.
    """

    tasks: Sequence[str]
    image_size: int
    batch_size: int
    max_steps: int
    seed: int = 0
    antialias: bool = False
    precision: str = "float32"
    jit_compile: bool = False
    supervision: str = "teachers"
    augmentation: str = "none"
    teacher_cache: bool = False
    teacher_cache_dir: Optional[str] = None
    data_service: Optional[str] = None
    log_every_steps: int = 100
    checkpoint_every_steps: int = 1000
    keep_checkpoints: int = 3
    validate_every_steps: int = 5000
    validation_images: int = 64
    movement_every_steps: int = 1000
    panel_every_steps: int = 5000
    panel_images: int = 6
    evaluation_batch_size: int = 16
    export: bool = True
    export_precision: str = "float32"

    def __post_init__(self):
        self._make_whole()
        for name, allowed in (
            ("precision", PRECISIONS),
            ("supervision", SUPERVISIONS),
            ("export_precision", EXPORT_PRECISIONS),
        ):
            if getattr(self, name) not in allowed:
                raise UserError(
                    f"run.{name} must be one of {', '.join(allowed)}. Received: "
                    f"{getattr(self, name)!r}."
                )
        if not isinstance(self.teacher_cache, bool):
            raise UserError(
                "run.teacher_cache must be True or False; run.teacher_cache_dir names "
                f"the folder. Received: {self.teacher_cache!r}."
            )
        if not isinstance(self.jit_compile, bool):
            raise UserError(
                "run.jit_compile must be True or False. Received: "
                f"{self.jit_compile!r}."
            )
        check_augmentation(self.augmentation, self.teacher_cache)
        self._check_exclusions()

    def _make_whole(self) -> None:
        counts = [field.name for field in dataclasses.fields(self) if field.type is int]
        for name in (name for name in counts if name not in _NOT_COUNTED):
            value = getattr(self, name)
            least = 0 if name == "validate_every_steps" else 1
            whole = isinstance(value, (int, float)) and float(value).is_integer()
            if not whole or value < least:
                raise UserError(
                    f"run.{name} must be a whole number of {least} or more. "
                    f"Received: {value!r}."
                )
            # gin reads 6e5 as a float.
            object.__setattr__(self, name, int(value))

    def _check_exclusions(self) -> None:
        if self.teacher_cache and self.data_service is not None:
            raise UserError(
                "run.teacher_cache = True and run.data_service = "
                f"{self.data_service!r} exclude each other: the service's workers do "
                "not read the cache. Bind run.teacher_cache = False or "
                "run.data_service = None."
            )
        if not self.by_labels:
            return
        for name, value, only in (
            ("teacher_cache", self.teacher_cache, False),
            ("data_service", self.data_service, None),
            ("augmentation", self.augmentation, "none"),
        ):
            if value != only:
                raise UserError(
                    f"run.supervision = 'labels' and run.{name} = {value!r} exclude "
                    "each other: labels are read here, one an image as it is. Bind "
                    f"run.{name} = {only!r} or run.supervision = 'teachers'."
                )

    @property
    def by_labels(self) -> bool:
        """Whether the student learns from the ground truth."""
        return self.supervision == "labels"

    @property
    def targets(self) -> Sequence[Task]:
        """The rows of the student's tasks."""
        return get_targets(self.tasks)

    @property
    def task_names(self) -> List[str]:
        """The data set's names of the student's tasks."""
        return [task.name for task in self.targets]
