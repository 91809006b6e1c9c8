"""docs/results.md and the pages of docs/study: each part from the call that made it."""

import pathlib
import re
from typing import Dict, Mapping, Optional, Sequence

from soka_tf.atomic import write_text
from tools.studies import pages, report
from tools.studies.comparison import page as comparison
from tools.studies.definitions import define
from tools.studies.methods import SCALES
from tools.studies.report import Section
from tools.studies.study import Study

RESULTS = "results.md"
PAGES = "study"  # of pages and pictures, in the folder of results.md
_TITLE = "# Results"
_TABLES, _FIGURES = "## The paper's tables", "## The paper's figures"
_QUESTIONS, _LEFT = "## What the paper leaves open", "Not run yet:"


def has_own_page(study: Study) -> bool:
    """Whether a study is shown on a page of its own, not among the paper's tables."""
    return study.small_only or study.name.startswith("fig")


def is_results(path: pathlib.Path) -> bool:
    """Whether a file is a results.md of ours, which may be replaced."""
    return path.is_file() and path.read_bytes().startswith(f"{_TITLE}\n".encode())


def write(
    sections: Sequence[Section],
    docs: pathlib.Path,
    folder: pathlib.Path,
    command: str,
    spent: str,
) -> bool:
    """Writes what is complete of figures and questions, and the paper's tables.

    What other calls have written stays where this one has nothing as whole.

    Args:
      sections: of the paper's tables all or none.
      docs: the documents' folder.
      folder: of the pictures.
      command: that makes the paper's tables again.
      spent: what their runs have cost; "" without runs, and they are not written.

    Returns:
      Whether there was anything to write.
    """
    own = [part for part in sections if has_own_page(part.study) and _is_whole(part)]
    paper = [part for part in sections if spent and not has_own_page(part.study)]
    if not (own or paper):
        return False
    for part in [*paper, *own]:
        for name in part.pictures:
            pages.copy(folder / name, docs / PAGES / name)
    for part in own:
        write_text(docs / PAGES / f"{part.study.name}.md", report.page(part))
    shown = [part._replace(pictures=_from_results(part.pictures)) for part in paper]
    assemble(docs, report.paper_part(shown, command, spent) if shown else None)
    return True


def assemble(docs: pathlib.Path, tables: Optional[str] = None) -> None:
    """Writes results.md: the comparison's answer, the paper's tables, links.

    Args:
      docs: the documents' folder.
      tables: the paper's tables; None keeps those that the page has.
    """
    path, folder = docs / RESULTS, docs / PAGES
    if tables is None:
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        after = text.partition(f"\n{_TABLES}\n")[2]
        tables = re.split(rf"(?m)^(?:{_FIGURES}|{_QUESTIONS}|{_LEFT})", after)[0]
    studies = [s for s in define(SCALES["small"]).values() if has_own_page(s)]
    there = [s for s in studies if (folder / f"{s.name}.md").is_file()]
    figures = [_link(study) for study in there if not study.small_only]
    questions = [_link(study) for study in there if study.small_only]
    left = [f"{s.title} (`{s.name}`)" for s in studies if s not in there]
    parts = [_TITLE, _answer(folder)]
    parts += [_TABLES, tables.strip()] if tables.strip() else []
    parts += [_FIGURES, "\n".join(figures)] if figures else []
    parts += [_QUESTIONS, "\n".join(questions)] if questions else []
    parts += [f"{_LEFT} {'; '.join(left)}."] if left else []
    write_text(path, "\n\n".join(filter(None, parts)) + "\n")


def _from_results(pictures: Mapping[str, str]) -> Dict[str, str]:
    """A page's pictures, by their paths from results.md."""
    return {f"{PAGES}/{name}": text for name, text in pictures.items()}


def _link(study: Study) -> str:
    return f"- [{study.title}]({PAGES}/{study.name}.md)"


def _answer(folder: pathlib.Path) -> str:
    """The comparison's answer and figure; "" without its page."""
    page, picture = folder / comparison.PAGE, folder / comparison.PICTURE
    if not page.is_file():
        return ""
    parts = ["## At equal cost", comparison.answer_of(page.read_text(encoding="utf-8"))]
    if picture.is_file():
        parts.append(f"![error against cost]({PAGES}/{comparison.PICTURE})")
    more = f"All of the comparison: [its page]({PAGES}/{comparison.PAGE})"
    made = "`python tools/reproduce.py --study=comparison --report_only` writes both"
    more += f", [its protocol]({PAGES}/protocol.md). {made}."
    return "\n\n".join([*parts, more])


def _is_whole(section: Section) -> bool:
    """Whether nothing is missing, but for seeds."""
    trained = {r.title for t in section.study.tables for r in t.rows if r.trainings}
    rows = [row for table in section.tables for row in table.rows]
    without = [row for row in rows if row.title in trained and not row.steps]
    return not section.missing and not without
