"""Compares the documents with the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]

NAME = re.compile(
    r"(?:(?:azure|error|exception|gen_ai|http|langgraph|lc)\.[\w.]+"
    r"|mlflow\.(?:chat|llm|span|trace[NT])[\w.]*|session\.id|user\.id|metadata\.)"
)

MODULES = {"langgraph.callbacks", "langgraph.errors", "langgraph.types"}
"""Names of modules, not of attributes."""


def in_the_code() -> set[str]:
    """Return every name of an attribute in the package."""
    sources = (PROJECT / "langchain_mlflow_tracer").rglob("*.py")
    nodes = (node for path in sources for node in ast.walk(ast.parse(path.read_text("utf-8"))))
    texts = (node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return {text for text in texts if NAME.fullmatch(text)} - MODULES


def in_the_document() -> set[str]:
    """Return every name in the tables of attributes and events."""
    text = (PROJECT / "docs" / "what-is-recorded.md").read_text("utf-8")
    tables = text[text.index("## Attributes of spans") : text.index("## What cannot be recorded")]
    rows = [line for line in tables.splitlines() if line.startswith("|")]
    names = re.findall(r"`([\w.]+)(?:<key>)?`", "\n".join(rows))
    return {name for name in names if NAME.fullmatch(name)}


def test_the_document_describes_exactly_the_attributes_of_the_code() -> None:
    assert in_the_document() == in_the_code()


def log_table() -> list[tuple[str, list[str]]]:
    """Return the rows of the manual's table of log lines: the quoted lines, and the causes."""
    text = (PROJECT / "docs" / "operations.md").read_text("utf-8")
    section = text.partition("\n## Log lines\n")[2].partition("\n## ")[0]
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| ")][2:]
    return [(line.removeprefix("| "), re.findall(r"`(\w+)`", causes)) for line, causes, *_ in rows]


def package_texts() -> tuple[list[str], set[str]]:
    """Return the texts of the package, with … for each value in them, and the causes that are reported."""
    texts, causes = [], set()
    for path in (PROJECT / "langchain_mlflow_tracer").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(re.sub(r"%[sd]", "…", node.value))
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                name = node.args[0] if node.func.attr == "report" and node.args else None
                causes |= (
                    {name.value} if isinstance(name, ast.Constant) and isinstance(name.value, str) else set()
                )
    return texts, causes


def test_the_code_has_every_log_line_that_the_manual_quotes() -> None:
    texts, _ = package_texts()
    for lines, _ in log_table():
        for part in re.split(r"…|[,:;] |\(an error\)", lines):
            fragment = part.strip(" ,:.'")
            assert any(fragment in text for text in texts), f"the code has no text {fragment!r}"


def test_the_manual_lists_every_cause_of_a_log_line() -> None:
    texts, reported = package_texts()
    listed = {cause for _, causes in log_table() for cause in causes}
    assert reported <= listed
    assert listed <= set(texts)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub forms them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_link_of_the_documents_has_a_target() -> None:
    for page in (*PROJECT.glob("*.md"), *(PROJECT / "docs").rglob("*.md")):
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", page.read_text("utf-8")):
            file = page.parent / target if target else page
            assert file.exists(), f"{page.name} links to {target}"
            assert not anchor or anchor in anchors(file), f"{page.name} links to {target}#{anchor}"
