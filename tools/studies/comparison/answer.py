"""The comparison's answer: what its page and docs/results.md begin with."""

import math
from typing import Dict, List, Optional, Sequence

from soka_tf.tasks import get_task
from tools.studies.comparison.cells import ratio_text
from tools.studies.comparison.outcomes import Difference, Outcomes
from tools.studies.comparison.protocol import AFTERWARDS, ENDPOINTS, Protocol
from tools.studies.report import markdown_table

# What a reader of the tested pairs asks next: intervals without tests.
_ASKED = (
    ("kd_mia_mended", "kd"),
    ("kd_mia_mended", "kd_hints"),
    ("kd_hints", "dmtl"),
)
_COST_ERROR = 0.05  # by the protocol


def answer(
    found: Optional[Outcomes], tested: Sequence[Difference], done: int, there: int
) -> str:
    """The tested ratios, and errors over the teachers', as Markdown.

    Args:
      found: errors of the runs that are recorded; None without any.
      tested: the tests of the protocol; empty before all their runs are recorded.
      done: number of the runs that are recorded.
      there: number of all runs.
    """
    if not tested:
        return f"No answer yet: {done} of {there} runs."
    protocol, head = found.plan.protocol, [e.title for e in ENDPOINTS]
    moved = _moved_by_costs(found)
    pairs: Dict[str, List[str]] = {}
    for difference in tested:
        pair = pair_title(difference.pair, protocol)
        reading = difference.reading
        small = moved and difference.ratio and abs(difference.ratio.value) < moved
        if small and reading.startswith(("lower", "higher")):
            reading += ", within the error of costs"
        pairs.setdefault(pair, []).append(f"{ratio_text(difference.ratio)}: {reading}")
    rows = [[pair, *cells] for pair, cells in pairs.items()] + _asked(found)
    budget, unit = protocol.budgets[-1], protocol.titles[protocol.unit]
    seconds = found.plan.seconds_of_budget(budget)
    text = (
        "What each part is worth: errors of the first method over those of the second, "
        "with 95 % intervals over seeds and rooms; below 1 the first is better. All "
        f"have the same cost, a budget of {budget}: the {seconds:.0f} CPU seconds that "
        f"{budget * protocol.steps} steps of {unit} take by the trials, teachers' "
        "outputs read from disk. After the colon: what the tests of the protocol allow "
        "one to say."
    )
    if moved:
        text += (
            f" Costs are known to some {_COST_ERROR:.0%}, which moves a ratio by up to "
            f"{moved:.1%}: a ratio closer to 1, 'within the error of costs', shows no "
            "better method. This, and rows with 'no test', were added after the test "
            "rooms were opened."
        ).replace("%", " %")
    terms = (
        "KD: soft targets. MIA: amalgamated features, of three teachers. KD + MIA: "
        "joint steps on both; the whole method: the paper's cycle of phases on both. "
        "Hints: each teacher's features by themselves, in MIA's place. "
        "Mended: features standardised, an adapter on the student's side, layers of "
        "equal weight; the mended cycle is the simultaneous one. Tuned weights: fixed "
        "ones, chosen by trials."
    )
    of_pairs = markdown_table(["error / error", *head], rows)
    of_teachers = markdown_table(["error / teachers'", *head], _over_teachers(found))
    levels = _levels(found, done, there)
    return "\n\n".join([text, terms, of_pairs, levels, of_teachers])


def _levels(found: Outcomes, done: int, there: int) -> str:
    """What stands above the errors over the teachers'."""
    titles = found.plan.protocol.titles
    levels = (
        "Errors over the teachers', from random weights, at the largest budgets, and "
        f"those of the median image. {done} of {there} runs of the comparison are done."
    )
    budget = found.plan.protocol.confirmation[0]
    added = [titles[name] for name in AFTERWARDS if found.of(name, budget)]
    if added:
        levels += (
            f" Budget {budget} of {' and of '.join(added)} was added after the test "
            "rooms were opened."
        )
    lost = [
        f"{titles[name]}, budget {of}, seed {seed}, {get_task(task).title}"
        for name, of, seed, task in found.lost()
    ]
    if lost:
        levels += (
            " Runs with an rmse of more than three times the median image's, which "
            f"count like all others: {'; '.join(lost)}."
        )
    return levels


def _over_teachers(found: Outcomes) -> List[List[str]]:
    """The methods above at their largest budgets, and the median image."""
    protocol = found.plan.protocol
    names = dict.fromkeys((*protocol.main(), *(name for p in _ASKED for name in p)))
    known = {
        f"{protocol.titles[name]}, budget {budget}": found.of(name, budget)
        for budget in (protocol.budgets[-1], protocol.confirmation[0])
        for name in names
        if found.of(name, budget)
    }
    rows = []
    for title, outcome in [*known.items(), ("median image", found.median)]:
        if outcome.seeds and not outcome.missing:
            ratios = (found.ratio(outcome, found.teacher, e.parts) for e in ENDPOINTS)
            rows.append([title, *map(ratio_text, ratios)])
    return rows


def _asked(found: Outcomes) -> List[List[str]]:
    """Rows of pairs that were not to be tested, where all runs of both are there."""
    protocol, rows = found.plan.protocol, []
    for pair in _ASKED:
        one, other = (found.of(name, protocol.budgets[-1]) for name in pair)
        if one and other and not (one.missing or other.missing):
            ratios = (found.ratio(one, other, e.parts) for e in ENDPOINTS)
            cells = (f"{ratio_text(ratio)}: no test" for ratio in ratios)
            rows.append([pair_title(pair, protocol), *cells])
    return rows


def _moved_by_costs(found: Outcomes) -> Optional[float]:
    """What a wrong cost adds to the log of a ratio, at most; None of a single budget.

    The steepest fall of an error between the last two budgets says what steps that a
    method has too many, or too few, are worth.
    """
    protocol = found.plan.protocol
    if len(protocol.budgets) < 2:
        return None
    less, more = protocol.budgets[-2:]
    falls = [
        found.ratio(found.of(name, less), found.of(name, more), endpoint.parts)
        for name in protocol.main()
        for endpoint in ENDPOINTS
    ]
    if None in falls:
        return None
    steepest = max(fall.value for fall in falls) / math.log(more / less)
    return steepest * math.log1p(_COST_ERROR)


def pair_title(pair: Sequence[str], protocol: Protocol) -> str:
    """Two methods of which one is divided by the other."""
    return " / ".join(protocol.titles[name] for name in pair)
