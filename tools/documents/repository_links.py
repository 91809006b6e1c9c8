"""A hook of mkdocs.yml: links to files of the repository, on the documents' pages.

Documents link to each other and to files as a code host shows them, by relative paths.
On a page a link to a document leads to its page, and is called by its title where its
text is the document's path; a picture or notebook that a document outside of docs/
names lies beside its page; a link to another file leads to `repo_url` or, where
mkdocs.yml has none, becomes the file's path. A link to a file that does not exist is a
warning, which ends a strict build.

`extra.repository_pages` of mkdocs.yml names documents outside of docs/ and their pages.
"""

import pathlib
import posixpath
import re
from typing import Callable, Dict, Match

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_LOG = get_plugin_logger("repository_links")
# A picture or a link, its text and its target: not within `code`, not in a block of it.
_LINK = re.compile(r"(!?)\[((?:`[^`]*`|[^]`])*)\]\(([^)\s]+)\)")
_CODE = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)")
_NOTEBOOK = ".ipynb"
_OUTSIDE = re.compile(r"[a-z]+:|#|//")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the documents outside of docs/, their pictures and notebooks."""
    root, pages = _root(config), _pages(config)
    for source, page in pages.items():
        text = (root / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
        for picture, _, target in _LINK.findall(text):
            path = _join(source, target)
            is_beside = picture or path.endswith(_NOTEBOOK)
            if is_beside and not path.startswith("docs/") and (root / path).is_file():
                uri = _join(page, target)
                shown = File.generated(config, uri, abs_src_path=str(root / path))
                files.append(shown)
    return files


def on_page_markdown(
    markdown: str, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Turns the links of a page."""
    root, pages = _root(config), _pages(config)
    uri = page.file.src_uri
    source = {p: s for s, p in pages.items()}.get(uri, f"docs/{uri}")

    def turn(link: Match) -> str:
        picture, text, target = link.groups()
        if _OUTSIDE.match(target):
            return link[0]
        path, hash_, anchor = target.partition("#")
        path = _join(source, path)
        if not (root / path).exists():
            _LOG.warning("%s links to %s, which does not exist", source, path)
            return link[0]
        if path in pages or path.startswith("docs/"):
            place = pages.get(path, path[len("docs/") :])
            place = posixpath.relpath(place, posixpath.dirname(uri) or ".")
            if text.endswith(".md"):
                text = _title(root / path)
            return f"{picture}[{text}]({place}{hash_}{anchor})"
        if picture or source in pages and path.endswith(_NOTEBOOK):  # see `on_files`
            return link[0]
        if config.repo_url:
            url = f"{config.repo_url.rstrip('/')}/blob/HEAD/{path}"
            return f"[{text}]({url}{hash_}{anchor})"
        plain = text.strip("`")
        return f"`{path}`" if path.endswith(plain) else f"{text} (`{path}`)"

    return outside_of_code(markdown, lambda words: _LINK.sub(turn, words))


def outside_of_code(markdown: str, change: Callable[[str], str]) -> str:
    """Applies a function to each paragraph of a document that is no block of code.

    Args:
      markdown: the document. Blocks of code are fenced, or indented by four blanks
        after an empty line, as everywhere in the documents.
      change: old text to new.

    Returns:
      The document with the paragraphs changed.
    """
    changed, fenced = [], False
    for block in re.split(r"(\n\s*\n)", markdown):
        fences = len(re.findall(r"(?m)^\s*```", block))
        is_code = fenced or fences or re.match(r"\n*(?: {4})+\S", block)
        fenced ^= fences % 2 == 1
        if is_code:
            changed.append(block)
            continue
        spans = [match[0] for match in _CODE.finditer(block)]
        # `[text](target)` as code is no link; [`text`](target) is one.
        kept = [span for span in spans if "](" in span]
        for i, span in enumerate(kept):
            block = block.replace(span, f"\0{i}\0")
        block = change(block)
        for i, span in enumerate(kept):
            block = block.replace(f"\0{i}\0", span)
        changed.append(block)
    return "".join(changed)


def _root(config: MkDocsConfig) -> pathlib.Path:
    return pathlib.Path(config.config_file_path).parent


def _pages(config: MkDocsConfig) -> Dict[str, str]:
    return config.extra["repository_pages"]


def _title(document: pathlib.Path) -> str:
    """The first heading, which every document begins with."""
    return document.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")


def _join(document: str, target: str) -> str:
    """The path of a link's target from the repository's root."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(document), target))
