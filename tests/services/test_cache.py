"""A cache with PostgreSQL as its ledger and a Chroma server as its index.

The ledger contract runs on PostgreSQL in `test_postgres_ledger.py`, the index contract on a server
in `tests/search`. Here are those of the cache's own tests that depend on both working together.
"""

from typing import Any

import chromadb
import pytest
from core import test_cache as suite
from core.test_cache import cache as cache
from core.test_cache import embedder as embedder


@pytest.fixture
def bench(hosts: Any, chroma_server: int) -> Any:
    hosts.chroma_client = chromadb.HttpClient("127.0.0.1", chroma_server)
    return hosts


class TestLookup:
    test_same_words = suite.TestLookup.test_the_same_question_in_other_words_is_found
    test_another = suite.TestLookup.test_another_question_is_not
    test_nearest = suite.TestLookup.test_the_nearest_of_several_is_served
    test_scope_or_namespace = suite.TestLookup.test_another_scope_or_namespace_is_never_served
    test_any_text = suite.TestLookup.test_any_text_is_stored_and_found_exactly
    test_goes = suite.TestLookup.test_a_stored_entry_that_goes_while_it_is_looked_up_is_not_served
    test_replaced = (
        suite.TestLookup.test_an_entry_that_is_replaced_while_it_is_looked_up_is_still_found
    )


class TestUpdate:
    test_replaces = suite.TestUpdate.test_an_answer_to_the_same_request_replaces_the_older_one
    test_is_seen = (
        suite.TestUpdate.test_is_seen_by_another_cache_on_the_path_at_once_and_after_reopening
    )
    test_ttl = suite.TestExpiry.test_an_entry_lives_as_long_as_it_was_given
    test_expired = suite.TestExpiry.test_an_expired_nearest_does_not_hide_a_live_one
    test_least_recently_used = (
        suite.TestEviction.test_the_least_recently_used_goes_and_a_hit_is_a_use
    )


class TestForgetting(suite.TestForgetting):
    """All of them: deleting is the ledger's work."""


class TestTelling:
    test_why = suite.TestTelling.test_explain_says_why_for_every_way_a_lookup_ends
    test_stats = suite.TestTelling.test_stats_count_what_happened


test_both_forms = suite.test_both_forms_do_the_same
test_open_at_once = suite.test_two_caches_that_open_a_new_path_at_once_share_it
test_threads = suite.test_threads_on_one_cache_lose_nothing
