from __future__ import annotations

import base64
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import functools
import sys
import threading
import types
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple, NoReturn

import pytest
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, computed_field

from langchain_mlflow_tracer.recording.content import freeze
from langchain_mlflow_tracer.recording.content.copiers import MAX_BYTES, MAX_REPR, NODE_COST, Copier
from langchain_mlflow_tracer.recording.content.freeze import MAX_DEPTH, Freezer


def frozen(value: object) -> Any:
    return Freezer()(value)


class Unreadable:
    def __repr__(self) -> str:
        raise ValueError("no repr for you")


class Point(NamedTuple):
    x: int
    y: int


@dataclasses.dataclass
class Plain:
    name: str
    items: list[int]


@dataclasses.dataclass(slots=True)
class Slotted:
    name: str
    unset: str = dataclasses.field(init=False)


class Colour(enum.Enum):
    RED = "red"
    BOTH = ("red", ["blue"])


class Size(enum.IntEnum):
    SMALL = 1


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        raise ValueError


class Whole(int):
    def __int__(self) -> int:
        raise ValueError


class Real(float):
    pass


class Model(BaseModel):
    name: str
    parts: list[int] = []


def test_a_copy_of_plain_data_is_equal() -> None:
    value: object = {"a": [1, 2.5, True, None, "text", {"b": []}], "": {}}

    assert frozen(value) == value


def test_structure_is_copied_and_leaves_are_shared() -> None:
    leaf = "a long text that is not interned" * 10
    value = {"a": [leaf]}

    copy = frozen(value)

    assert copy is not value
    assert copy["a"] is not value["a"]
    assert copy["a"][0] is leaf


@pytest.mark.parametrize(
    ("value", "change"),
    [
        ([1, 2], lambda value: value.append(3)),
        ({"a": 1}, lambda value: value.clear()),
        ({"a": {"b": [1]}}, lambda value: value["a"]["b"].pop()),
        ({1, 2}, lambda value: value.add(3)),
        (([1], 2), lambda value: value[0].append(2)),
        (bytearray(b"abc"), lambda value: value.extend(b"d")),
        (collections.deque([1]), lambda value: value.append(2)),
        (Plain("a", [1]), lambda value: value.items.append(2)),
        (Model(name="a", parts=[1]), lambda value: value.parts.append(2)),
    ],
)
def test_later_changes_of_a_value_do_not_change_its_copy(value: Any, change: Callable[[Any], None]) -> None:
    copy = frozen(value)
    before = repr(copy)

    change(value)

    assert repr(copy) == before
    assert repr(frozen(value)) != before


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ((1, 2), [1, 2]),
        (frozenset({3}), [3]),
        ({3}, [3]),
        (Point(1, 2), {"x": 1, "y": 2}),
        (Plain("a", [1]), {"name": "a", "items": [1]}),
        (Slotted("a"), {"name": "a"}),
        (Colour.RED, "red"),
        (Colour.BOTH, ["red", ["blue"]]),
        (Size.SMALL, 1),
        (True, True),
        (Text("a"), "a"),
        (Whole(3), 3),
        (Real(0.5), 0.5),
        (Real("nan"), "nan"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (float("-inf"), "-inf"),
        (2**65, 2**65),
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.defaultdict(list, a=[1]), {"a": [1]}),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (types.MappingProxyType({"a": 1}), {"a": 1}),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (dt.date(2026, 11, 2), "2026-11-02"),
        (dt.datetime(2026, 11, 2, 3, 4, tzinfo=dt.UTC), "2026-11-02 03:04:00+00:00"),
        (dt.time(3, 4), "03:04:00"),
        (dt.timedelta(seconds=90), "0:01:30"),
        (decimal.Decimal("1.10"), "1.10"),
        (PurePosixPath("/a/b"), "/a/b"),
        (Model(name="a"), {"name": "a", "parts": []}),
        (ValueError("x"), "ValueError('x')"),
        (Plain, repr(Plain)),
        ("\ud800", "\ud800"),
    ],
)
def test_every_type_of_value_is_copied_as_plain_data(value: object, expected: object) -> None:
    copy = frozen(value)

    assert copy == expected
    assert type(copy) is type(expected)


def test_values_of_subclasses_are_copied_as_the_base_type() -> None:
    assert type(frozen(Text("a"))) is str
    assert type(frozen(Whole(1))) is int
    assert type(frozen(Size.SMALL)) is int
    assert type(frozen(Real(1.5))) is float


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_binary_data_is_kept_as_base64(kind: Callable[[bytes], object]) -> None:
    assert frozen(kind(b"\x00\xff")) == "data:application/octet-stream;base64,AP8="
    assert frozen(kind(b"")) == "data:application/octet-stream;base64,"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_long_binary_data_is_shortened_and_its_length_shown(
    kind: Callable[[bytes], object],
) -> None:
    head, _, rest = frozen(kind(b"x" * 5_000)).partition(";base64,")[2].partition(" ")

    assert base64.b64decode(head) == b"x" * MAX_BYTES
    assert rest == f"(the first {MAX_BYTES} of 5000 bytes)"


def test_a_memoryview_of_wide_items_is_measured_in_bytes() -> None:
    view = memoryview(bytes(8_000)).cast("Q")

    assert frozen(view).endswith(f"(the first {MAX_BYTES} of 8000 bytes)")


def test_a_released_memoryview_does_not_affect_other_values() -> None:
    view = memoryview(b"abc")
    view.release()

    assert frozen({"a": view, "b": 1}) == {"a": repr(view), "b": 1}


def test_an_iterator_is_not_consumed() -> None:
    values = iter([1, 2, 3])

    assert "iterator" in frozen({"values": values})["values"]
    assert list(values) == [1, 2, 3]


# Keys.


def test_keys_of_mappings_become_text() -> None:
    value = {1: "int", None: "none", 2.5: "float", ("a", 1): "tuple", Colour.RED: "enum", b"k": "bytes"}

    assert frozen(value) == {
        "1": "int",
        "None": "none",
        "2.5": "float",
        "['a', 1]": "tuple",
        "red": "enum",
        "data:application/octet-stream;base64,aw==": "bytes",
    }


@pytest.mark.parametrize(
    "value", [{"1": "text", 1: "int"}, {1: "int", "1": "text"}, {Text("1"): "int", 1: "text"}]
)
def test_keys_that_become_the_same_text_lose_no_value(value: dict[object, str]) -> None:
    copy = frozen(value)

    assert sorted(copy.values()) == ["int", "text"]
    assert all(key.startswith("1") for key in copy)


def test_many_keys_of_the_same_text_lose_no_value() -> None:
    class Same:
        def __repr__(self) -> str:
            return "same"

    assert sorted(frozen({Same(): number for number in range(50)}).values()) == list(range(50))


def test_the_value_under_a_key_whose_repr_raises_is_kept() -> None:
    assert list(frozen({Unreadable(): 1}).values()) == [1]


# Code of others.


def test_an_object_whose_repr_raises_does_not_affect_other_values() -> None:
    copy = frozen({"bad": Unreadable(), "good": [1, "two"]})

    assert copy == {"bad": "<Unreadable: repr() raised ValueError>", "good": [1, "two"]}


def test_a_long_repr_is_shortened_and_its_length_shown() -> None:
    class Long:
        def __repr__(self) -> str:
            return "x" * 50_000

    assert frozen(Long()) == "x" * MAX_REPR + "… (50000 characters)"


def test_a_long_text_is_kept_whole() -> None:
    text = "x" * 10_000_000

    assert frozen({"text": text})["text"] is text


def test_computed_fields_and_properties_of_models_are_not_run() -> None:
    ran: list[str] = []

    class Lazy(BaseModel):
        name: str

        @computed_field  # type: ignore[prop-decorator]
        @property
        def computed(self) -> str:
            ran.append("computed")
            raise ValueError

        @property
        def shown(self) -> str:
            ran.append("shown")
            raise ValueError

        def __repr__(self) -> str:
            ran.append("repr")
            raise ValueError

    assert frozen(Lazy(name="a")) == {"name": "a"}
    assert ran == []


def test_private_and_excluded_fields_of_a_model_are_not_copied() -> None:
    class Guarded(BaseModel):
        name: str
        client: str = Field(default="client", exclude=True)
        key: SecretStr = SecretStr("s3cr3t")
        _private: str = PrivateAttr("private")

        @functools.cached_property
        def connection(self) -> str:
            return "connection"

    model = Guarded(name="a")
    assert model.connection == "connection"

    assert frozen(model) == {"name": "a", "key": "SecretStr('**********')"}


def test_extra_fields_of_a_model_are_copied() -> None:
    class Open(BaseModel):
        model_config = ConfigDict(extra="allow")
        name: str

    assert frozen(Open(name="a", more=[1])) == {"name": "a", "more": [1]}  # type: ignore[call-arg]


def test_a_model_that_was_not_validated_is_copied_with_its_existing_fields() -> None:
    assert frozen(Model.model_construct()) == {"parts": []}


def test_an_object_that_only_looks_like_a_model_is_described() -> None:
    class Odd:
        model_fields = 3

        def __repr__(self) -> str:
            return "odd"

    assert frozen(Odd()) == "odd"


class Raising:
    """Raises wherever it is asked for what it holds."""

    def __repr__(self) -> str:
        return "raising"

    def _raise(self, *_: object) -> NoReturn:
        raise OSError("gone")

    __iter__ = __len__ = __getitem__ = items = keys = _raise


class RaisingList(Raising, list[int]):
    pass


class RaisingDict(Raising, dict[str, int]):
    pass


class RaisingSet(Raising, set[int]):
    pass


class RaisingBytes(Raising, bytes):
    pass


class RaisingPoint(Raising, Point):
    pass


class RaisingPath(PurePosixPath):
    def __str__(self) -> str:
        raise OSError("gone")

    def __repr__(self) -> str:
        return "raising"


class RaisingMapping(Raising, Mapping[str, int]):
    pass


class RaisingEnum(enum.Enum):
    ONE = 1

    @property
    def value(self) -> int:
        raise OSError("gone")

    def __repr__(self) -> str:
        return "raising"


@dataclasses.dataclass(repr=False)
class RaisingData(Raising):
    name: str = "a"

    def __getattribute__(self, name: str) -> Any:
        if name == "name":
            raise OSError("gone")
        return super().__getattribute__(name)


@pytest.mark.parametrize(
    "value",
    [
        RaisingList([1]), RaisingDict(a=1), RaisingSet({1}), RaisingBytes(b"a"), RaisingPoint(1, 2),
        RaisingPath("a"), RaisingMapping(), RaisingEnum.ONE, RaisingData(),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_value_that_raises_during_copying_is_described(value: object) -> None:
    assert frozen({"bad": value, "good": 1}) == {"bad": "raising", "good": 1}


# Limits.


def test_a_copy_marks_a_circular_reference() -> None:
    mapping: dict[str, object] = {"name": "a"}
    mapping["self"] = mapping
    items: list[object] = [1]
    items.append((items,))

    assert frozen(mapping) == {"name": "a", "self": "<circular dict>"}
    assert frozen(items) == [1, ["<circular list>"]]


def test_a_model_that_holds_itself_is_marked_as_circular() -> None:
    class Node(BaseModel):
        next: Any = None

    node = Node()
    node.next = [node]

    assert frozen(node) == {"next": ["<circular Node>"]}


def test_a_value_that_occurs_twice_is_not_circular() -> None:
    shared = [1]

    assert frozen({"a": shared, "b": [shared, shared]}) == {"a": [1], "b": [[1], [1]]}


def nested(levels: int) -> list[object]:
    value: list[object] = []
    for _ in range(levels - 1):
        value = [value]
    return value


def depth(value: object) -> int:
    levels = 0
    while isinstance(value, list) and value:
        value, levels = value[0], levels + 1
    return levels + isinstance(value, list)


def test_structure_is_copied_down_to_the_depth_limit() -> None:
    assert depth(frozen(nested(MAX_DEPTH))) == MAX_DEPTH
    assert depth(frozen(nested(MAX_DEPTH + 1))) == MAX_DEPTH


def test_values_below_the_depth_limit_are_shown_by_their_type() -> None:
    copy = frozen(nested(1_000))

    for _ in range(MAX_DEPTH):
        (copy,) = copy
    assert copy == f"<list below {MAX_DEPTH} levels>"


def test_a_value_of_a_hundred_thousand_levels_is_copied_down_to_the_limit() -> None:
    assert depth(frozen(nested(100_000))) == MAX_DEPTH


def call_with_frames_left(left: int, call: Callable[[], object]) -> object:
    """Call with so few frames left that most of what it needs will not fit."""
    depth_now = 0
    frame: types.FrameType | None = sys._getframe()
    while frame is not None:
        depth_now, frame = depth_now + 1, frame.f_back

    def descend(levels: int) -> object:
        return call() if levels <= 0 else descend(levels - 1)

    return descend(sys.getrecursionlimit() - depth_now - left)


def test_a_value_is_copied_as_far_as_the_recursion_limit_allows() -> None:
    value = {"near": 1, "deep": nested(30), "model": Model(name="a"), "bad": Unreadable()}
    copied = 0
    for left in range(3, 150):
        try:
            copy: Any = call_with_frames_left(left, lambda: Freezer()(value))
        except RecursionError:
            assert left < 20  # not even room for the first call
            continue
        copied += 1
        assert isinstance(copy, str) or copy["near"] == 1
    assert copied > 100
    assert copy["model"] == {"name": "a", "parts": []}


def test_values_beyond_the_limit_of_a_payload_are_only_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freeze, "MAX_NODES", 10)

    assert frozen(list(range(15))) == [*range(10), "<5 more>"]
    assert frozen({str(n): n for n in range(15)}) == {**{str(n): n for n in range(10)}, "…": "<5 more>"}
    assert frozen([[1] * 5, [2] * 5, [3] * 5]) == [[1] * 5, [2, 2, "<3 more>"], ["<5 more>"]]
    assert frozen([{"a": 1}] * 8) == [{"a": 1}] * 2 + [{"…": "<1 more>"}] * 6


def test_a_value_that_is_shared_many_times_is_copied_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freeze, "MAX_NODES", 10_000)
    value: list[Any] = ["leaf"]
    for _ in range(50):
        value = [value, value]

    freezer = Freezer()
    freezer(value)

    assert freezer.size < 10_000 * 4 * NODE_COST


@pytest.mark.parametrize(
    ("value", "least"),
    [("x" * 1_000, 1_000), ({"k" * 500: "v" * 500}, 1_000), ([0] * 100, 100 * NODE_COST), (2.5, NODE_COST)],
)
def test_the_size_of_a_copy_is_estimated(value: object, least: int) -> None:
    freezer = Freezer()

    freezer(value)

    assert least <= freezer.size <= 2 * least + 4 * NODE_COST


# Threads.


def test_a_mapping_that_another_thread_changes_is_copied_whole() -> None:
    shared: dict[object, object] = {number: number for number in range(1_000)}
    done = threading.Event()

    def write() -> Iterator[None]:
        number = 0
        while not done.is_set():
            number += 1
            shared[number + 10_000] = number
            shared.pop(number + 9_999, None)
            yield

    thread = threading.Thread(target=lambda: collections.deque(write(), maxlen=0))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        for _ in range(20):
            copy = frozen({"shared": shared})["shared"]
            assert all(copy[str(number)] == number for number in range(1_000))
    finally:
        done.set()
        thread.join()
        sys.setswitchinterval(interval)


def test_a_mapping_that_changes_during_copying_does_not_affect_other_values() -> None:
    class Changing(dict[str, int]):
        def items(self) -> Any:
            raise RuntimeError("dictionary changed size during iteration")

    assert frozen([Changing(a=1), 2]) == ["{'a': 1}", 2]


def test_a_subclass_of_freezer_may_choose_its_own_copiers() -> None:
    class Naming(Freezer):
        @staticmethod
        def copier_of(kind: type) -> Copier:
            return lambda value, copy: copy([kind.__name__, str(value)])

    freezer = Naming()

    assert freezer([uuid.UUID(int=1), "a"]) == [["UUID", str(uuid.UUID(int=1))], "a"]
