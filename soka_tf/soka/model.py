"""The model that `fit` trains: its stages, and the step of each.

Section 3.4 of the paper, Steps 1 to 6; the phases themselves are in
`soka_tf.soka.joint` and `soka_tf.soka.phases`. Who moves in which phase:

| phase         | encoder | decoders | amalgamation | task weights | discriminators |
|---------------|---------|----------|--------------|--------------|----------------|
| joint         | moves   | move     | if bound     | if bound     |                |
| competition   |         | move     |              |              | move           |
| collaboration | moves   |          | moves        |              |                |
| weighting     |         |          |              | move         |                |

The amalgamation's adapters, where bound, move whenever the encoder moves by L_A. In the
tail, where bound, there is the competition alone.

What stands still does so to the last bit, moving statistics of BatchNorm included.
What it normalises with, and whether competition and collaboration see the same images,
the paper leaves open, as much else: docs/deviations.md.
"""

import contextlib
import functools
import itertools
from typing import (
    Any,
    ContextManager,
    Dict,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
)

import tensorflow as tf

from soka_tf.data.targets import Targets
from soka_tf.networks.replicas import mean_over_replicas, replica_count
from soka_tf.soka import joint, phases
from soka_tf.soka.adversarial import Adversary
from soka_tf.soka.amalgamation import Amalgamation
from soka_tf.soka.balancing.rule import Rule
from soka_tf.soka.ledger import PHASE_OF_PLAYER, PHASES, TRANSFER, Ledger, Page
from soka_tf.soka.objective import Objective
from soka_tf.soka.players import Players
from soka_tf.soka.schedule import STAGES, Schedule
from soka_tf.soka.step import Step
from soka_tf.soka.student import Student
from soka_tf.soka.variants import AmalgamationLosses
from soka_tf.teachers.pool import TeacherPool

__all__ = ["STAGES", "Mode", "SokaModel"]


class Mode(NamedTuple):
    """What tells the graphs of two steps apart, see `SokaModel.make_step`."""

    stage: str
    batch_statistics: bool = True
    measures_movement: bool = False
    measures_conflict: bool = False


class SokaModel(tf.keras.Model):
    """Trains a `Student` from frozen teachers; `fit` it on batches {"rgb": images}."""

    def __init__(
        self,
        student: Student,
        teachers: TeacherPool,
        balancing: Rule,
        amalgamation: Optional[Amalgamation] = None,
        adversary: Optional[Adversary] = None,
        schedule: Optional[Schedule] = None,
        objective: Optional[Objective] = None,
    ):
        """Wires the players.

        Args:
          student: Omega and the Theta_i.
          teachers: the frozen teachers of the student's tasks, and auxiliary ones.
          balancing: the rule that has the task weights omega.
          amalgamation: MIA; None trains by soft targets alone.
          adversary: the CGAN term; None for none.
          schedule: which phases a step has, and what they see; None for the defaults.
          objective: what encoder and decoders minimise; None for the defaults.

        Raises:
          ValueError: if teachers and student have different tasks, or two things shall
            weight the encoder's losses.
        """
        super().__init__(name="soka")
        schedule, objective = schedule or Schedule(), objective or Objective()
        if tuple(teachers.targets) != student.tasks:
            raise ValueError(
                "Teachers and student must have the same tasks in the same order. "
                f"Received: {list(teachers.targets)} and {list(student.tasks)}."
            )
        layers = amalgamation.layer_names if amalgamation is not None else None
        objective.check_rule(balancing, len(student.tasks), layers)
        self.student = student
        self.teachers = teachers
        self.balancing = balancing
        self.amalgamation = amalgamation
        self.adversary = adversary
        # A dataclass hides its content from Keras; the discriminators must be seen.
        self.discriminators = dict(adversary.discriminators) if adversary else {}
        self.schedule = schedule
        self.objective = objective
        self.movement_every_steps = 0
        self.conflict_every_steps = 0
        self.step = tf.Variable(
            0,
            dtype=tf.int64,
            trainable=False,
            name="step",
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        self.players = Players(student, balancing, amalgamation, adversary, objective)
        self.ledger = Ledger(student.tasks, adversary is not None, balancing, objective)
        self._step_on_host = 0
        self._compiled_steps: Dict[Mode, Any] = {}

    @property
    def batches_per_step(self) -> int:
        """How many batches' images the batch of a step holds."""
        return 2 if self.schedule.new_batch_in_collaboration else 1

    @property
    def joint_amalgamation(self) -> bool:
        """Whether L_A takes part in the joint start."""
        return self.schedule.joint_amalgamation and self.amalgamation is not None

    @property
    def has_adapter(self) -> bool:
        """Whether the student's activations are adapted for L_A."""
        return self.amalgamation is not None and bool(self.amalgamation.adapters)

    @property
    def task_weights(self) -> tf.Tensor:
        """The decoders' weights, omega of Eq. 6, float32 [n].

        Where L_A is one of the tasks, those of the others, scaled to begin at 1 / n.
        """
        weights, count = self.balancing.task_weights, len(self.tasks)
        if not self.objective.transfer_as_task:
            return weights
        return tf.convert_to_tensor(weights)[:count] * ((count + 1) / count)

    @property
    def logs_shares(self) -> bool:
        """Whether the encoder's losses have factors of their own."""
        return self.balancing.shares_encoder or self.objective.transfer_as_task

    @property
    def conflict_names(self) -> Sequence[str]:
        """The cosines measured every `conflict_every_steps`, a name a pair."""
        if not self.conflict_every_steps:
            return []
        names = list(self.tasks)
        if "representation" in self.amalgamated_layers:
            names.append("transfer")
        pairs = itertools.combinations(names, 2)
        return [f"cosine/{first}:{second}" for first, second in pairs]

    @property
    def tasks(self) -> Sequence[str]:
        """Task names, in the order of the task weights."""
        return self.student.tasks

    @property
    def amalgamated_layers(self) -> Mapping[str, Sequence[str]]:
        """Layers that MIA amalgamates -> those of the teachers; none without it."""
        return self.amalgamation.teacher_layers if self.amalgamation is not None else {}

    def teacher_layers(self, stage: str) -> Mapping[str, Sequence[str]]:
        """Those of `amalgamated_layers` that a step of the stage needs."""
        needed = (
            stage.startswith("cycle") or stage == "joint" and (self.joint_amalgamation)
        )
        return self.amalgamated_layers if needed else {}

    def amalgamated(
        self, targets: Targets, features: Mapping[str, tf.Tensor]
    ) -> AmalgamationLosses:
        """L_A and the amalgamation's own loss, of the teachers that this step keeps."""
        presence = self.amalgamation.presence(features, self.step)
        return self.amalgamation(targets.features, features, presence)

    def named(self, prefix: str, values: Any) -> Dict[str, tf.Tensor]:
        """Returns "prefix/task" -> value, of a list or a tensor [n] of the tasks.

        Of n + 1, the last is L_A's: "prefix/transfer".
        """
        if not isinstance(values, list):
            values = tf.unstack(tf.convert_to_tensor(values))
        names = (*self.tasks, TRANSFER)
        return {f"{prefix}/{name}": value for name, value in zip(names, values)}

    def compile(
        self,
        optimizers: Mapping[str, tf.keras.optimizers.Optimizer],
        jit_compile: bool = False,
        **kwargs,
    ) -> None:
        """Takes the optimizers of the players.

        Args:
          optimizers: of "encoder", "decoders", and, where there are such players,
            "task_weights", "amalgamation", "adapter" and "discriminators". Where the
            networks compute in float16, those that are no LossScaleOptimizer become
            one.
          jit_compile: whether XLA compiles every stage's step, for one replica.
          **kwargs: of `tf.keras.Model.compile`, such as `run_eagerly`.
        """
        self.players.compile(optimizers, self.distribute_strategy)
        super().compile(
            optimizer=self.players.optimizers["encoder"],
            jit_compile=jit_compile,
            **kwargs,
        )
        # Where Keras finds their slots.
        self.optimizers = self.players.optimizers
        self._compiled_steps = {}

    def checkpoint_items(self) -> Dict[str, Any]:
        """What a run needs to go on: all players, their optimizers, the step."""
        return {
            "student": self.student,
            "gradnorm": self.balancing,  # the name that checkpoints know it by
            "amalgamation": self.amalgamation,
            "discriminators": self.discriminators,
            "optimizers": self.optimizers,
            "step": self.step,
        }

    # ------------------------------------------------------- stages, chosen in Python

    def stage_at(self, step: int) -> str:
        """The stage of a step, one of `STAGES`."""
        tail_step = self.schedule.tail_step
        in_tail = tail_step is not None and step >= tail_step
        if step < self.schedule.joint_steps and not in_tail:
            return "joint"
        adversarial = self.adversary is not None and step >= self.adversary.start_step
        return ("tail" if in_tail else "cycle") + "_gan" * adversarial

    def phase_of(self, term: str, step: int) -> str:
        """The phase in which a step computes a term, or moves a player, of a task."""
        phases = {**PHASES, **PHASE_OF_PLAYER}
        phase = phases[term if term in phases else term.rsplit("/", 1)[0]]
        stage = self.stage_at(step)
        if stage.startswith("tail"):
            return "competition"
        if stage != "joint":
            return phase
        weighs = self.schedule.joint_weighting and phase == "weighting"
        return phase if weighs else "joint"

    def fit(self, *args, **kwargs):
        """Keras' `fit`, from the step that `self.step` holds."""
        self._step_on_host = int(self.step.numpy())
        self.ledger.forget_not_finite()
        return super().fit(*args, **kwargs)

    def make_train_function(self, force: bool = False):
        """One traced function a stage: optimizers cannot be applied in a tf.cond."""
        if self.train_function is None or force:
            self._compiled_steps = {}
            self.train_function = self._run_step
        return self.train_function

    def _run_step(self, iterator) -> Dict[str, tf.Tensor]:
        step, every = self._step_on_host, self.movement_every_steps
        settle_step = self.schedule.settle_step
        mode = Mode(
            self.stage_at(step),
            settle_step is None or step < settle_step,
            bool(every) and step % every == 0,
            self._measures_conflict(step),
        )
        if mode not in self._compiled_steps:
            self._compiled_steps[mode] = self.make_step(*mode)
        logs = self._compiled_steps[mode](iterator)
        self._step_on_host += 1
        return logs

    def _measures_conflict(self, step: int) -> bool:
        """Whether the step does, whose number from 1 is a multiple of the interval."""
        every = self.conflict_every_steps
        in_tail = self.stage_at(step).startswith("tail")  # no task pulls at the encoder
        return bool(every) and (step + 1) % every == 0 and not in_tail

    def make_step(
        self,
        stage: str,
        batch_statistics: bool = True,
        measures_movement: bool = False,
        measures_conflict: bool = False,
    ):
        """Returns the step of one stage: iterator over batches -> logs.

        Args:
          stage: one of `STAGES`.
          batch_statistics: whether BatchNorm normalises with those of the batch.
          measures_movement: whether the logs say how far everybody moved.
          measures_conflict: whether the logs have the cosines of the tasks' pulls.
        """
        # A stage is a graph, not a condition.
        mode = Mode(stage, batch_statistics, measures_movement, measures_conflict)
        train = functools.partial(self.train_step, mode=mode)
        if self.jit_compile and not self.run_eagerly:
            # The batch is fetched outside: XLA compiles no iterator.
            train = tf.function(train, jit_compile=True, autograph=False)

        def step(iterator):
            logs = self.distribute_strategy.run(train, (next(iterator),))
            local = self.distribute_strategy.experimental_local_results
            return {name: local(value)[0] for name, value in logs.items()}

        # Autograph has nothing to convert: every choice is made in Python.
        return step if self.run_eagerly else tf.function(step, autograph=False)

    def train_step(
        self, data: Mapping[str, tf.Tensor], mode: Mode
    ) -> Dict[str, tf.Tensor]:
        """One step.

        Args:
          data: {"rgb": float32 [B, H, W, 3] in [-1, 1]} and, where the teachers need
            not be run, "targets": a `Targets` of theirs, or of the
            ground truth. With `new_batch_in_collaboration` [2 * B, ...]: the
            images of even number are those of the competition and of the joint
            start, which leaves the others unused.
          mode: the stage and how it is to be run.

        Returns:
          Means since the last reset, by log name; where they are measured, the
          players' movement in every phase, and the cosines of `conflict_names`.
        """
        step = Step(
            mode.stage,
            training=mode.batch_statistics,
            frozen_training=mode.batch_statistics
            and self.schedule.frozen_statistics == "batch",
            page=Page(
                self.players.variables if mode.measures_movement else None,
                self.around_phase,
            ),
            measures_conflict=mode.measures_conflict,
        )
        taught = [
            (batch["rgb"], self._teach(batch, mode.stage))
            for batch in self._batches(data, mode.stage)
        ]
        if mode.stage == "joint":
            values = joint.joint(self, step, taught[0])
        elif mode.stage.startswith("tail"):
            values = phases.tail(self, step, taught[0])
        else:
            values = phases.cycle(self, step, taught[0], taught[-1])
        if replica_count() > 1:
            means = tf.unstack(mean_over_replicas(tf.stack(list(values.values()))))
            values = dict(zip(values, means))
        logs = self.ledger.enter(step.page, values, self.step)
        self.step.assign_add(1)
        return logs

    @property
    def metrics(self) -> List[tf.keras.metrics.Metric]:
        """The running means, reset by whoever reports them."""
        return list(self.ledger.means.values())

    def around_phase(self, phase: str) -> ContextManager:
        """Entered around every phase while it is traced; for whoever overrides it.

        Args:
          phase: "joint", "competition", "collaboration" or "weighting".
        """
        return contextlib.nullcontext()

    def _batches(self, data: Mapping[str, Any], stage: str) -> List[Mapping[str, Any]]:
        """The batch of the competition, and that of the collaboration if another."""
        if not self.schedule.new_batch_in_collaboration:
            return [data]
        # Every other image, so that replicas, whose shares of a batch are neighbours,
        # see together in each phase what a single one would see, in its order.
        return [
            tf.nest.map_structure(lambda values, i=i: values[i::2], data)
            for i in range(2 if stage.startswith("cycle") else 1)
        ]

    def _teach(self, data: Mapping[str, Any], stage: str) -> Targets:
        """What the teachers say: given with the batch, or found out now."""
        if "targets" in data:
            return data["targets"]
        return self.teachers(data["rgb"], self.teacher_layers(stage))
