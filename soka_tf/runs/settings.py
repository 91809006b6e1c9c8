"""The settings of a run, and which of them exclude each other."""

import dataclasses
from typing import Annotated, List, Tuple

import gin

from soka_tf.data.pipeline import Augmentation, check_augmentation
from soka_tf.data.service import Address
from soka_tf.errors import UserError
from soka_tf.kinds import (
    Count,
    CountOrZero,
    Flag,
    Path,
    Seed,
    check_fields,
    one_of,
    whole,
)
from soka_tf.networks.folding import EXPORT_PRECISIONS
from soka_tf.networks.precision import PRECISIONS
from soka_tf.tasks import TargetNames, Task, get_targets

SUPERVISIONS = ("teachers", "labels")
_LARGEST_IMAGE = 65536  # pixels of a side


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
      validation_images: how many of them, in whole batches, at most.
      movement_every_steps: steps between two measurements of who moves; 0 for none.
      conflict_every_steps: steps between two measurements of the cosines between the
        pulls of the tasks, and of L_A, at the representation, which a row of
        metrics.csv then has, too; 0 for none.
      panel_every_steps: steps between two panels; 0 for one at the end.
      panel_images: validation images on a panel.
      evaluation_batch_size: images of an evaluation step.
      export: whether a SavedModel is written at the end.
      export_precision: of its computations, see `serving.saved_model`.
    """

    tasks: TargetNames
    image_size: Annotated[int, whole(1, _LARGEST_IMAGE)]
    batch_size: Count
    max_steps: Count
    seed: Seed = 0
    antialias: Flag = False
    precision: Annotated[str, one_of(PRECISIONS)] = "float32"
    jit_compile: Flag = False
    supervision: Annotated[str, one_of(SUPERVISIONS)] = "teachers"
    augmentation: Augmentation = "none"
    teacher_cache: Flag = False
    teacher_cache_dir: Path = None
    data_service: Address = None
    log_every_steps: Count = 100
    checkpoint_every_steps: Count = 1000
    keep_checkpoints: Count = 3
    validate_every_steps: CountOrZero = 5000
    validation_images: Count = 64
    movement_every_steps: CountOrZero = 1000
    conflict_every_steps: CountOrZero = 0
    panel_every_steps: CountOrZero = 5000
    panel_images: Count = 6
    evaluation_batch_size: Count = 16
    export: Flag = True
    export_precision: Annotated[str, one_of(EXPORT_PRECISIONS)] = "float32"

    def __post_init__(self):
        check_fields(self, "run.")
        check_augmentation(self.augmentation, self.teacher_cache)
        self._check_exclusions()

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
    def targets(self) -> Tuple[Task, ...]:
        """The rows of the student's tasks."""
        return get_targets(self.tasks)

    @property
    def task_names(self) -> List[str]:
        """The data set's names of the student's tasks."""
        return [task.name for task in self.targets]
