"""Create values for a JSON schema, for tool arguments and structured answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

Schema = Mapping[str, Any]


def fill(schema: Schema, text: str) -> Any:
    """Return a value that matches the schema, taken from a text if possible."""
    return _Filling(text, schema.get("$defs", {})).value(schema)


class _Filling:
    """The text that values are taken from, and the definitions of a schema."""

    def __init__(self, text: str, definitions: Mapping[str, Schema]) -> None:
        self._text = text
        self._definitions = definitions

    def value(self, schema: Schema) -> Any:
        plain = self._resolved(schema)
        if "enum" in plain or "const" in plain:
            return self._one_of(plain.get("enum") or [plain["const"]])
        kinds: dict[str, Callable[[Schema], Any]] = {
            "object": self._object,
            "array": self._array,
            "integer": self._integer,
            "number": self._integer,
            "boolean": lambda _: True,
            "null": lambda _: None,
        }
        return kinds.get(plain.get("type", ""), self._string)(plain)

    def _string(self, _: Schema) -> str:
        return self._text

    def _resolved(self, schema: Schema) -> Schema:
        if "$ref" in schema:
            return self._definitions[schema["$ref"].rpartition("/")[2]]
        return schema["anyOf"][0] if "anyOf" in schema else schema

    def _one_of(self, options: list[Any]) -> Any:
        return next((option for option in options if str(option) in self._text), options[0])

    def _object(self, schema: Schema) -> dict[str, Any]:
        properties: Mapping[str, Schema] = schema.get("properties", {})
        return {name: self.value(properties[name]) for name in schema.get("required", properties)}

    def _array(self, schema: Schema) -> list[Any]:
        return [self.value(schema.get("items", {}))]

    def _integer(self, _: Schema) -> int:
        number = re.search(r"\d+", self._text)
        return int(number.group()) if number else 1
