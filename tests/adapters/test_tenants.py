"""Whose answers a call may see, and who asks: fixed, or asked for at each call."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from semcache_core import SemanticCache, SemcacheError
from semcache_core.adapters import (
    check_given,
    check_writer,
    current_namespace,
    current_writer,
    own_namespace,
)


@pytest.fixture
def cache(bench: Any) -> SemanticCache:
    return bench.open(path=None, namespace="of the cache")


def in_turn(*names: Any) -> Callable[[], Any]:
    given: Iterator[Any] = iter(names)
    return lambda: next(given)


def test_a_tenant_is_fixed_or_asked_for_at_each_call(cache: SemanticCache) -> None:
    assert current_namespace("ada", cache) == "ada"
    names = in_turn("ada", "bob")
    assert [current_namespace(names, cache) for _ in range(2)] == ["ada", "bob"]


def test_left_out_the_tenant_is_the_caches_own(cache: SemanticCache) -> None:
    check_given(own_namespace)
    assert current_namespace(own_namespace, cache) == "of the cache"


@pytest.mark.parametrize("wrong", [None, "", 7, b"ada", ["ada"]])
def test_a_wrong_tenant_never_becomes_another_one(cache: SemanticCache, wrong: Any) -> None:
    with pytest.raises(SemcacheError, match="namespace must be a non-empty str"):
        current_namespace(lambda: wrong, cache)
    with pytest.raises(SemcacheError, match="namespace must be a non-empty str"):
        check_given(wrong)


def test_what_can_name_a_tenant_or_a_writer_is_taken() -> None:
    for namespace in ("ada", lambda: "ada"):
        check_given(namespace)
    for writer in (None, "ada", lambda: None):
        check_writer(writer)


def test_a_writer_is_fixed_or_asked_for_at_each_call() -> None:
    names = in_turn("ada", None)
    assert [current_writer(writer) for writer in (None, "ada", names, names)] == [
        *(None, "ada"),
        *("ada", None),
    ]


@pytest.mark.parametrize("wrong", [7, b"ada", ["ada"]])
def test_what_can_never_name_a_writer_is_an_error(wrong: Any) -> None:
    with pytest.raises(SemcacheError, match=r"writer must be a str or a function .* leave it out"):
        check_writer(wrong)
