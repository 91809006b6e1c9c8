"""The teachers of one run: those of the targets, and auxiliary ones."""

import functools
from typing import (
    Annotated,
    Callable,
    Dict,
    Iterable,
    List,
    Mapping,
    Optional,
    Sequence,
    Union,
)

import tensorflow as tf

from soka_tf.data.targets import Targets
from soka_tf.errors import UserError
from soka_tf.kinds import checked, one_of
from soka_tf.networks.folding import PRECISIONS
from soka_tf.teachers.input_functions import INPUTS
from soka_tf.teachers.teacher import Teacher

INPUTS_SHOWN = ("training", "released")
InputsShown = Annotated[str, one_of(INPUTS_SHOWN)]
Precision = Annotated[str, one_of(PRECISIONS)]
# Layers that every teacher has; or a layer of the student -> that of each teacher, in
# the pool's order, None where it lends nothing. Teachers without layers lend none.
Wanted = Union[Sequence[str], Mapping[str, Sequence[Optional[str]]]]


class TeacherPool:
    """The frozen teachers of a run.

    A plain object on purpose: what hangs on a Keras model is saved, counted and
    optimised with it, and teachers must never be.
    """

    def __init__(
        self,
        targets: Mapping[str, Teacher],
        auxiliaries: Optional[Mapping[str, Teacher]] = None,
        inputs: str = "training",
        precision: str = "float32",
    ):
        """Collects the teachers.

        Args:
          targets: task name -> its teacher, in the order of the student's tasks; any
            `Teacher`, of a file or of your own class.
          auxiliaries: task name -> a teacher whose features alone are used.
          inputs: what the teachers are shown: "training", the images as they are; or
            "released", what Taskonomy's demonstration and similarity code show each
            task's network (`Task.released_input`), mostly images of low saturation.
          precision: "float32", the teachers as they are; or "bfloat16", what
            `Teacher.folded` makes of them: copies with weights rounded to bfloat16 and
            BatchNorm folded in.

        Raises:
          UserError: if one is no `Teacher`, a target's has no prediction, or `inputs`
            or `precision` is unknown.
        """
        checked("load_pool.inputs", InputsShown, inputs)
        checked("load_pool.precision", Precision, precision)
        self.inputs = inputs
        self.precision = precision
        self.targets = dict(targets)
        self.auxiliaries = dict(auxiliaries or {})
        for name, teacher in {**self.targets, **self.auxiliaries}.items():
            if not isinstance(teacher, Teacher):
                raise UserError(
                    f"The teacher of {name!r} must be a soka_tf.teachers.Teacher: "
                    f"wrap it in a subclass. Received: {type(teacher).__name__}."
                )
            if name in self.targets and not teacher.has_prediction:
                raise UserError(
                    f"The teacher of {name!r} predicts no image: it can be an "
                    "auxiliary, not the teacher of a target."
                )

        self._running = {**self.targets, **self.auxiliaries}
        if precision != "float32":
            self._running = {k: t.folded(precision) for k, t in self._running.items()}

    @property
    def teachers(self) -> List[Teacher]:
        """All teachers, targets first."""
        return [*self.targets.values(), *self.auxiliaries.values()]

    def count_parameters(self) -> int:
        """Scalars of the targets' teachers, moving statistics left out."""
        return sum(teacher.count_parameters() for teacher in self.targets.values())

    def count_smallest(self) -> int:
        """Scalars of the smallest of the targets' teachers."""
        return min(teacher.count_parameters() for teacher in self.targets.values())

    def __call__(
        self, images: tf.Tensor, layers: Wanted = ("block3", "representation")
    ) -> Targets:
        """Runs every teacher once.

        Args:
          images: float32 [B, H, W, 3] in [-1, 1].
          layers: the activations wanted; with none, auxiliaries are not run.
        """
        lent = self.layers_of_each(layers)
        outputs = {name: self.run(name, images, lent[name].values()) for name in lent}
        maps = {name: outputs[name]["prediction"] for name in self.targets}
        features = {
            layer: [outputs[k][own[layer]] for k, own in lent.items() if layer in own]
            for layer in layers
        }
        return Targets(maps, features)

    @property
    def answers(self) -> Dict[str, Callable[[tf.Tensor], Dict[str, tf.Tensor]]]:
        """Target -> `run` of its teacher: what the student is measured against."""
        return {name: functools.partial(self.run, name) for name in self.targets}

    def layers_of_each(self, layers: Wanted) -> Dict[str, Dict[str, str]]:
        """Task -> layer wanted -> its name in that teacher, for all that are to run."""
        running = {**self.targets, **(self.auxiliaries if layers else {})}
        if not isinstance(layers, Mapping):
            return {
                name: {layer: layer for layer in layers if teacher.layers}
                for name, teacher in running.items()
            }
        return {
            name: {k: own[i] for k, own in layers.items() if own[i] is not None}
            for i, name in enumerate(running)
        }

    def run(
        self, name: str, images: tf.Tensor, layers: Optional[Iterable[str]] = None
    ) -> Dict[str, tf.Tensor]:
        """Runs the teacher of a task.

        Args:
          name: of the task.
          images: float32 [B, H, W, 3] in [-1, 1].
          layers: the teacher's own, see `Teacher`.

        Returns:
          What the teacher does, a target's prediction in the network range of its task.
        """
        teacher = self._running[name]
        wanted = None if layers is None else tuple(dict.fromkeys(layers))
        outputs = teacher(shown_images(teacher, images, self.inputs), wanted)
        if name in self.targets:
            prediction = teacher.in_student_range(outputs["prediction"])
            outputs = {**outputs, "prediction": prediction}
        return outputs


def shown_images(teacher: Teacher, images: tf.Tensor, inputs: str) -> tf.Tensor:
    """Turns images into what a teacher is called on.

    Args:
      teacher: the teacher.
      images: float32 [B, H, W, 3] in [-1, 1].
      inputs: "training" or "released", see `TeacherPool`.
    """
    # Lightness the teacher takes from the images itself.
    shown = teacher.task.released_input
    if inputs == "released" and shown != "light":
        images = INPUTS[shown](images)
    return images
