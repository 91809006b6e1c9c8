"""The training cycle: joint start, then competition, collaboration, weighting.

Section 3.4 of the paper, Steps 1 to 6. Who moves in which phase:

| phase         | encoder | decoders | amalgamation | task weights | discriminators |
|---------------|---------|----------|--------------|--------------|----------------|
| joint         | moves   | move     | if bound     | if bound     |                |
| competition   |         | move     |              |              | move           |
| collaboration | moves   |          | moves        |              |                |
| weighting     |         |          |              | move         |                |

What stands still does so to the last bit, moving statistics of BatchNorm included.
What it normalises with, and whether competition and collaboration see the same images,
the paper leaves open, as much else: docs/deviations.md.
"""

import contextlib
import functools
from typing import (
    Any,
    Dict,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

import tensorflow as tf

from soka_tf.networks.batch_norm import apply_collected, statistics
from soka_tf.networks.discriminator import Discriminator
from soka_tf.networks.precision import computes_in_float16
from soka_tf.networks.replicas import mean_over_replicas, replica_count
from soka_tf.soka.adversarial import discriminator_loss, generator_loss, instance_noise
from soka_tf.soka.amalgamation import Amalgamation
from soka_tf.soka.distillation import KINDS, soft_target_losses
from soka_tf.soka.gradnorm import GradNorm
from soka_tf.soka.student import Student
from soka_tf.teachers.pool import TeacherOutputs, TeacherPool

STAGES = ("joint", "cycle", "cycle_gan")
FROZEN_STATISTICS = ("batch", "moving")
# Terms in the order in which a step computes them -> their phase of a cycle. All are
# logged but the competition's losses, those the decoders are moved by.
PHASES = {
    "loss/competition": "competition",
    "loss/generator": "competition",
    "loss/discriminator": "competition",
    "loss/soft": "collaboration",
    "gradient_norm": "collaboration",
    "loss/transfer": "collaboration",
    "loss/amalgamation": "collaboration",
    "loss/gradnorm": "weighting",
    "task_weight": "weighting",
}
Tensors = List[tf.Tensor]
Taught = Tuple[tf.Tensor, TeacherOutputs]  # images and what the teachers say of them


class Adversary(NamedTuple):
    """The CGAN term: one discriminator a task and how it enters (supplement, 1).

    Attributes:
      discriminators: task -> its discriminator.
      start_step: the first step of the stage "cycle_gan".
      weight: of the adversarial loss; the soft target's is 1 - weight.
      noise: task -> standard deviation of the instance noise at step 0.
      weight_decay: L2 coefficient of the discriminators, ten times the student's.
    """

    discriminators: Dict[str, Discriminator]
    start_step: int = 25000
    weight: float = 0.004
    noise: Mapping[str, float] = {}
    weight_decay: float = 1e-5


class SokaModel(tf.keras.Model):
    """Trains a `Student` from frozen teachers; `fit` it on batches {"rgb": images}.

    Each phase has a GradientTape of its own. One pass of the teachers and one of the
    student's encoder serve all three phases of a cycle: the competition phase
    works on the representation as a constant; the collaboration phase needs only
    d loss / d representation of every task, pulled through the encoder's tape; the
    same derivatives, pulled through the last shared layer alone, give the
    weighting phase its gradient norms. Where the competition shall see the encoder
    otherwise (other images, other statistics), it runs it once more, for itself.
    """

    def __init__(
        self,
        student: Student,
        teachers: TeacherPool,
        gradnorm: GradNorm,
        amalgamation: Optional[Amalgamation] = None,
        adversary: Optional[Adversary] = None,
        joint_steps: int = 1000,
        joint_amalgamation: bool = True,
        joint_weighting: bool = False,
        initial_losses_step: int = 10,
        soft_weight: float = 0.05,
        soft_loss: str = "l1",
        weighted_collaboration: bool = False,
        train_compress: bool = True,
        settle_step: Optional[int] = None,
        weight_decay: float = 0.0,
        seed: int = 0,
        winograd: bool = True,
        new_batch_in_collaboration: bool = False,
        frozen_statistics: str = "batch",
        name: str = "soka",
    ):
        """Wires the players.

        Args:
          student: Omega and the Theta_i.
          teachers: the frozen teachers of the student's tasks, and auxiliary ones.
          gradnorm: the task weights omega.
          amalgamation: MIA; None trains by soft targets alone.
          adversary: the CGAN term; None for none.
          joint_steps: length of the joint start, Step 2 (paper: 1000).
          joint_amalgamation: whether L_A takes part in the joint start.
          joint_weighting: whether every joint step has a weighting phase, too, from
            the step that took L_i(0) on: GradNorm as in its own paper.
          initial_losses_step: joint step at which L_i(0) of GradNorm is taken.
          soft_weight: alpha of Eq. 8, in front of the soft-target losses (0.05).
          soft_loss: "l2" or "l1", see `soka_tf.soka.distillation`.
          weighted_collaboration: whether omega_i multiplies L_i in Eq. 8; as printed
            it does not.
          train_compress: whether the encoder's last layer, compress1, is trained.
          settle_step: from this step on BatchNorm's moving statistics stand still and
            are used in place of the batch's, by student and discriminators; None
            for never. The student then meets images as it will in use.
          weight_decay: L2 coefficient added to the loss of whoever moves; 0 where
            the optimizers decay the weights themselves.
          seed: of the instance noise.
          winograd: whether, on CPUs, the decoders' second pass of a cycle computes
            large convolutions with fewer multiplications; equal up to rounding.
          new_batch_in_collaboration: whether collaboration and weighting see other
            images than the competition of the same cycle. A step's batch then holds
            the images of two, see `train_step`.
          frozen_statistics: with which statistics BatchNorm normalises in a part that
            rests while another one moves, "batch" or "moving".
          name: the Keras name.
        """
        super().__init__(name=name)
        if tuple(teachers.targets) != student.tasks:
            raise ValueError(
                "Teachers and student must have the same tasks in the same order. "
                f"Received: {list(teachers.targets)} and {list(student.tasks)}."
            )
        if soft_loss not in KINDS:
            raise ValueError(
                f"soft_loss must be one of {KINDS}. Received: {soft_loss!r}."
            )
        if frozen_statistics not in FROZEN_STATISTICS:
            raise ValueError(
                f"frozen_statistics must be one of {FROZEN_STATISTICS}. "
                f"Received: {frozen_statistics!r}."
            )
        self.student = student
        self.teachers = teachers
        self.gradnorm = gradnorm
        self.amalgamation = amalgamation
        self.adversary = adversary
        # A NamedTuple hides its content from Keras; the discriminators must be seen.
        self.discriminators = dict(adversary.discriminators) if adversary else {}
        self.joint_steps = joint_steps
        self.joint_amalgamation = joint_amalgamation and amalgamation is not None
        self.joint_weighting = joint_weighting
        self.initial_losses_step = initial_losses_step
        self.soft_weight = soft_weight
        self.soft_loss = soft_loss
        self.weighted_collaboration = weighted_collaboration
        self.train_compress = train_compress
        self.settle_step = settle_step
        self.weight_decay = weight_decay
        self.seed = seed
        self.new_batch_in_collaboration = new_batch_in_collaboration
        self.frozen_statistics = frozen_statistics
        self.movement_every_steps = 0
        # A GPU's own library knows this algorithm, too, and chooses by itself.
        self.winograd = winograd and not tf.config.list_physical_devices("GPU")
        self.step = tf.Variable(
            0,
            dtype=tf.int64,
            trainable=False,
            name="step",
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        self._means = {name: tf.keras.metrics.Mean(name) for name in self._log_names()}
        self._terms = self._term_names()
        self._not_finite_since = tf.Variable(
            [-1] * len(self._terms),
            dtype=tf.int64,
            trainable=False,
            name="not_finite_since",
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        self._stage = "joint"
        self._batch_statistics = True
        self._measures_movement = False
        self._step_on_host = 0
        self._compiled_steps: Dict[Any, Any] = {}

    # ------------------------------------------------------------------ players

    @property
    def batches_per_step(self) -> int:
        """How many batches' images the batch of a step holds."""
        return 2 if self.new_batch_in_collaboration else 1

    @property
    def tasks(self) -> Sequence[str]:
        """Task names, in the order of the task weights."""
        return self.student.tasks

    @property
    def players(self) -> Dict[str, List[tf.Variable]]:
        """Every variable of the game, by the one player it belongs to."""
        players = {"encoder": list(self.student.encoder.variables)}
        for task in self.tasks:
            players[f"decoder/{task}"] = list(self.student.decoders[task].variables)
        if self.amalgamation is not None:
            players["amalgamation"] = list(self.amalgamation.variables)
        players["task_weights"] = [self.gradnorm.task_weights]
        for task, discriminator in self.discriminators.items():
            players[f"discriminator/{task}"] = list(discriminator.variables)
        return players

    @property
    def encoder_variables(self) -> List[tf.Variable]:
        """What the encoder's optimizer moves: trunk first, then compress1."""
        encoder = self.student.encoder
        trunk = encoder.trunk.trainable_variables
        return trunk + (
            encoder.compress.trainable_variables if self.train_compress else []
        )

    @property
    def decoder_variables(self) -> List[tf.Variable]:
        """What the decoders' optimizer moves, task by task."""
        return [v for d in self.student.ordered_decoders for v in d.trainable_variables]

    @property
    def discriminator_variables(self) -> List[tf.Variable]:
        """What the discriminators' optimizer moves, task by task."""
        return [
            v
            for task in self.tasks
            if task in self.discriminators
            for v in self.discriminators[task].trainable_variables
        ]

    def compile(
        self, optimizers: Mapping[str, tf.keras.optimizers.Optimizer], **kwargs
    ) -> None:
        """Takes the optimizers of the players.

        Args:
          optimizers: of "encoder", "decoders", "task_weights", and, where there are
            such players, "amalgamation" and "discriminators". Where the networks
            compute in float16, those that are no LossScaleOptimizer become one.
          **kwargs: of `tf.keras.Model.compile`, such as `run_eagerly`.
        """
        wanted = self.optimized_variables
        missing = sorted(set(wanted) - set(optimizers))
        if missing:
            raise ValueError(
                f"compile needs an optimizer for each of {sorted(wanted)}. "
                f"Missing: {missing}."
            )
        self.scales_losses = computes_in_float16(
            self.student, *self.discriminators.values()
        )
        optimizers = {player: optimizers[player] for player in wanted}
        with self.distribute_strategy.scope():
            for player, variables in wanted.items():
                _create_slots(_unscaled(optimizers[player]), variables)
            if self.scales_losses:
                optimizers = {p: _with_loss_scale(o) for p, o in optimizers.items()}
        super().compile(optimizer=optimizers["encoder"], **kwargs)
        self.optimizers = optimizers
        self._compiled_steps = {}

    @property
    def optimized_variables(self) -> Dict[str, List[tf.Variable]]:
        """Optimizer's name -> the variables it moves."""
        variables = {
            "encoder": self.encoder_variables,
            "decoders": self.decoder_variables,
            "task_weights": [self.gradnorm.task_weights],
        }
        if self.amalgamation is not None:
            variables["amalgamation"] = self.amalgamation.trainable_variables
        if self.discriminators:
            variables["discriminators"] = self.discriminator_variables
        return variables

    def checkpoint_items(self) -> Dict[str, Any]:
        """What a run needs to go on: all players, their optimizers, the step."""
        return {
            "student": self.student,
            "gradnorm": self.gradnorm,
            "amalgamation": self.amalgamation,
            "discriminators": self.discriminators,
            "optimizers": self.optimizers,
            "step": self.step,
        }

    # ------------------------------------------------------- stages, chosen in Python

    def stage_at(self, step: int) -> str:
        """The stage of a step: "joint", "cycle" or "cycle_gan"."""
        if step < self.joint_steps:
            return "joint"
        if self.adversary is not None and step >= self.adversary.start_step:
            return "cycle_gan"
        return "cycle"

    def phase_of(self, term: str, step: int) -> str:
        """The phase in which a step computes a term of `first_not_finite`."""
        phase = PHASES[term if term in PHASES else term.rsplit("/", 1)[0]]
        if self.stage_at(step) != "joint":
            return phase
        return phase if self.joint_weighting and phase == "weighting" else "joint"

    def first_not_finite(self) -> Dict[str, int]:
        """What has been NaN or infinite in this `fit`, for whoever reports it.

        Returns:
          Term, with its task where it has one, such as "loss/soft/normal" -> the step,
          counted from 0, that first computed such a value; the first step first, and
          within it what was computed first.
        """
        since = zip(self._terms, self._not_finite_since.numpy())
        found = {term: int(step) for term, step in since if step >= 0}
        return dict(sorted(found.items(), key=lambda item: item[1]))

    def fit(self, *args, **kwargs):
        """Keras' `fit`, from the step that `self.step` holds."""
        self._step_on_host = int(self.step.numpy())
        self._not_finite_since.assign([-1] * len(self._terms))
        return super().fit(*args, **kwargs)

    def make_train_function(self, force: bool = False):
        """One traced function a stage: optimizers cannot be applied in a tf.cond."""
        if self.train_function is None or force:
            self._compiled_steps = {}
            self.train_function = self._run_step
        return self.train_function

    def _run_step(self, iterator) -> Dict[str, tf.Tensor]:
        step, every = self._step_on_host, self.movement_every_steps
        key = (
            self.stage_at(step),
            self.settle_step is None or step < self.settle_step,
            bool(every) and step % every == 0,
        )
        if key not in self._compiled_steps:
            self._compiled_steps[key] = self.make_step(*key)
        logs = self._compiled_steps[key](iterator)
        self._step_on_host += 1
        return logs

    def make_step(
        self,
        stage: str,
        batch_statistics: bool = True,
        measures_movement: bool = False,
    ):
        """Returns the step of one stage: iterator over batches -> logs.

        Args:
          stage: one of `STAGES`.
          batch_statistics: whether BatchNorm normalises with those of the batch.
          measures_movement: whether the logs say how far everybody moved.
        """

        def step(iterator):
            # Read when the graph is traced: a stage is a graph, not a condition.
            self._stage = stage
            self._batch_statistics = batch_statistics
            self._measures_movement = measures_movement
            logs = self.distribute_strategy.run(self.train_step, (next(iterator),))
            local = self.distribute_strategy.experimental_local_results
            return {name: local(value)[0] for name, value in logs.items()}

        # Autograph has nothing to convert: every choice is made in Python.
        return step if self.run_eagerly else tf.function(step, autograph=False)

    def train_step(self, data: Mapping[str, tf.Tensor]) -> Dict[str, tf.Tensor]:
        """One step of the current stage.

        Args:
          data: {"rgb": float32 [B, H, W, 3] in [-1, 1]} and, where the teachers need
            not be run, "teachers": the fields of their `TeacherOutputs`, or those
            of the ground truth. With `new_batch_in_collaboration` [2 * B, ...]: the
            images of even number are those of the competition and of the joint
            start, which leaves the others unused.

        Returns:
          Means since the last reset, by log name, and the players' movement in
          every phase where it is measured.
        """
        # Every other image, so that replicas, whose shares of a batch are neighbours,
        # see together in each phase what a single one would see, in its order.
        batches = [data]
        if self.new_batch_in_collaboration:
            batches = [
                tf.nest.map_structure(lambda values, i=i: values[i::2], data)
                for i in range(2)
            ]
        if self._stage == "joint":
            batches = batches[:1]
        taught = [(batch["rgb"], self._teach(batch)) for batch in batches]
        self._movement: Dict[str, tf.Tensor] = {}
        self._overflow: Optional[tf.Tensor] = None
        if self._stage == "joint":
            values = self._joint_step(*taught[0])
        else:
            adversarial = self._stage == "cycle_gan"
            values = self._cycle(taught[0], taught[-1], adversarial)
        if replica_count() > 1:
            means = tf.unstack(mean_over_replicas(tf.stack(list(values.values()))))
            values = dict(zip(values, means))
        weights = self._leave_out_overflow(values)
        self._note_not_finite(values)
        self.step.assign_add(1)
        logs = {}
        for name in values:
            if name in self._means:
                mean = self._means[name]
                mean.update_state(values[name], weights.get(name))
                # Equal on all replicas; result() would ask them all, one by one.
                logs[name] = tf.math.divide_no_nan(mean.total, mean.count)
        return {**logs, **self._movement}

    @property
    def metrics(self) -> List[tf.keras.metrics.Metric]:
        """The running means, reset by whoever reports them."""
        return list(self._means.values())

    # ------------------------------------------------------------------ the steps

    def _teach(self, data: Mapping[str, Any]) -> TeacherOutputs:
        """What the teachers say: given with the batch, or found out now."""
        if "teachers" in data:
            return TeacherOutputs(**data["teachers"])
        joint = self._stage == "joint" and not self.joint_amalgamation
        return self.teachers(data["rgb"], () if joint else self._amalgamated_layers)

    def _joint_step(
        self, images: tf.Tensor, targets: TeacherOutputs
    ) -> Dict[str, tf.Tensor]:
        """Step 2: encoder and decoders together; then the task weights, if bound."""
        student = self.student
        with self._phase("joint"):
            with tf.GradientTape(persistent=True) as tape:
                features = student.encoder(images, training=self._batch_statistics)
                predictions = student.decode(
                    features["representation"], training=self._batch_statistics
                )
                each = self._each_soft_loss(predictions, targets)
                losses = tf.stack(each)
                total = tf.reduce_sum(self.gradnorm.task_weights * losses)
                if self.joint_amalgamation:
                    mia = self.amalgamation(targets.features, features)
                    # n omega_i: at equal weights that is Eq. 8, which has no omega.
                    share = self.soft_weight * len(self.tasks)
                    total = share * total + mia.transfer
                    own_scale = self._loss_scale("amalgamation")
                    own_loss = _scaled(mia.amalgamation, own_scale)
                learnt = self.joint_weighting and self.gradnorm.trainable_weights
                scale = self._loss_scale(
                    "encoder", "decoders", *["task_weights"] * learnt
                )
                total = _scaled(total, scale)
                # Of the stacked losses, each would be pulled through all decoders.
                each = [_scaled(loss, scale) for loss in each]
            variables = self.encoder_variables + self.decoder_variables
            gradients = tape.gradient(total, variables)
            if self.joint_weighting:
                shared = features["representation"]
                pulls = [tape.gradient(loss, shared) for loss in each]
                norms = self._gradient_norms(tape, shared, pulls, scale)
            count = len(self.encoder_variables)
            self._apply("encoder", gradients[:count], scale)
            self._apply("decoders", gradients[count:], scale)
            if self.joint_amalgamation:
                own = self.amalgamation.trainable_variables
                gradients = tape.gradient(own_loss, own)
                self._apply("amalgamation", gradients, own_scale)
        due = self.step >= self.initial_losses_step
        means = mean_over_replicas(losses)
        self.gradnorm.record_initial(means, due)
        values = self._named("loss/soft", losses)
        if self.joint_weighting:
            values.update(self._weigh(means, norms, scale))
        values.update(self._named("task_weight", self.gradnorm.task_weights))
        if self.joint_amalgamation:
            values["loss/transfer"] = mia.transfer
            values["loss/amalgamation"] = mia.amalgamation
        return values

    @property
    def _frozen_training(self) -> bool:
        """`training` of a network that rests while another one moves."""
        return self._batch_statistics and self.frozen_statistics == "batch"

    def _cycle(
        self, competing: Taught, collaborating: Taught, adversarial: bool
    ) -> Dict[str, tf.Tensor]:
        """Steps 3, 4 and 5, with one encoder pass where all see the same of it.

        Args:
          competing: images and targets of the competition.
          collaborating: those of the other phases, or the same object.
          adversarial: whether the CGAN term takes part.
        """
        images, targets = collaborating
        encoder = self.student.encoder
        with statistics(encoder, "collect") as encoder_statistics:
            with tf.GradientTape() as trunk_tape:
                features = dict(encoder.trunk(images, training=self._batch_statistics))
            with tf.GradientTape(persistent=True) as compress_tape:
                compress_tape.watch(features["block4"])
                representation = encoder.compress(
                    features["block4"], training=self._batch_statistics
                )
        features["representation"] = representation

        seen = representation
        same_statistics = self._frozen_training == self._batch_statistics
        if competing is not collaborating or not same_statistics:
            with statistics(encoder, "keep"):
                seen = encoder(competing[0], training=self._frozen_training)
            seen = seen["representation"]
        with self._phase("competition"):
            values = self._compete(competing[0], seen, competing[1], adversarial)

        # The encoder has not moved yet: its first pass is that of the next phases.
        with self._phase("collaboration"):
            apply_collected(encoder_statistics)
            # Norms that overflow lower the scale, too, if weights are learnt from them.
            adaptive = self.gradnorm.trainable_weights
            scale = self._loss_scale("encoder", *["task_weights"] * adaptive)
            losses, pulls = self._pulls(
                images, representation, targets, adversarial, scale
            )
            norms = self._gradient_norms(compress_tape, representation, pulls, scale)
            values.update(
                self._collaborate(
                    trunk_tape, compress_tape, features, targets, pulls, scale
                )
            )
        del compress_tape

        losses = mean_over_replicas(losses)
        self.gradnorm.record_initial(losses, tf.constant(True))
        values.update(self._weigh(losses, norms, scale))
        values.update(self._named("loss/soft", losses))
        values.update(self._named("task_weight", self.gradnorm.task_weights))
        return values

    def _weigh(
        self, losses: tf.Tensor, norms: tf.Tensor, scale: Optional[tf.Tensor]
    ) -> Dict[str, tf.Tensor]:
        """Step 5: the task weights minimise L_grad; everybody else rests.

        Args:
          losses: L_i, float32 [n], the same on every replica.
          norms: of `_norms`.
          scale: what the gradients were multiplied by that the norms are of, or None.
        """
        with self._phase("weighting"):
            loss = self.gradnorm.step(
                losses, norms, self.optimizers["task_weights"], replica_count()
            )
        if scale is not None:
            self._overflow = (scale > 1.0) & ~tf.reduce_all(tf.math.is_finite(norms))
        return {"loss/gradnorm": loss, **self._named("gradient_norm", norms)}

    def _compete(
        self,
        images: tf.Tensor,
        representation: tf.Tensor,
        targets: TeacherOutputs,
        adversarial: bool,
    ) -> Dict[str, tf.Tensor]:
        """Step 3: the decoders minimise their weighted losses; the encoder rests."""
        representation = tf.stop_gradient(representation)
        values: Dict[str, tf.Tensor] = {}
        with tf.GradientTape() as tape:
            predictions = self.student.decode(
                representation, training=self._batch_statistics
            )
            losses = self._soft_losses(predictions, targets)
            if adversarial:
                deceits = self._deceit_losses(images, predictions, noise=0)
                losses = self._with_deceit(losses, deceits)
                values.update(self._named("loss/generator", deceits))
            scale = self._loss_scale("decoders")
            total = _scaled(tf.reduce_sum(self.gradnorm.task_weights * losses), scale)
        values.update(self._named("loss/competition", losses))
        gradients = tape.gradient(total, self.decoder_variables)
        self._apply("decoders", gradients, scale)
        if adversarial:
            values.update(self._discriminate(images, predictions, targets))
        return values

    def _discriminate(
        self,
        images: tf.Tensor,
        predictions: Mapping[str, tf.Tensor],
        targets: TeacherOutputs,
    ) -> Dict[str, tf.Tensor]:
        """The discriminators' step, on the predictions the decoders competed with."""
        with tf.GradientTape() as tape:
            losses = []
            for i, task in enumerate(self.tasks):
                training = self._batch_statistics
                real = targets.predictions[task]
                real = self._judge(images, task, real, 100 + i, training)
                fake = tf.stop_gradient(predictions[task])
                fake = self._judge(images, task, fake, 200 + i, training)
                losses.append(discriminator_loss(real, fake))
            scale = self._loss_scale("discriminators")
            total = _scaled(tf.add_n(losses), scale)
        gradients = tape.gradient(total, self.discriminator_variables)
        self._apply("discriminators", gradients, scale)
        return self._named("loss/discriminator", losses)

    def _pulls(
        self,
        images: tf.Tensor,
        representation: tf.Tensor,
        targets: TeacherOutputs,
        adversarial: bool,
        scale: Optional[tf.Tensor],
    ):
        """L_i with the decoders as they stand, and d L_i / d representation, scaled.

        Returns:
          The soft-target losses, float32 [n], and n tensors like `representation`.
        """
        representation = tf.stop_gradient(representation)
        losses, pulls = [], []
        for i, task in enumerate(self.tasks):
            decoder = self.student.decoders[task]
            decode = decoder.with_fixed_kernels if self.winograd else decoder
            tape = tf.GradientTape(watch_accessed_variables=False)
            with statistics(decoder, "keep"), tape:
                tape.watch(representation)
                prediction = {
                    task: decode(representation, training=self._frozen_training)
                }
                soft = self._soft_losses(prediction, targets)
                loss = soft
                if adversarial:
                    deceit = self._deceit_losses(images, prediction, noise=300 + i)
                    loss = self._with_deceit(soft, deceit)
                loss = _scaled(loss, scale)
            losses.append(soft[0])
            pulls.append(tape.gradient(loss, representation))
        return tf.stack(losses), pulls

    def _gradient_norms(
        self,
        tape: tf.GradientTape,
        representation: tf.Tensor,
        pulls: Tensors,
        scale: Optional[tf.Tensor],
    ) -> tf.Tensor:
        """||grad_W L_i|| from the tasks' pulls on the representation; float32 [n]."""
        if self.gradnorm.layer == "representation":
            pulls = _unscale([tf.cast(p, tf.float32) for p in pulls], scale)
            squares = tf.stack([tf.reduce_sum(tf.square(p)) for p in pulls])
            # Every image is on one replica, whose loss is a share of the whole.
            return tf.sqrt(mean_over_replicas(squares) / replica_count())
        kernel = self.student.encoder.last_shared_kernel
        gradients = [
            tape.gradient(representation, kernel, output_gradients=pull)
            for pull in pulls
        ]
        return _norms(gradients, scale)

    def _collaborate(
        self,
        trunk_tape: tf.GradientTape,
        compress_tape: tf.GradientTape,
        features: Mapping[str, tf.Tensor],
        targets: TeacherOutputs,
        pulls: Tensors,
        scale: Optional[tf.Tensor],
    ) -> Dict[str, tf.Tensor]:
        """Step 4: the encoder minimises alpha * sum_i L_i + L_A (Eq. 8)."""
        shares = [self.soft_weight] * len(pulls)
        if self.weighted_collaboration:
            weights = tf.unstack(tf.convert_to_tensor(self.gradnorm.task_weights))
            shares = [self.soft_weight * len(pulls) * weight for weight in weights]
        total = tf.add_n([tf.cast(s, p.dtype) * p for s, p in zip(shares, pulls)])
        gradients = {"representation": total}
        values = {}
        if self.amalgamation is not None:
            values, transfer_gradients = self._amalgamate(features, targets, scale)
            for layer, gradient in transfer_gradients.items():
                gradients[layer] = gradients.get(layer, 0.0) + gradient

        encoder = self.student.encoder
        compress_variables = encoder.compress.trainable_variables
        pulled = compress_tape.gradient(
            features["representation"],
            [features["block4"], *compress_variables],
            output_gradients=gradients.pop("representation"),
        )
        gradients["block4"] = gradients.get("block4", 0.0) + pulled[0]
        encoder_gradients = trunk_tape.gradient(
            [features[layer] for layer in gradients],
            encoder.trunk.trainable_variables,
            output_gradients=list(gradients.values()),
        )
        if self.train_compress:
            encoder_gradients = encoder_gradients + pulled[1:]
        self._apply("encoder", encoder_gradients, scale)
        return values

    def _amalgamate(
        self,
        features: Mapping[str, tf.Tensor],
        targets: TeacherOutputs,
        scale: Optional[tf.Tensor],
    ):
        """L_A's scaled pull on the student's activations; W, C (and V) take a step."""
        mine = {layer: features[layer] for layer in self._amalgamated_layers}
        own = self.amalgamation.trainable_variables
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(mine)
            losses = self.amalgamation(targets.features, mine)
            own_scale = self._loss_scale("amalgamation")
            own_loss = _scaled(losses.amalgamation, own_scale)
            transfer = _scaled(losses.transfer, scale)
        gradients = tape.gradient(transfer, mine)
        self._apply("amalgamation", tape.gradient(own_loss, own), own_scale)
        del tape
        values = {
            "loss/transfer": losses.transfer,
            "loss/amalgamation": losses.amalgamation,
        }
        return values, gradients

    # ------------------------------------------------------------------ the parts

    @property
    def _amalgamated_layers(self) -> Sequence[str]:
        return self.amalgamation.layer_names if self.amalgamation is not None else ()

    def _each_soft_loss(
        self, predictions: Mapping[str, tf.Tensor], targets: TeacherOutputs
    ) -> Tensors:
        losses = soft_target_losses(
            predictions, targets.predictions, self.soft_loss, targets.weights
        )
        return list(losses.values())

    def _soft_losses(
        self, predictions: Mapping[str, tf.Tensor], targets: TeacherOutputs
    ) -> tf.Tensor:
        return tf.stack(self._each_soft_loss(predictions, targets))

    def _with_deceit(self, soft: tf.Tensor, deceits: tf.Tensor) -> tf.Tensor:
        weight = self.adversary.weight
        return (1.0 - weight) * soft + weight * deceits

    def _deceit_losses(
        self, images: tf.Tensor, predictions: Mapping[str, tf.Tensor], noise: int
    ) -> tf.Tensor:
        """The generator's losses, with discriminators that stand still."""
        losses = []
        for i, (task, prediction) in enumerate(predictions.items()):
            with statistics(self.discriminators[task], "keep"):
                logits = self._judge(
                    images, task, prediction, noise + i, self._frozen_training
                )
            losses.append(generator_loss(logits))
        return tf.stack(losses)

    def _judge(
        self,
        images: tf.Tensor,
        task: str,
        maps: tf.Tensor,
        noise: int,
        training: bool,
    ) -> tf.Tensor:
        """A discriminator's logits on noisy maps; `noise` tells the passes apart."""
        seed = tf.stack([tf.constant(self.seed, tf.int64), self.step * 1000 + noise])
        sigma = self.adversary.noise.get(task, 0.0)
        maps = instance_noise(maps, self.step, sigma, seed)
        pair = tf.concat([images, tf.cast(maps, images.dtype)], axis=-1)
        return self.discriminators[task](pair, training=training)

    def _loss_scale(self, *players: str) -> Optional[tf.Tensor]:
        """What a loss is multiplied by whose gradients overflow in float16; or None.

        A pass backward that serves several players takes the least of their scales.
        """
        if not self.scales_losses:
            return None
        scales = [self.optimizers[player].loss_scale for player in players]
        return tf.reduce_min(tf.stack(scales))

    def _apply(
        self, player: str, gradients: Tensors, scale: Optional[tf.Tensor]
    ) -> None:
        """One optimizer step; the only place where replicas are divided by.

        Args:
          player: whose optimizer and variables.
          gradients: of a loss that was multiplied by `scale`; where they are not
            finite a LossScaleOptimizer leaves the step out.
          scale: of `_loss_scale`.
        """
        gradients = _unscale(gradients, scale)
        variables = self.optimized_variables[player]
        decay = 0.0
        if player in ("encoder", "decoders"):
            decay = self.weight_decay
        elif player == "discriminators":
            decay = self.adversary.weight_decay
        if decay:
            gradients = with_weight_penalty(gradients, variables, decay)
        if replica_count() > 1:
            gradients = [g / replica_count() for g in gradients]
        self.optimizers[player].apply_gradients(zip(gradients, variables))

    def _named(self, prefix: str, values: Any) -> Dict[str, tf.Tensor]:
        if not isinstance(values, list):
            values = tf.unstack(tf.convert_to_tensor(values))
        return {f"{prefix}/{task}": v for task, v in zip(self.tasks, values)}

    def _log_names(self) -> List[str]:
        kinds = ["loss/soft", "task_weight", "gradient_norm"]
        if self.adversary is not None:
            kinds += ["loss/generator", "loss/discriminator"]
        names = [f"{kind}/{task}" for kind in kinds for task in self.tasks]
        return names + ["loss/transfer", "loss/amalgamation", "loss/gradnorm"]

    def _term_names(self) -> List[str]:
        """All terms, those of the tasks with their task, as `PHASES` orders them."""
        logged = self._log_names()
        terms = []
        for kind in PHASES:
            of_tasks = [f"{kind}/{task}" for task in self.tasks]
            if kind == "loss/competition":
                terms += of_tasks
            else:
                terms += [name for name in (kind, *of_tasks) if name in logged]
        return terms

    def _leave_out_overflow(self, values: Dict[str, tf.Tensor]) -> Dict[str, tf.Tensor]:
        """Takes norms of gradients that overflowed by their scale out of `values`.

        With a scale of 1 they are no overflow of ours: they stay, to be reported.

        Returns:
          Name of a term -> its weight in a mean, for terms that may be left out.
        """
        if self._overflow is None:
            return {}
        kinds = ("gradient_norm", "loss/gradnorm")
        weight = 1.0 - tf.cast(self._overflow, tf.float32)
        weights = {name: weight for name in values if name.startswith(kinds)}
        for name in weights:
            values[name] = tf.where(self._overflow, 0.0, values[name])
        return weights

    def _note_not_finite(self, values: Mapping[str, tf.Tensor]) -> None:
        """Keeps, for every term, the first step at which it was not finite."""
        zero = tf.zeros([])
        wrong = ~tf.math.is_finite(
            tf.stack([values.get(term, zero) for term in self._terms])
        )
        since = self._not_finite_since
        first = tf.logical_and(wrong, since < 0)
        since.assign(tf.where(first, self.step, since))

    @contextlib.contextmanager
    def _phase(self, phase: str) -> Iterator[None]:
        """Measures, where asked, how far a phase moves every player.

        The movement of a player is the L2 norm of its change over the L2 norm of
        what it was; weights and BatchNorm's moving statistics are told apart.
        """
        if not self._measures_movement:
            yield
            return
        groups = {}
        for player, variables in self.players.items():
            moving = [v for v in variables if "moving_" in v.name]
            weights = [v for v in variables if "moving_" not in v.name]
            groups[f"movement/{phase}/{player}"] = weights
            if moving:
                groups[f"movement_statistics/{phase}/{player}"] = moving
        before = {name: [tf.identity(v) for v in vs] for name, vs in groups.items()}
        yield
        for name, variables in groups.items():
            change = [v - b for v, b in zip(variables, before[name])]
            self._movement[name] = tf.math.divide_no_nan(
                tf.linalg.global_norm(change), tf.linalg.global_norm(before[name])
            )


def _scaled(loss: tf.Tensor, scale: Optional[tf.Tensor]) -> tf.Tensor:
    return loss if scale is None else loss * scale


def _norms(gradients: Tensors, scale: Optional[tf.Tensor]) -> tf.Tensor:
    """||grad_W L_i|| at the last shared layer, of the whole batch; float32 [n].

    Args:
      gradients: of every L_i, on this replica, multiplied by `scale`.
      scale: of `_loss_scale`.
    """
    gradients = _unscale([tf.cast(g, tf.float32) for g in gradients], scale)
    # The norm of a replica's gradient is not the norm of the batch's.
    return tf.stack([tf.norm(g) for g in mean_over_replicas(gradients)])


def _unscale(gradients: Tensors, scale: Optional[tf.Tensor]) -> Tensors:
    return gradients if scale is None else [g / scale for g in gradients]


def _with_loss_scale(
    optimizer: tf.keras.optimizers.Optimizer,
) -> tf.keras.optimizers.Optimizer:
    """Wraps an optimizer, unless it is, to scale its loss and skip an overflow."""
    if _unscaled(optimizer) is optimizer:
        optimizer = tf.keras.mixed_precision.LossScaleOptimizer(optimizer)
    # It warns of whoever does not call these; a scale that several share is read here.
    optimizer.get_unscaled_gradients([optimizer.get_scaled_loss(tf.ones([]))])
    return optimizer


def _unscaled(
    optimizer: tf.keras.optimizers.Optimizer,
) -> tf.keras.optimizers.Optimizer:
    return getattr(optimizer, "inner_optimizer", optimizer)


def with_weight_penalty(
    gradients: Tensors, variables: Sequence[tf.Variable], decay: float
) -> Tensors:
    """Adds d/dw of decay * |w|^2 / 2, over kernels only, as the original's penalty.

    Args:
      gradients: one a variable.
      variables: of whoever moves; biases, gammas and betas are passed over.
      decay: the penalty's coefficient.
    """
    return [
        g + decay * v if v.shape.rank > 1 else g for g, v in zip(gradients, variables)
    ]


def _create_slots(
    optimizer: tf.keras.optimizers.Optimizer, variables: List[tf.Variable]
) -> None:
    """Makes an optimizer's counters and slots, so that a checkpoint finds them.

    Keras' legacy family, TFA's among it, makes them at the first step only, which
    would also trace the first graph twice: a step without gradients is made and undone.
    """
    if hasattr(optimizer, "build"):
        optimizer.build(variables)
        return
    values = [variable.numpy() for variable in variables]

    def apply_nothing():
        optimizer.apply_gradients([(tf.zeros_like(v), v) for v in variables])

    strategy = tf.distribute.get_strategy()
    run = functools.partial(strategy.run, apply_nothing)
    if strategy.num_replicas_in_sync > 1:  # messages of an eager run are slow
        run = tf.function(run, autograph=False)
    run()
    for variable, value in zip(variables, values):  # weight decay needs no gradient
        variable.assign(value)
    optimizer.iterations.assign(0)
