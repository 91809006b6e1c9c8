"""A study's results as Markdown."""

from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence

from tabulate import tabulate

from soka_tf.tasks import get_task
from tools.studies.comparisons import Finding
from tools.studies.intervals import CONTRADICTED, HOLDS, LIKELY, ONE_SEED, OPEN
from tools.studies.numbers import number
from tools.studies.results import Cell, ResultRow, ResultTable
from tools.studies.study import Study

METRICS = {
    "rmse": "rmse",
    "rel": "rel",
    "delta1": "<1.25",
    "delta2": "<1.25²",
    "delta3": "<1.25³",
    "accuracy": "accuracy",
}
# Of tables that have values of the paper.
_PAPER_LEGEND = (
    "below it the paper's, and whether the order to the other cells of its column is "
    "the paper's, by the least favourable of them: `yes` (intervals apart), `on "
    "average`, `in noise` (the means differ from the paper's order, within the noise), "
    "`no` (apart, the other way round), `one seed`. The paper's units are not ours: "
    "only the order can be compared."
)
_LEGEND = (
    "rmse is in the task's unit; the error over the teacher's is of rmse, of classes "
    "of the share of wrong pixels, and their median image the commonest class; skill "
    "is docs/metrics.md's; rmse and rel are better when lower, shares within 1.25 when "
    "higher. CPU seconds depend on what else the machine did, and are no measure of a "
    "method's cost. Intervals are Student's, over seeds: the seed chooses initial "
    "weights and the order of the images; the images to train on and to measure on are "
    "the same."
)


class Section(NamedTuple):
    """What a study adds to a page.

    Attributes:
      study: which.
      command: that makes it again.
      tables: of runs.
      blocks: further Markdown, such as a table of another tool.
      pictures: file -> what it shows.
      missing: why something is not there; empty if all is.
      spent: what its runs have cost; "" without runs.
    """

    study: Study
    command: str
    tables: Sequence[ResultTable]
    blocks: Sequence[str]
    pictures: Mapping[str, str]
    missing: Sequence[str]
    spent: str = ""


def section(part: Section) -> str:
    """The Markdown of a study, without its title."""
    lines = [part.study.text, ""]
    lines += ["```", part.command, "```", ""]
    for table in part.tables:
        if len(part.tables) > 1:
            lines += [f"**{table.title}**", ""]
        lines += [_main_table(table), "", _beside(table), ""]
        if table.findings:
            lines += [comparisons_table(table.findings), ""]
    for block in part.blocks:
        lines += [block, ""]
    for file, text in part.pictures.items():
        lines += [f"![{text}]({file})", "", f"*{text}*", ""]
    for reason in part.missing:
        lines += [f"Not run: {reason}", ""]
    return "\n".join(lines)


def _main_table(table: ResultTable) -> str:
    head = ["", *(column_title(task, metric) for task, metric in table.columns)]
    rows = [
        [row.title, *(_cell(row.cells[column]) for column in table.columns)]
        for row in table.rows
    ]
    return markdown_table(head, rows)


def column_title(task: str, metric: str) -> str:
    """Head of a column, with the unit."""
    found = get_task(task)
    unit = f" ({found.unit})" if metric == "rmse" and found.unit else ""
    return f"{found.title}: {METRICS[metric]}{unit}"


def _cell(cell: Cell) -> str:
    if cell.ours is None and cell.paper is None:
        return "-"
    absent = "no labels" if cell.unlabelled else "not run"
    text = number(cell.ours) if cell.ours else absent
    if cell.paper is not None:
        text += f"<br>paper {cell.paper:g}"
        text += f": {cell.ordering}" if cell.ordering else ""
    return text


def _beside(table: ResultTable) -> str:
    """What the paper's table does not show: skill, imitation, the mean, size, cost."""
    with_logs = [t for t in table.tasks if any(t in row.log_rmse for row in table.rows)]
    of_values = [t for t in table.tasks if not get_task(t).has_classes]
    titles = {task: get_task(task).title for task in table.tasks}
    head = [
        "",
        "error / teacher's, mean of the tasks",
        *(f"{title}: skill" for title in titles.values()),
        *(f"{titles[task]}: log-rmse" for task in with_logs),
        *(f"{titles[task]}: rmse against the teacher" for task in of_values),
        "parameters",
        "steps",
        "CPU seconds of the steps",
    ]
    rows = []
    for row in table.rows:
        rows.append(
            [
                row.title + (f" ({row.missing})" if row.missing else ""),
                number(row.relative),
                *(number(row.skills.get(task)) for task in table.tasks),
                *(number(row.log_rmse.get(task)) for task in with_logs),
                *(number(row.imitation.get(task)) for task in of_values),
                _parameters(row),
                f"{row.steps:,}" if row.steps else "-",
                number(row.cpu_seconds),
            ]
        )
    return markdown_table(head, rows)


def _parameters(row: ResultRow) -> str:
    ours = f"{row.parameters:,}" if row.parameters else "-"
    if not row.paper_parameters:
        return ours
    return f"{ours}<br>paper {row.paper_parameters}"


def comparisons_table(findings: Sequence[Finding]) -> str:
    """The findings of a table of results, as Markdown."""
    head = ["", "against", "error / teacher's, mean: difference", "seeds", ""]
    rows = [
        [f.first, f.second, number(f.difference), len(f.difference.values), f.reading]
        for f in findings
    ]
    return tabulate(rows, head, tablefmt="pipe", disable_numparse=True)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown, its first column to the left, all others to the right."""
    # tabulate 0.9, the last for Python 3.9, aligns no column that has no row.
    align = ["left", *["right"] * (len(head) - 1)] if rows else None
    return tabulate(rows, head, tablefmt="pipe", colalign=align, disable_numparse=True)


def page(part: Section) -> str:
    """A study's page, pictures beside it."""
    text = [f"# {part.study.title}", part.spent, _legend([part]), section(part)]
    return "\n\n".join(filter(None, text)).rstrip() + "\n"


def _legend(parts: Sequence[Section]) -> str:
    """How to read the tables; "" without any."""
    rows = [row for part in parts for table in part.tables for row in table.rows]
    if not rows:
        return ""
    cells = [cell for row in rows for cell in row.cells.values()]
    printed = any(cell.paper is not None for cell in cells)
    own = "mean ± half of the 95 % interval over the seeds"
    if printed:
        return f"Each cell: ours, {own}; {_PAPER_LEGEND} {_LEGEND}"
    return f"Each cell: {own}. {_LEGEND}"


def verdicts(sections: Sequence[Section]) -> str:
    """How many cells of each study stand as in the paper."""
    words = (HOLDS, LIKELY, OPEN, CONTRADICTED, ONE_SEED)
    rows: List[List[str]] = []
    for part in sections:
        counts: Dict[Optional[str], int] = {}
        for table in part.tables:
            for row in table.rows:
                for cell in row.cells.values():
                    counts[cell.ordering] = counts.get(cell.ordering, 0) + 1
        if any(word in counts for word in words):
            rows.append(
                [part.study.title, *(str(counts.get(word, 0)) for word in words)]
            )
    return markdown_table(
        ["cells whose place in their column is the paper's", *words], rows
    )


def paper_part(parts: Sequence[Section], command: str, spent: str) -> str:
    """The paper's tables, for docs/results.md.

    Args:
      parts: of the tables; pictures relative to that page.
      command: that makes it again.
      spent: what the runs of all of them have cost.
    """
    text = [
        "All that follows is of equal steps, not of equal cost. Generated by",
        f"```\n{command}\n```",
        *["Without `--report_only` it trains what is not there yet."]
        * ("--report_only" in command),
        f"{spent} The command of each study stands at its head; studies share runs.",
        _legend(parts),
        verdicts(parts),
        "Each cell is compared with all others of its column that were run: a pair in "
        "another order marks both of its cells.",
        *(f"### {part.study.title}\n\n{section(part).rstrip()}" for part in parts),
    ]
    return "\n\n".join(text)
