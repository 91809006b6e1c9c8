"""The files of a study, and the pages of all studies for the documents."""

import pathlib
import shutil
from typing import (
    Any,
    Callable,
    Dict,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
)

from absl import logging

from soka_tf.atomic import replacing, write_json, write_text
from soka_tf.errors import UserError
from tools.studies import report, results
from tools.studies.comparison import page as comparison
from tools.studies.further import Further
from tools.studies.report import Section
from tools.studies.study import Row, Study
from tools.studies.training import Runs, Training


class Reporter(NamedTuple):
    """Writes what runs and measurements have found.

    Attributes:
      runs: of all studies.
      seeds: of the runs.
      folder: of the results.
      command: name of a study -> the command that makes it.
      why_not: study -> why it is not trained; None if it is.
      reasons: training -> why some of its runs are missing.
      measure: study -> what it measures beside its runs.
    """

    runs: Runs
    seeds: Sequence[int]
    folder: pathlib.Path
    command: Callable[[str], str]
    why_not: Callable[[Study], Optional[str]]
    reasons: Mapping[Training, str]
    measure: Callable[[Study], Further]

    def write(self, study: Study) -> Tuple[Section, Optional[str]]:
        """Writes a study's Markdown, JSON and pictures.

        Returns:
          The study's part of a page, and what failed.

        Raises:
          UserError: if its runs cannot be read, or contradict each other.
        """
        tables = results.collect(study, self.runs, self.seeds, self.reasons)
        why_not = self.why_not(study) if study.trainings else None
        missing = [why_not] if why_not else []
        pictures = self._draw_tables(study, tables)
        for draw in (self._copy_panels, self._draw_curves):
            drawn, absent = draw(study)
            pictures.update(drawn)
            missing += absent
        measured, failure = Further([]), None
        try:
            measured = self.measure(study)
        except UserError as error:
            failure = str(error)
            missing.append(results.clause(failure))
        missing += [measured.missing] if measured.missing else []
        for name, path in measured.pictures.items():
            _copy(path, self.folder / f"{study.name}_{name}.png")
            pictures[f"{study.name}_{name}.png"] = name
        command = self.command(study.name)
        section = Section(study, command, tables, measured.blocks, pictures, missing)
        lead = [report.LEGEND] if tables else []
        page = report.page(study.title, lead, [report.section(section)])
        write_text(self.folder / f"{study.name}.md", page)
        content = {
            "study": study.name,
            "command": command,
            "seeds": list(self.seeds),
            "steps": self.runs.setting.steps,
            "tables": results.as_json(tables),
            "measured": measured.data,
            "missing": missing,
        }
        write_json(self.folder / f"{study.name}.json", content)
        logging.info("Wrote %s.md, %s.json.", study.name, study.name)
        return section, failure

    def _draw_tables(
        self, study: Study, tables: Sequence[results.ResultTable]
    ) -> Dict[str, str]:
        """Draws the tables that have runs; returns file -> caption."""
        from tools.studies import figures

        pictures = {}
        for number, table in enumerate(tables, 1):
            if any(row.steps for row in table.rows):
                number = f"_{number}" * (len(tables) > 1)
                name = f"{study.name}{number}.png"
                figures.draw_table(table, self.folder / name)
                pictures[name] = f"{table.title}: means, 95 % intervals, seeds"
        return pictures

    def _copy_panels(self, study: Study) -> Tuple[Dict[str, str], List[str]]:
        """Copies seed 0's panels; returns file -> caption, and what is missing."""
        pictures, missing = {}, []
        for row in study.panels:
            (training,) = row.trainings
            panels = self.runs.folder_of(training, 0) / "panels"
            found = sorted(panels.glob("step_*.png"))
            if found and self.runs.outcome(training, 0):
                name = _panel_name(study, row)
                _copy(found[-1], self.folder / name)
                pictures[name] = (
                    f"{row.title}: images, teachers, student, truth, errors"
                )
            else:
                missing.append(self._missing(row, "no run of seed 0"))
        return pictures, missing

    def _draw_curves(self, study: Study) -> Tuple[Dict[str, str], List[str]]:
        """Draws losses and weights; returns as `_copy_panels`."""
        from tools.studies import figures

        curves, missing = {}, []
        for row in study.curves:
            (training,) = row.trainings
            done = [seed for seed in self.seeds if self.runs.outcome(training, seed)]
            if done:
                folders = [self.runs.folder_of(training, seed) for seed in done]
                curves[row.title] = [folder / "metrics.csv" for folder in folders]
            else:
                missing.append(self._missing(row, "no run"))
        if not curves:
            return {}, missing
        name = _curves_name(study)
        figures.draw_curves(curves, self.folder / name)
        return {name: "losses and task weights over steps, all seeds"}, missing

    def _missing(self, row: Row, otherwise: str) -> str:
        (training,) = row.trainings
        reason = results.clause(self.reasons.get(training, otherwise))
        return f"{row.title}: {reason}"


def write_docs(
    sections: Sequence[Section],
    docs: pathlib.Path,
    folder: pathlib.Path,
    command: str,
    total: Mapping[str, Any],
) -> None:
    """Writes results.md, and a page of each figure and question, with pictures.

    Args:
      sections: of all studies.
      docs: the documents' folder.
      folder: of the pictures.
      command: that writes the pages.
      total: see `total`.
    """
    pictures = docs / report.PAGES
    paper, figures, questions, unasked = [], [], [], []
    for section in sections:
        if section.study.name.startswith("fig"):
            figures.append(section)
        elif section.study.small_only:
            (questions if _has_runs(section) else unasked).append(section)
        else:
            shown = section.pictures.items()
            moved = {f"{report.PAGES}/{name}": text for name, text in shown}
            paper.append(section._replace(pictures=moved))
    own = [*figures, *questions]
    shown = {pathlib.PurePath(n).name for s in [*paper, *own] for n in s.pictures}
    for name in shown:
        _copy(folder / name, pictures / name)
    # What an earlier call wrote of other runs.
    stale = {f"{section.study.name}.md" for section in unasked}
    for section in sections:
        stale |= _picture_names(section.study) - shown
    for name in stale:
        (pictures / name).unlink(missing_ok=True)
    for section in own:
        lead = [
            "Generated by the command below.",
            *[report.LEGEND] * bool(section.tables),
        ]
        text = report.page(section.study.title, lead, [report.section(section)])
        write_text(pictures / f"{section.study.name}.md", text)
    answer = _answer(pictures)
    others = {"figures": figures, "questions": questions, "unasked": unasked}
    page = report.results_page(paper, others, command, total, answer)
    write_text(docs / "results.md", page)


def _answer(pages: pathlib.Path) -> str:
    """The comparison's answer and figure; "" without its page."""
    page, picture = pages / comparison.PAGE, pages / comparison.PICTURE
    if not page.is_file():
        return ""
    parts = [comparison.answer_of(page.read_text(encoding="utf-8"))]
    if picture.is_file():
        parts.append(f"![error against cost]({report.PAGES}/{comparison.PICTURE})")
    more = f"All of the comparison: [its page]({report.PAGES}/{comparison.PAGE})"
    protocol = f"[its protocol]({report.PAGES}/protocol.md)"
    return "\n\n".join([*parts, f"{more}, {protocol}."])


def total(studies: Sequence[Study], runs: Runs, seeds: Sequence[int]) -> Dict[str, Any]:
    """Machines and cost of all runs that are reported.

    Returns:
      "machines" (sentences), CPU "hours" and number of "runs", of which "unknown" have
      no time.
    """
    trainings = {training for study in studies for training in study.trainings}
    found = [runs.outcome(training, seed) for training in trainings for seed in seeds]
    outcomes = [outcome for outcome in found if outcome]
    seconds = [outcome.cpu_seconds for outcome in outcomes]
    return {
        "machines": sorted({f"{o.cores} cores of {o.processor}" for o in outcomes}),
        "hours": sum(filter(None, seconds)) / 3600,
        "runs": len(outcomes),
        "unknown": seconds.count(None),
    }


def _picture_names(study: Study) -> Set[str]:
    """The pictures that a study may have, and no others."""
    names = {f"{study.name}.png", _curves_name(study), f"{study.name}_similarity.png"}
    names |= {f"{study.name}_{number + 1}.png" for number in range(len(study.tables))}
    return names | {_panel_name(study, row) for row in study.panels}


def _panel_name(study: Study, row: Row) -> str:
    return f"{study.name}_{row.title.replace(' ', '_').replace(',', '')}.png"


def _curves_name(study: Study) -> str:
    return f"{study.name}_curves.png"


def _has_runs(section: Section) -> bool:
    rows = [row for table in section.tables for row in table.rows]
    # The method as bound, which all questions share, answers none of them.
    return sum(row.steps is not None for row in rows) > 1


def _copy(source: pathlib.Path, target: pathlib.Path) -> None:
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
