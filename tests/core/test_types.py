"""Requests refuse what could be taken for something else."""

from typing import Any

import pytest
from fakes import WordEmbedder
from semcache_core import Embedder, Request, SemcacheError


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"question": None}, "None"),
        ({"question": 5}, "5"),
        ({"question": b"bytes"}, "b'bytes'"),
        ({"question": "q", "scope": 7}, "7"),
        ({"question": "q", "scope": None}, "None"),
        ({"question": "q", "namespace": ""}, "''"),
        ({"question": "q", "namespace": 12}, "12"),
        ({"question": "q", "namespace": False}, "False"),
        ({"question": "q", "tags": "one"}, "one"),
        ({"question": "q", "tags": (1,)}, "1"),
        ({"question": "q", "tags": {"a"}}, "{'a'}"),
        ({"question": "q", "tags": None}, "None"),
    ],
)
def test_a_field_of_a_wrong_type_is_refused_with_its_value(
    fields: dict[str, Any], named: str
) -> None:
    with pytest.raises(SemcacheError) as raised:
        Request(**fields)
    assert named in str(raised.value)
    assert next(reversed(fields)).rstrip("s") in str(raised.value)


def test_a_bare_text_as_tags_is_refused_with_the_fix() -> None:
    with pytest.raises(SemcacheError, match=r"write \('billing',\)"):
        Request("q", tags="billing")  # type: ignore[arg-type]


def test_no_namespace_and_an_empty_question_are_allowed() -> None:
    assert Request("").namespace is None


def test_anything_with_the_four_members_is_an_embedder() -> None:
    assert isinstance(WordEmbedder(), Embedder)
    assert not isinstance(object(), Embedder)
