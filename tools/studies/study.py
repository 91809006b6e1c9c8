"""What a study is: tables of runs, pictures, a further measurement."""

from typing import List, Mapping, NamedTuple, Optional, Sequence, Tuple

from tools.studies.training import Training

Column = Tuple[str, str]  # task, metric


class Row(NamedTuple):
    """A row of a table.

    Attributes:
      title: as the paper calls it.
      trainings: what to train; with several, each has tasks of its own. Empty: the
        teachers.
      paper: column -> the paper's value.
      parameters: the paper's count, as it prints it.
    """

    title: str
    trainings: Sequence[Training] = ()
    paper: Mapping[Column, Optional[float]] = {}
    parameters: str = ""


class Table(NamedTuple):
    """A table of runs.

    Attributes:
      title: of the table.
      columns: what is measured, against the truth.
      rows: of which the first may be the teachers.
      comparisons: pairs of rows' titles; the first row is to have the lower rmse in all
        tasks, by the paper's claim or by the question at hand.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    comparisons: Sequence[Tuple[str, str]] = ()

    @property
    def tasks(self) -> List[str]:
        """The columns' tasks, each once."""
        return list(dict.fromkeys(task for task, _ in self.columns))


class Study(NamedTuple):
    """A table or figure of the paper, or an open question.

    Attributes:
      name: as --study takes it.
      title: one line.
      text: what is compared, in a few sentences.
      tables: of runs.
      curves: rows whose losses and task weights are drawn over the steps.
      panels: rows whose students are shown beside their teachers.
      command: name of a further measurement: "parameters", "inference", "similarity",
        "unseen", "discriminators", "conflict".
      small_only: whether it is a question for small runs, whose values it names.
    """

    name: str
    title: str
    text: str
    tables: Sequence[Table] = ()
    curves: Sequence[Row] = ()
    panels: Sequence[Row] = ()
    command: Optional[str] = None
    small_only: bool = False

    @property
    def trainings(self) -> List[Training]:
        """All that is to be trained, each once."""
        rows = [row for table in self.tables for row in table.rows]
        rows += [*self.curves, *self.panels]
        return list(dict.fromkeys(t for row in rows for t in row.trainings))
