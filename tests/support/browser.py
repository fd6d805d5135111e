"""Opens pages of MLflow's UI in a real browser, as a person would."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:  # playwright may be missing: whoever has no browser runs the other tests
    from playwright.sync_api import Locator, Page

__all__ = ["Pages", "colour", "missing", "must_be_there", "reads", "running_browser"]

MUST_BE_THERE = "BROWSER_TESTS_MUST_RUN"
"""The variable that makes a missing browser a failure: where nobody reads what was skipped."""

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
"""For root in a container without a screen; and nothing goes to the outside."""

WINDOW = (1400, 640)
"""Pixels: wide enough for the columns of the list, and small enough for a picture in the README."""

PATIENCE = 30.0
"""Seconds until something must stand on the page: the first load takes four where both cores are free."""

# What MLflow (3.17.2) lays over its pages at the first visit: an assistant, and a hint.
_NOTHING_IN_THE_WAY = """
    localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
    localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
    localStorage.setItem("mlflow.detectIssues.guidanceShown_v1", "true");
"""


def missing() -> str | None:
    """Say what is not there for a look at MLflow's pages, and how to get it; None if all is."""
    if find_spec("playwright") is None:
        return "MLflow's pages are not looked at: playwright is missing (pip install playwright)"
    if shutil.which("chromium") is None:
        return "MLflow's pages are not looked at: chromium is missing (apt-get install chromium)"
    return None


def must_be_there() -> bool:
    """Whether tests shall fail, not be skipped, where a browser is missing."""
    return bool(os.environ.get(MUST_BE_THERE))


@contextmanager
def running_browser() -> Iterator[Page]:
    """Run chromium; yield its one tab.

    Until it ends, no asyncio may run in this thread: playwright keeps a loop of its own going there.

    Raises:
        RuntimeError: there is no browser; the message says how to get one.
    """
    if lacking := missing():
        raise RuntimeError(lacking)
    from playwright.sync_api import expect, sync_playwright  # noqa: PLC0415 - see above

    with sync_playwright() as playwright:
        # Debian's, not one that playwright would download.
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        tab = browser.new_page(viewport={"width": WINDOW[0], "height": WINDOW[1]})
        tab.add_init_script(_NOTHING_IN_THE_WAY)
        tab.set_default_timeout(PATIENCE * 1000)
        expect.set_options(timeout=PATIENCE * 1000)
        yield tab
        browser.close()


@dataclass(frozen=True, slots=True)
class Pages:
    """The pages of one experiment, shown in one tab; addresses and marks as in mlflow 3.17.2 and 3.18.0."""

    tab: Page
    experiment: str
    """The address of the experiment's pages: `http://…/#/experiments/1`."""

    def traces(self, *, by_session: bool = False) -> Locator:
        """Open the list of traces; return its table."""
        self.tab.goto(f"{self.experiment}/traces{'?groupBy=session' if by_session else ''}")
        return self.tab.get_by_role("table")

    def search(self, text: str) -> None:
        """Search in the list that is open."""
        box = self.tab.locator("input[aria-label*='search' i]")
        box.click()
        box.press_sequentially(text)
        box.press("Enter")

    def trace(self, trace_id: str, name: str) -> Trace:
        """Open a trace, of which the name is known, at its root span."""
        self.tab.goto(f"{self.experiment}/traces?selectedEvaluationId={trace_id}")
        trace = Trace(self.tab.get_by_role("dialog"))
        trace.span(name).click()  # the trace that was open before may still be shown
        return trace

    def session(self, session_id: str) -> Locator:
        """Open a session; return the page."""
        self.tab.goto(f"{self.experiment}/chat-sessions/{quote(session_id)}")
        return self.tab.locator("body")


@dataclass(frozen=True, slots=True)
class Trace:
    """An open trace: the tree of its spans, and what is said of the one that was clicked."""

    panel: Locator

    @property
    def said(self) -> Locator:
        """What is said of the chosen span."""
        return self.panel.get_by_role("tabpanel")

    def span(self, name: str) -> Locator:
        """Return the name of a span in the tree, the first of several."""
        tree = self.panel.locator("[data-testid^='timeline-tree-node-']")
        return tree.get_by_text(name, exact=True).first

    def open(self, name: str, tab: str = "Inputs / Outputs") -> Locator:
        """Click on a span, and on one of the tabs beside the tree; return what is said there."""
        self.span(name).click()
        self.panel.get_by_role("tab", name=tab).click()
        return self.said


def reads(place: Locator, *texts: str) -> None:
    """Wait until a place shows these texts in this order, with any text between them."""
    from playwright.sync_api import expect  # noqa: PLC0415 - see above

    expect(place).to_contain_text(
        re.compile(".*".join(re.escape(text) for text in texts), re.DOTALL), use_inner_text=True
    )


def colour(place: Locator) -> tuple[int, int, int]:
    """Return the colour of a text: red, green, blue."""
    red, green, blue, *_ = re.findall(r"\d+", place.evaluate("element => getComputedStyle(element).color"))
    return int(red), int(green), int(blue)
