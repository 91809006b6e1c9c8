"""What is noted of steps: movement of the players, means, values not finite."""

from contextlib import contextmanager, nullcontext
from typing import (
    Callable,
    ContextManager,
    Dict,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
)

import tensorflow as tf

from soka_tf.soka.balancing.rule import Rule
from soka_tf.soka.objective import Objective

TRANSFER = "transfer"  # L_A in the place of a task
# Terms in the order in which a step computes them -> their phase of a cycle. All are
# logged but the competition's losses, those the decoders are moved by.
PHASES = {
    "loss/competition": "competition",
    "loss/generator": "competition",
    "loss/discriminator": "competition",
    "accuracy/discriminator": "competition",
    "loss/soft": "collaboration",
    "gradient_norm": "collaboration",
    "encoder_share": "collaboration",
    "soft_weight": "collaboration",
    "loss/transfer": "collaboration",
    "loss/amalgamation": "collaboration",
    "loss/gradnorm": "weighting",
    "loss/weighting": "weighting",
    "task_weight": "weighting",
}
# Who moves in which phase of a cycle.
PHASE_OF_PLAYER = {
    "encoder": "collaboration",
    "decoder": "competition",
    "amalgamation": "collaboration",
    "adapter": "collaboration",
    "task_weights": "weighting",
    "discriminator": "competition",
}
_ADVERSARIAL = ("loss/generator", "loss/discriminator", "accuracy/discriminator")
# Terms that a loss scale can make overflow.
_SCALED = ("gradient_norm", "encoder_share", "loss/gradnorm", "loss/weighting")

Variables = Mapping[str, Sequence[tf.Variable]]


class Page:
    """The notes of one step, made while it is traced and gone with it."""

    def __init__(
        self,
        players: Optional[Variables] = None,
        around: Callable[[str], ContextManager] = lambda phase: nullcontext(),
    ):
        """Opens the page.

        Args:
          players: player -> all its variables, where movement is to be measured.
          around: phase -> a context manager that is entered around it.
        """
        self._players = players or {}
        self._around = around
        self.movement: Dict[str, tf.Tensor] = {}
        # "cosine/..." -> float32 scalar, where the step measures them.
        self.cosines: Dict[str, tf.Tensor] = {}
        # Whether norms of gradients overflowed by their scale, a bool scalar; or None.
        self.overflow: Optional[tf.Tensor] = None

    @contextmanager
    def phase(self, phase: str) -> Iterator[None]:
        """Measures, where asked, how far a phase moves every player.

        The movement of a player is the L2 norm of its change over the L2 norm of
        what it was; weights and BatchNorm's moving statistics are told apart.
        """
        groups = {}
        for player, variables in self._players.items():
            moving = [v for v in variables if "moving_" in v.name]
            weights = [v for v in variables if "moving_" not in v.name]
            groups[f"movement/{phase}/{player}"] = weights
            if moving:
                groups[f"movement_statistics/{phase}/{player}"] = moving
        before = {name: [tf.identity(v) for v in vs] for name, vs in groups.items()}
        with self._around(phase):
            yield
        for name, variables in groups.items():
            change = [v - b for v, b in zip(variables, before[name])]
            self.movement[name] = tf.math.divide_no_nan(
                tf.linalg.global_norm(change), tf.linalg.global_norm(before[name])
            )


class Ledger:
    """What outlives a step: the means since the last reset and the first bad values."""

    def __init__(
        self,
        tasks: Sequence[str],
        adversarial: bool,
        balancing: Rule,
        objective: Objective,
    ):
        """Makes its variables.

        Args:
          tasks: names, in the order of the task weights.
          adversarial: whether there is a CGAN term.
          balancing: what it needs, shares and minimises is logged.
          objective: whether L_A is one of the tasks, and whether alpha grows.
        """
        as_task = objective.transfer_as_task
        kinds = ["loss/soft", "task_weight"]
        kinds += ["gradient_norm"] * bool(balancing.needs)
        kinds += ["encoder_share"] * (balancing.shares_encoder or as_task)
        kinds += _ADVERSARIAL if adversarial else ()
        names = [f"{kind}/{task}" for kind in kinds for task in tasks]
        if as_task:
            shown = {"gradient_norm", "encoder_share"}.intersection(kinds)
            names += [f"{kind}/{TRANSFER}" for kind in sorted(shown)]
        names += ["loss/transfer", "loss/amalgamation"]
        names += [balancing.loss_name] if balancing.loss_name else []
        names += ["soft_weight"] * objective.grows
        self.means = {name: tf.keras.metrics.Mean(name) for name in names}
        self.terms = _terms(tasks, names)
        self.not_finite_since = tf.Variable(
            [-1] * len(self.terms),
            dtype=tf.int64,
            trainable=False,
            name="not_finite_since",
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )

    def forget_not_finite(self) -> None:
        """Starts anew, with nothing found."""
        self.not_finite_since.assign([-1] * len(self.terms))

    def first_not_finite(self) -> Dict[str, int]:
        """Term -> the step, from 0, that first computed NaN or infinity for it.

        The first step comes first, and within a step what was computed first.
        """
        since = zip(self.terms, self.not_finite_since.numpy())
        found = {term: int(step) for term, step in since if step >= 0}
        return dict(sorted(found.items(), key=lambda item: item[1]))

    def enter(
        self, page: Page, values: Mapping[str, tf.Tensor], step: tf.Variable
    ) -> Dict[str, tf.Tensor]:
        """Notes a step's values and what of them is not finite.

        Args:
          page: the step's.
          values: term -> its value on the whole batch, a float32 scalar.
          step: the step's number, from 0.

        Returns:
          Means since the last reset, by log name, and the page's movement and cosines.
        """
        values, weights = _without_overflow(values, page.overflow)
        self._note_not_finite(values, step)
        logs = {}
        for name in values:
            if name in self.means:
                mean = self.means[name]
                mean.update_state(values[name], weights.get(name))
                # Equal on all replicas; result() would ask them all, one by one.
                logs[name] = tf.math.divide_no_nan(mean.total, mean.count)
        return {**logs, **page.movement, **page.cosines}

    def _note_not_finite(
        self, values: Mapping[str, tf.Tensor], step: tf.Variable
    ) -> None:
        zero = tf.zeros([])
        wrong = ~tf.math.is_finite(
            tf.stack([values.get(term, zero) for term in self.terms])
        )
        since = self.not_finite_since
        first = tf.logical_and(wrong, since < 0)
        since.assign(tf.where(first, step, since))


def _terms(tasks: Sequence[str], logged: Sequence[str]) -> List[str]:
    """All terms, those of the tasks with their task, as `PHASES` orders them."""
    terms = []
    for kind in PHASES:
        of_tasks = [f"{kind}/{task}" for task in tasks]
        if kind == "loss/competition":
            terms += of_tasks
        else:
            of_all = (kind, *of_tasks, f"{kind}/{TRANSFER}")
            terms += [name for name in of_all if name in logged]
    return terms


def _without_overflow(values: Mapping[str, tf.Tensor], overflow: Optional[tf.Tensor]):
    """Takes norms of gradients that overflowed by their scale out of the values.

    With a scale of 1 they are no overflow of ours: they stay, to be reported.

    Returns:
      The values, and term -> its weight in a mean, for terms that may be left out.
    """
    if overflow is None:
        return values, {}
    weight = 1.0 - tf.cast(overflow, tf.float32)
    weights = {name: weight for name in values if name.startswith(_SCALED)}
    kept = {
        name: tf.where(overflow, 0.0, value) if name in weights else value
        for name, value in values.items()
    }
    return kept, weights
