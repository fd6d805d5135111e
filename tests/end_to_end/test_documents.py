"""Compares what the documents say with what the code does."""

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


def test_every_attribute_is_described_and_none_is_described_that_is_not_there() -> None:
    assert in_the_document() == in_the_code()


def test_the_documents_link_to_files_that_are_there() -> None:
    for page in (*PROJECT.glob("*.md"), *(PROJECT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
