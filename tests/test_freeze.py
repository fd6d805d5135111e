"""Copies values of every kind, and checks that nothing that happens later reaches the copy."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import math
import sys
import uuid
from collections import OrderedDict, UserDict, namedtuple
from pathlib import PurePosixPath
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, SecretStr

from langchain_mlflow_tracer import freeze
from langchain_mlflow_tracer.freeze import MAX_DEPTH, Freezer
from tests.test_hostile_payloads import Unprintable, WithComputedField, circular, nested

Point = namedtuple("Point", ["x", "y"])  # noqa: PYI024 - the plain kind is tested too


class Colour(enum.Enum):
    RED = "red"


class Size(enum.IntEnum):
    BIG = 3


class Text(str):
    __slots__ = ()


class Number(float):
    pass


class Extra(BaseModel):
    model_config = ConfigDict(extra="allow")
    name: str
    secret: SecretStr


@dataclasses.dataclass(slots=True)
class Slotted:
    name: str
    later: int = dataclasses.field(init=False)


def frozen(value: object) -> Any:
    return Freezer()(value)


def test_structure_is_copied_and_leaves_are_shared() -> None:
    text = "a text that is long enough not to be interned"
    value: dict[str, Any] = {"list": [1, {"text": text}], "tuple": (1, 2)}
    copy = frozen(value)
    value["list"].append(3)
    assert copy == {"list": [1, {"text": text}], "tuple": [1, 2]}
    assert copy["list"][1]["text"] is text


@pytest.mark.parametrize(
    ("value", "copy"),
    [
        (None, None),
        (True, True),
        (2**70, 2**70),
        (1.5, 1.5),
        (math.inf, "inf"),
        (Colour.RED, "red"),
        (Size.BIG, 3),
        (Text("text"), "text"),
        (Number(2.5), 2.5),
        (Point(1, 2), {"x": 1, "y": 2}),
        (OrderedDict(a=1), {"a": 1}),
        (UserDict({"a": 1}), {"a": 1}),
        ({1: "one", None: "none"}, {"1": "one", "None": "none"}),
        ({"1": "text", 1: "number"}, {"1": "text", "1 (int)": "number"}),
        (frozenset({1}), [1]),
        (decimal.Decimal("1.10"), "1.10"),
        (datetime.date(2026, 11, 23), "2026-11-23"),
        (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (PurePosixPath("/tmp"), "/tmp"),
        (b"\x00\xff", "data:application/octet-stream;base64,AP8="),
        (WithComputedField(), {"name": "kept"}),
        (circular(), {"name": "kept", "itself": "<circular dict>"}),
        (Slotted("n"), {"name": "n"}),
        (Slotted, "<class 'tests.test_freeze.Slotted'>"),
        (Unprintable(), "<Unprintable, whose repr raised RuntimeError>"),
        (object, "<class 'object'>"),
    ],
)
def test_each_kind_of_value_is_recorded_as_well_as_it_can_be(value: object, copy: object) -> None:
    assert frozen(value) == copy
    assert type(frozen(value)) is type(copy)


def test_pydantic_shows_extra_fields_and_hides_secrets() -> None:
    assert frozen(Extra.model_validate({"name": "n", "secret": "hunter2", "more": 1})) == {
        "name": "n", "secret": "SecretStr('**********')", "more": 1,
    }  # fmt: skip


def test_a_mapping_that_raises_is_described_instead() -> None:
    class Broken(UserDict[str, int]):
        def items(self) -> Any:
            raise RuntimeError("not today")

    assert frozen({"kept": 1, "broken": Broken(a=1)}) == {"kept": 1, "broken": "{'a': 1}"}


def test_depth_is_bounded_and_what_is_beside_it_is_kept() -> None:
    copy = frozen({"deep": nested(1_000), "kept": 1})
    assert copy["kept"] == 1
    levels = copy["deep"]
    for _ in range(MAX_DEPTH - 1):
        (levels,) = levels
    assert levels == f"<list below {MAX_DEPTH} levels>"


def test_a_caller_whose_stack_is_nearly_full_is_not_harmed() -> None:
    def down(levels: int) -> Any:
        return down(levels - 1) if levels else frozen({"deep": nested(40), "kept": 1})

    limit = sys.getrecursionlimit()
    depth = limit
    while True:
        depth -= 20
        try:
            copy = down(depth)
        except RecursionError:
            continue
        break
    assert "too deep to copy" in str(copy)


def test_the_number_of_values_is_bounded_and_the_rest_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freeze, "MAX_NODES", 5)
    assert frozen(list(range(8))) == [0, 1, 2, 3, 4, "<3 more>"]
    assert frozen({str(number): number for number in range(7)})["…"] == "<2 more>"
    assert frozen([[1, 2, 3], [4, 5, 6]]) == [[1, 2, 3], ["<3 more>"]]


def test_a_long_repr_and_long_bytes_are_cut() -> None:
    class Long:
        def __repr__(self) -> str:
            return "x" * 20_000

    assert frozen(Long()).endswith("… (20000 characters)")
    assert frozen(bytes(5_000)).endswith("(the first 1000 of 5000 bytes)")


def test_size_grows_with_what_is_copied() -> None:
    freezer = Freezer()
    freezer({"text": "x" * 10_000, "number": 1.5})
    assert 10_000 < freezer.size < 11_000
