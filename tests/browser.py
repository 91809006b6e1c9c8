"""Pages in a real browser: headless Chromium of the system, driven by Playwright.

Nothing is downloaded and nothing leaves the machine: other hosts do not resolve, and
what a page asks of them is written down. Where Chromium or Playwright is missing, tests
are skipped with the reason. On Debian: `apt-get install chromium`.
"""

import contextlib
import importlib.util
import shutil
from typing import Any, Iterator, List, NamedTuple
from urllib.parse import urlsplit

import pytest

WIDE_PX, NARROW_PX, HEIGHT_PX = 1280, 380, 900
_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
_PACKAGES = ("playwright", "axe_playwright_python")
_HERE = ("localhost", "127.0.0.1", "[::1]")
_ARGUMENTS = (
    "--no-sandbox",  # which refuses to run as root, as in containers
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, "
    + ", ".join(f"EXCLUDE {host}" for host in _HERE),
)
_BAD = ("serious", "critical")


class Visit(NamedTuple):
    """A page that is open, and what it has done so far.

    Attributes:
      page: Playwright's.
      errors: what the console and uncaught exceptions said.
      requests: addresses asked for, but for `data:`.
      refused: those of other machines, none of which was answered.
    """

    page: Any
    errors: List[str]
    requests: List[str]
    refused: List[str]


@contextlib.contextmanager
def open_browser() -> Iterator[Any]:
    """Starts Chromium, or skips the test; the thread has an event loop meanwhile."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"needs the package {missing[0]} of requirements-dev.txt")
    path = next(filter(None, map(shutil.which, _CHROMIUM)), None)
    if path is None:
        pytest.skip(f"needs a browser on the path: one of {', '.join(_CHROMIUM)}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_ARGUMENTS)
        yield browser
        browser.close()


@contextlib.contextmanager
def visit(
    browser: Any,
    address: str,
    *,
    scheme: str = "light",
    width: int = WIDE_PX,
    javascript: bool = True,
) -> Iterator[Visit]:
    """Opens an address in a window of its own, without cookies of others.

    Args:
      browser: of `open_browser`.
      address: "file:///..." or "http://127.0.0.1:...".
      scheme: what `prefers-color-scheme` answers, "light" or "dark".
      width: of the window, CSS pixels.
      javascript: whether scripts run.
    """
    context = browser.new_context(
        viewport={"width": width, "height": HEIGHT_PX},
        color_scheme=scheme,
        java_script_enabled=javascript,
        # Animations would be looked at half way.
        reduced_motion="reduce",
    )
    page = context.new_page()
    visited = Visit(page, [], [], [])

    def answer(route: Any) -> None:
        parts = urlsplit(route.request.url)
        if parts.scheme in ("http", "https") and parts.netloc:
            host = parts.netloc.rpartition("@")[2]
            host = host if host.endswith("]") else host.rpartition(":")[0] or host
            if host not in _HERE:
                visited.refused.append(route.request.url)
                route.abort()
                return
        route.continue_()

    page.on("console", lambda m: m.type == "error" and visited.errors.append(m.text))
    page.on("pageerror", lambda error: visited.errors.append(str(error)))
    page.on("request", lambda request: _note(visited.requests, request.url))
    context.route("**/*", answer)
    page.goto(address)
    try:
        yield visited
    finally:
        context.close()


def _note(requests: List[str], address: str) -> None:
    if not address.startswith("data:"):
        requests.append(address)


def violations(page: Any) -> List[str]:
    """What axe-core finds serious or critical in an open page, a line an element."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{rule['id']} ({rule['impact']}): {node['html'][:200]}: "
        + " ".join(check["message"] for check in node["any"] + node["all"])
        for rule in found
        if rule["impact"] in _BAD
        for node in rule["nodes"]
    ]


def overflow_px(page: Any) -> int:
    """How far the page is wider than its window: 0 where nobody scrolls sideways."""
    return page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
