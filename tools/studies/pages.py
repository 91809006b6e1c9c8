"""The files of a study."""

import pathlib
import shutil
from typing import (
    Callable,
    Dict,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

from absl import logging

from soka_tf.atomic import replacing, write_json, write_text
from soka_tf.errors import UserError
from tools.studies import report, results
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
            copy(path, self.folder / f"{study.name}_{name}.png")
            pictures[f"{study.name}_{name}.png"] = name
        command = self.command(study.name)
        section = Section(
            study,
            command,
            tables,
            measured.blocks,
            pictures,
            missing,
            spent([study], self.runs, self.seeds),
        )
        write_text(self.folder / f"{study.name}.md", report.page(section))
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
                copy(found[-1], self.folder / name)
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


def spent(studies: Sequence[Study], runs: Runs, seeds: Sequence[int]) -> str:
    """What the runs of studies have cost, and where: a sentence; "" without runs."""
    trainings = {training for study in studies for training in study.trainings}
    found = [runs.outcome(training, seed) for training in trainings for seed in seeds]
    outcomes = [outcome for outcome in found if outcome]
    if not outcomes:
        return ""
    seconds = [outcome.cpu_seconds for outcome in outcomes]
    hours = sum(filter(None, seconds)) / 3600
    said = f"{len(outcomes)} runs, {hours:.1f} CPU hours of training steps"
    if None in seconds:
        unknown = seconds.count(None)
        said += f" (of {unknown}, interrupted, the time is not known)"
    machines = sorted({f"{o.cores} cores of {o.processor}" for o in outcomes})
    return f"{said}, on {'; '.join(machines)}."


def _panel_name(study: Study, row: Row) -> str:
    return f"{study.name}_{row.title.replace(' ', '_').replace(',', '')}.png"


def _curves_name(study: Study) -> str:
    return f"{study.name}_curves.png"


def copy(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies a file whole or not at all."""
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
