"""Lists that begin as earlier ones did are known by the very objects in them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from langchain_mlflow_tracer.encoding.common_prefix import CommonPrefixes
from langchain_mlflow_tracer.encoding.scan import LONG, TraceScan


def test_the_length_of_the_common_prefix_with_an_earlier_list_is_returned() -> None:
    a, b, c, d = ([letter] for letter in "abcd")
    prefixes = CommonPrefixes()
    assert [prefixes.known(one) for one in ([a], [a, b], [a, b, c], [a, b], [a])] == [0, 1, 2, 2, 1]
    assert [prefixes.known(one) for one in ([b, c], [a, b, c, d], [])] == [0, 3, 0]


def test_equal_items_that_are_different_objects_are_not_a_common_prefix() -> None:
    a, one, same = ["a"], [1], [True]
    prefixes = CommonPrefixes()
    prefixes.known([a, one])
    assert one == same
    assert prefixes.known([a, same]) == 0
    assert prefixes.known([["a"]]) == 0


def test_a_list_that_differs_after_the_first_item_replaces_the_known_list() -> None:
    a, b, c = (["x"] for _ in range(3))
    prefixes = CommonPrefixes()
    assert [prefixes.known(one) for one in ([a, b, c], [a, c], [a, c, b], [a, b, c])] == [0, 0, 2, 0]


items = st.lists(st.sampled_from([{"content": text} for text in "abcd"]), min_size=LONG, max_size=3 * LONG)


@given(st.lists(items, max_size=4), st.integers(0, LONG))
def test_a_scan_finds_every_text_in_lists_with_a_common_prefix(
    lists: list[list[dict[str, str]]], kept: int
) -> None:
    values = [[*lists[0][:kept], *one] for one in lists]
    found = TraceScan.of(values)
    assert found.texts == {message["content"] for value in values for message in value}
