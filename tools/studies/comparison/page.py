"""docs/study/comparison.md: the comparison's tables and its picture, from records."""

import math
import pathlib
from typing import Dict, List, Optional, Sequence

import numpy as np

from soka_tf.atomic import write_text
from tools.studies.comparison import inference, outcomes
from tools.studies.comparison.answer import answer, pair_title
from tools.studies.comparison.cells import number_text, ratio_text
from tools.studies.comparison.outcomes import Difference, Outcome, Outcomes
from tools.studies.comparison.plan import Plan
from tools.studies.comparison.protocol import (
    DEPTH_LOG,
    DEPTH_M,
    EDGES,
    ENDPOINTS,
    FINAL,
    PORTIONS,
    TUNE,
    Method,
    Protocol,
    trial_bindings,
)
from tools.studies.report import markdown_table

PAGE, PICTURE = "comparison.md", "comparison.png"
# Depth's network range is log(512 m + 1) / log(65536): errors in natural logarithms.
_LOG_SCALE = math.log(2**16)
_HOW = "How this was measured: "
_TEXT = f"""\
{_HOW}[protocol.md](protocol.md), decided before the test rooms were opened. All
holds for one choice of settings a method, the best of eight trials of one run each.
Intervals, of 95 %, are over seeds and rooms, those of teachers and median image over
rooms. Errors are lower when better, and geometric means over seeds. log-rmse is of
natural logarithms of depth. The share of the teacher's [skill](../metrics.md) is
(median image - student) / (median image - teacher), of rmse, depth's in metres, a mean
over seeds: 0 is the median image, 1 the teacher. Started: from the teachers' weights.
CPU s is what the runs took, some on a less busy or faster machine; equal cost is by
steps: each method got the budget divided by what a step of it cost in the trials.
All methods: [protocol.md](protocol.md#methods). The page is made by

    python tools/reproduce.py --study=comparison --report_only
"""


def write(plan: Plan, folder: pathlib.Path) -> pathlib.Path:
    """Writes the page and its picture; returns the page's path.

    Args:
      plan: of the comparison.
      folder: of both.

    Raises:
      UserError: if a record does not fit.
    """
    done, there = plan.counts()
    opened = plan.opened()
    found = None
    if opened and any(plan.record(job) for job in plan.jobs(FINAL)):
        found = Outcomes(plan)
    tested = outcomes.differences(found) if found else []
    lines = ["# Comparison", "", answer(found, tested, done, there), "", _TEXT]
    if opened:
        lines += [f"Test rooms opened {opened['opened']}, {_of(opened)}.", ""]
    if tested:
        lines += ["## Tests", "", _tests(tested, plan.protocol), ""]
    if found:
        from tools.studies import figures

        curves = _curves(found)
        if any(curves.values()):
            levels = {
                e.title: {
                    "the teachers": _level(found, found.teacher, i),
                    "the median image": _level(found, found.median, i),
                }
                for i, e in enumerate(ENDPOINTS)
            }
            figures.draw_costs(curves, levels, folder / PICTURE)
            lines += [f"![error against cost]({PICTURE})", ""]
        for budget in (*plan.protocol.budgets, plan.protocol.confirmation[0]):
            table = _table(found, budget)
            if table:
                lines += [f"## Budget {budget}", "", table, ""]
    lines += _tuning(plan)
    lines += _made(plan, found)
    path = folder / PAGE
    write_text(path, "\n".join(lines).rstrip() + "\n")
    return path


def answer_of(text: str) -> str:
    """The answer of the page's text: all between its title and how it is read."""
    _, said = text.split(f"\n\n{_HOW}", 1)[0].split("\n\n", 1)
    return said.strip()


def _tests(tested: Sequence[Difference], protocol: Protocol) -> str:
    head = ["of", "endpoint", "p, Holm", "p same, Holm"]
    rows = [
        [
            pair_title(d.pair, protocol),
            d.endpoint.title,
            _p(d.p_different),
            _p(d.p_same),
        ]
        for d in tested
    ]
    low, high = inference.SAME
    text = (
        f"Of the tested ratios above, budget {protocol.budgets[-1]}. Same: two "
        f"one-sided tests of a ratio in [{low}, {high}]. Holm over the {len(tested)} "
        "tests of a difference, and over those of being the same, each at 5 %; the "
        "intervals are not adjusted. Both may hold: a difference below 1 %."
    )
    return f"{text}\n\n{markdown_table(head, rows)}"


def _table(found: Outcomes, budget: int) -> Optional[str]:
    """All methods within a budget, with the teachers and the median image."""
    head = [
        *("", "error / teachers', geometric mean", "over"),
        *("depth: log-rmse", "depth: rmse (m)"),
        *("depth: share of skill", "2D edges: rmse", "2D edges: share of skill"),
        *("CPU s", "steps", "seeds"),
    ]
    rows = []
    for method in found.plan.protocol.methods:
        outcome = found.of(method.name, budget)
        if outcome and len(outcome.seeds):
            rows.append(_row(found, method, outcome, budget))
    if not rows:
        return None
    known = {"teachers": found.teacher, "median image": found.median}
    rows += [_known_row(found, title, outcome) for title, outcome in known.items()]
    return markdown_table(head, rows)


def _row(found: Outcomes, method: Method, outcome: Outcome, budget: int) -> List[str]:
    against, over = found.of(method.against, budget), "-"
    if against and method.against != method.name:
        ratio = found.ratio(outcome, against, ENDPOINTS[0].parts)
        title = found.plan.protocol.titles[method.against]
        both = len(set(outcome.seeds) & set(against.seeds))
        some = f" ({both} seeds)" if both < method.seeds else ""
        over = f"{title}: {ratio_text(ratio)}{some}" if ratio else "-"
    relative = found.ratio(outcome, found.teacher, ENDPOINTS[0].parts)
    seeds = [f"{len(outcome.seeds)}"]
    seeds += [f"{outcome.failed} not finite"] * bool(outcome.failed)
    seeds += [f"{outcome.missing} missing"] * bool(outcome.missing)
    seconds = outcome.cpu_seconds
    spread = f" ({min(seconds):.0f} to {max(seconds):.0f})" if seconds else ""
    cpu = f"{np.mean(seconds):.0f}{spread}" if seconds else "-"
    cells = [method.title, ratio_text(relative), over, *_errors(found, outcome)]
    return [*cells, cpu, f"{outcome.steps}", ", ".join(seeds)]


def _known_row(found: Outcomes, title: str, outcome: Outcome) -> List[str]:
    relative = found.ratio(outcome, found.teacher, ENDPOINTS[0].parts)
    cells = [title, ratio_text(relative), "-", *_errors(found, outcome)]
    return [*cells, "-", "-", "-"]


def _errors(found: Outcomes, outcome: Outcome) -> List[str]:
    return [
        ratio_text(found.error(outcome, [DEPTH_LOG]), _LOG_SCALE),
        ratio_text(found.error(outcome, [DEPTH_M])),
        number_text(found.share_of_skill(outcome, DEPTH_M)),
        ratio_text(found.error(outcome, [EDGES])),
        number_text(found.share_of_skill(outcome, EDGES)),
    ]


def _curves(found: Outcomes) -> Dict[str, list]:
    """Endpoint -> the methods' errors over the teachers', by CPU seconds of budgets."""
    from tools.studies.figures import CostCurve

    protocol, curves = found.plan.protocol, {}
    for endpoint in ENDPOINTS:
        curves[endpoint.title] = some = []
        for method in protocol.methods:
            points = []
            for budget in (*protocol.budgets, protocol.confirmation[0]):
                outcome = found.of(method.name, budget)
                if not outcome or not outcome.seeds or outcome.missing:
                    continue
                ratio = found.ratio(outcome, found.teacher, endpoint.parts)
                ends = ratio.interval() or (ratio.value, ratio.value)
                seconds = found.plan.seconds_of_budget(budget)
                points.append((seconds, *np.exp([ratio.value, *ends])))
            if points:
                main = method.name in protocol.main()
                some.append(CostCurve(method.title, points, main))
    return curves


def _level(found: Outcomes, outcome: Outcome, endpoint: int) -> float:
    ratio = found.ratio(outcome, found.teacher, ENDPOINTS[endpoint].parts)
    return math.exp(ratio.value)


def _tuning(plan: Plan) -> List[str]:
    """Which trial each method chose, and how the others did."""
    jobs = plan.jobs(TUNE)
    if not any(plan.record(job) for job in jobs):
        return []
    chosen = plan.chosen()
    trials = range(len(plan.protocol.trials))
    rows = []
    for method in plan.protocol.methods:
        cells = []
        for trial in trials:
            mean = plan.tuning_error(method.name, trial)
            text = f"{math.exp(mean):.4f}" if math.isfinite(mean) else "-"
            cells.append(f"**{text}**" if chosen.get(method.name) == trial else text)
        rows.append([method.title, *cells])
    head = ["rmse / teachers', tuning rooms", *(f"trial {t}" for t in trials)]
    text = "One seed each; in bold the choice. The trials are in the protocol."
    weights = [
        f"{m.title}: `{trial_bindings(m, plan.protocol.trials[chosen[m.name]])[-1]}`, "
        "amalgamation's the last."
        for m in plan.protocol.methods
        if m.weighted and m.name in chosen
    ]
    return [
        "## Tuning",
        "",
        " ".join([text, *weights]),
        "",
        markdown_table(head, rows),
        "",
    ]


def _made(plan: Plan, found: Optional[Outcomes]) -> List[str]:
    """On what, by which code and at what cost; runs that were not finite."""
    jobs = [job for portion in PORTIONS for job in plan.jobs(portion)]
    recorded = [r for r in map(plan.record, jobs) if r]
    if not recorded:
        return []
    well = [record for record in recorded if not record["failed"]]
    hours = sum(r["cpu_seconds"] or 0.0 for r in well) / 3600
    processors = sorted({f"{r['cores']} cores of {r['processor']}" for r in well})
    stacks = sorted({_versions_of(r) for r in well})
    commits = sorted({r["commit"] or "unknown" for r in recorded})
    short = [c.rstrip("+")[:12] + "+" * c.endswith("+") for c in commits]
    lines = [
        "## Made by",
        "",
        f"- {len(recorded)} runs, {hours:.2f} CPU hours of steps",
        f"- {'; '.join(processors)}",
        f"- {'; '.join(stacks)}",
        f"- commits {', '.join(short)}",
    ]
    if found:
        seconds = found.reference["teachers_cpu_seconds_an_image"]
        lines.append(
            f"- the teachers of both tasks: {1000 * seconds:.1f} CPU ms an image, once "
            "an image; in no number above, nor are the third teacher's features"
        )
    lines += [f"- {r['run']}: {r['failed']}" for r in recorded if r["failed"]]
    costs = {m.title: plan.cost(m.name) for m in plan.protocol.methods}
    shown = [f"{title} {1000 * cost:.0f}" for title, cost in costs.items() if cost]
    if shown and not plan.left(TUNE):
        lines.append(f"- CPU ms a step, by which budgets are spent: {', '.join(shown)}")
    return [*lines, ""]


def _versions_of(record: Dict) -> str:
    return " ".join(" ".join(item) for item in sorted(record["versions"].items()))


def _of(record: Dict) -> str:
    return f"commit {record['commit'] or 'unknown'}"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"
