"""A run stops at the first loss or weight that is NaN or infinite."""

from typing import Any, Callable, Dict, Mapping, Optional, Sequence

import numpy as np
import tensorflow as tf

from soka_tf.errors import UserError
from soka_tf.soka.model import SokaModel


class NotFinite:
    """Stops a run whose losses or weights are NaN or infinite, and reports where."""

    def __init__(
        self,
        model: SokaModel,
        last_saved: Callable[[], Optional[int]] = lambda: None,
        find_causes: Callable[[int], Optional[Sequence[str]]] = lambda step: None,
    ):
        """Keeps what it needs to report the cause and how to go on.

        Args:
          model: keeps the first step at which each of its terms was not finite.
          last_saved: returns the step of the last checkpoint, None without one.
          find_causes: given a step, counted from 0, returns sentences on what was
            broken before the student saw it; None where nobody can tell.
        """
        self._model = model
        self._last_saved = last_saved
        self._find_causes = find_causes

    def check(self, step: int, logs: Mapping[str, Any], weights: bool = False) -> None:
        """Checks the losses so far and, on request, all weights.

        The losses of a step are those from before its update: finite losses do not
        mean that the weights are; checking those is worth its cost before saving.

        Args:
          step: steps done.
          logs: of the step.
          weights: whether to look at the weights of every player.

        Raises:
          UserError: naming phase, task, term and step.
        """
        terms = self._model.ledger.first_not_finite()
        if not terms:
            # What is only logged counts, too, but for cosines of gradients: these may
            # overflow by a loss scale, and the step is left out.
            logged = (n for n in logs if not n.startswith("cosine/"))
            bad = [n for n in logged if not np.isfinite(float(logs[n]))]
            terms = {name: step - 1 for name in bad}
        if terms:
            first = min(terms.values())
            names = [name for name, since in terms.items() if since == first]
            phase = self._phase_of(names[0], first)
            self._stop(_term_and_task(names[0], self._model.tasks), phase, first, step)
        if weights:
            for player, total in _sums(self._model.players.variables).items():
                if not np.isfinite(total):
                    kind, _, task = player.partition("/")
                    phase = self._model.phase_of(player, step - 1)
                    term = f"the weights of {kind}"
                    self._stop(
                        term + (f" of task {task}" if task else ""),
                        phase,
                        step - 1,
                        step,
                    )

    def _phase_of(self, name: str, step: int) -> str:
        try:
            return self._model.phase_of(name, step)
        except KeyError:  # a log that is no term of the losses, such as movement
            return self._model.stage_at(step)

    def _stop(self, term: str, phase: str, first: int, step: int) -> None:
        noticed = "" if first == step - 1 else f" (noticed after step {step})"
        causes = self._find_causes(first)
        saved = self._last_saved()
        if saved is None:
            state = "There is no checkpoint yet: the same command begins anew."
        else:
            state = (
                f"The last good checkpoint is that of step {saved}: the same command "
                "goes on from there."
            )
        if causes:
            advice = "Replace that teacher's file first."
        else:
            should = (
                "Should" if causes is None else "No teacher's output is broken; should"
            )
            advice = (
                f"{should} it happen again, lower "
                "build_optimizers.learning_rate, in the run's operative_config.gin, "
                "too, or choose another --model_dir."
            )
        raise UserError(
            f"Training stopped: in step {first + 1}{noticed}, phase {phase}, {term} "
            f"was NaN or infinite. {' '.join([*(causes or ()), state, advice])}"
        )


def _term_and_task(name: str, tasks: Sequence[str]) -> str:
    kind, _, last = name.rpartition("/")
    return f"term {kind} of task {last}" if last in tasks else f"term {name}"


def _sums(players: Mapping[str, Sequence[tf.Variable]]) -> Dict[str, float]:
    """The sum of absolute values of every player, not finite if one of them is not."""
    return {
        player: float(tf.add_n([tf.reduce_sum(tf.abs(v)) for v in variables]))
        for player, variables in players.items()
    }
