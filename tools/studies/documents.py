"""docs/results.md and the pages of docs/study: each part from the call that made it."""

import pathlib
from typing import Optional, Sequence

from soka_tf.atomic import write_text
from tools.studies import pages, report
from tools.studies.comparison import page as comparison
from tools.studies.definitions import define
from tools.studies.methods import SCALES
from tools.studies.report import Section
from tools.studies.study import Study

RESULTS = "results.md"
PAGES = "study"  # of pages and pictures, in the folder of results.md
_TABLES, _FIGURES = "## The paper's tables", "## The paper's figures"


def has_own_page(study: Study) -> bool:
    """Whether a study is shown on a page of its own, not among the paper's tables."""
    return study.small_only or study.name.startswith("fig")


def write(
    sections: Sequence[Section],
    docs: pathlib.Path,
    folder: pathlib.Path,
    command: str,
    spent: str,
) -> None:
    """Writes what studies have found; what other calls have written stays.

    Args:
      sections: the paper's tables all or none; a question without runs is left out.
      docs: the documents' folder.
      folder: of the pictures.
      command: that makes the paper's tables again.
      spent: what their runs have cost.
    """
    own = [part for part in sections if has_own_page(part.study)]
    own = [part for part in own if not part.study.small_only or _has_runs(part)]
    paper = [part for part in sections if not has_own_page(part.study)]
    for part in [*paper, *own]:
        for name in part.pictures:
            pages.copy(folder / name, docs / PAGES / name)
    for part in own:
        write_text(docs / PAGES / f"{part.study.name}.md", report.page(part))
    for index, part in enumerate(paper):
        shown = {f"{PAGES}/{name}": text for name, text in part.pictures.items()}
        paper[index] = part._replace(pictures=shown)
    assemble(docs, report.paper_part(paper, command, spent) if paper else None)


def assemble(docs: pathlib.Path, tables: Optional[str] = None) -> None:
    """Writes results.md: the comparison's answer, the paper's tables, links.

    Args:
      docs: the documents' folder.
      tables: the paper's tables; None keeps those that the page has.
    """
    path, folder = docs / RESULTS, docs / PAGES
    if tables is None:
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        tables = text.partition(f"\n{_TABLES}\n")[2].partition(f"\n{_FIGURES}\n")[0]
    parts = ["# Results", _answer(folder)]
    parts += [_TABLES, tables.strip()] if tables.strip() else []
    studies = [s for s in define(SCALES["small"]).values() if has_own_page(s)]
    there = [s for s in studies if (folder / f"{s.name}.md").is_file()]
    figures = [_link(study) for study in there if not study.small_only]
    questions = [_link(study) for study in there if study.small_only]
    parts += [_FIGURES, "\n".join(figures), "## Open questions"]
    parts += ["What the paper leaves open, and our choices.", "\n".join(questions)]
    left = [f"{s.title} (`{s.name}`)" for s in studies if s not in there]
    parts += [f"Not run yet: {'; '.join(left)}."] if left else []
    write_text(path, "\n\n".join(filter(None, parts)) + "\n")


def _link(study: Study) -> str:
    return f"- [{study.title}]({PAGES}/{study.name}.md)"


def _answer(folder: pathlib.Path) -> str:
    """The comparison's answer and figure; "" without its page."""
    page, picture = folder / comparison.PAGE, folder / comparison.PICTURE
    if not page.is_file():
        return ""
    parts = [comparison.answer_of(page.read_text(encoding="utf-8"))]
    if picture.is_file():
        parts.append(f"![error against cost]({PAGES}/{comparison.PICTURE})")
    more = f"All of the comparison: [its page]({PAGES}/{comparison.PAGE})"
    return "\n\n".join([*parts, f"{more}, [its protocol]({PAGES}/protocol.md)."])


def _has_runs(section: Section) -> bool:
    rows = [row for table in section.tables for row in table.rows]
    # The method as bound, which all questions share, answers none of them.
    return sum(row.steps is not None for row in rows) > 1
