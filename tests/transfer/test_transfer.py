"""Entries that leave one cache and come into another."""

import base64
import inspect
import json
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Bench
from fakes import WORDS, Async, FailingEmbedder, ManualClock, Sync, WordEmbedder
from hypothesis import given
from hypothesis import strategies as st
from semcache_core import Request, SemanticCache, SemcacheError
from semcache_core.errors import EmbedderError, RequestError
from semcache_core.storage.entries import ListedEntry
from semcache_core.testing import engine_of
from semcache_core.transfer import jsonl, transfer
from semcache_core.transfer.entries import Listing
from semcache_core.transfer.transfer import Exported, Imported
from semcache_core.types import Usage

Q, PARAPHRASE = "how to reset my password", "my password how to reset"
NEVER = 2e9


@pytest.fixture
def here(bench: Bench) -> SemanticCache:
    return bench.open()


@pytest.fixture
def there(bench: Bench) -> SemanticCache:
    return bench.open(path=bench.directory / "there")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "entries.jsonl"


@pytest.fixture
def log(file: Path) -> Callable[..., Path]:
    def log(*lines: dict[str, Any]) -> Path:
        file.write_text("\n".join(map(json.dumps, lines)))
        return file

    return log


def listed(cache: SemanticCache) -> list[ListedEntry]:
    return list(Listing(engine_of(cache).ledger).oldest_first(0.0))


def contents(cache: SemanticCache) -> list[tuple[Any, ...]]:
    """All that is kept of each entry, but for its id and hits, which belong to one ledger."""
    bare = [(replace(one, id=0, hits=0, vector=None), one.vector) for one in listed(cache)]
    return [(one, None if vector is None else vector.tobytes()) for one, vector in bare]


# -- there and back --------------------------------------------------------------------------------

TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=12)
UPDATES = st.fixed_dictionaries(
    {
        "request": st.builds(
            Request,
            st.sampled_from([Q, PARAPHRASE, "\ud800", "\0"]) | TEXT,
            st.sampled_from(["", "s"]),
            st.none() | TEXT.filter(bool),
            st.booleans(),
            st.lists(TEXT, max_size=2).map(tuple),
            st.none() | TEXT,
        ),
        "response": TEXT,
        "ttl": st.none() | st.floats(1, 1e6),
        "cost": st.none() | st.floats(0, 5),
        "answer": st.none() | TEXT,
        "usage": st.builds(Usage, tokens_in=st.none() | st.integers(0, 99), seconds=st.just(0.5)),
    }
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    from fakes import calibrated

    directory = tmp_path_factory.mktemp("transfer")
    calibrated(directory / "artefact")
    return Bench(directory)


@given(st.lists(UPDATES, max_size=6), st.booleans())
def test_any_entries_come_back_as_they_were(
    shared: Bench, updates: list[dict[str, Any]], vectors: bool
) -> None:
    file = shared.directory / "e.jsonl"
    with shared.open(path=None) as here, shared.open(path=None) as there:
        for update in updates:
            here.update(**update)
        exported = here.export_entries(file, all_namespaces=True, vectors=vectors)
        imported = there.import_entries(file)
        held = contents(here)
        assert contents(there) == held
        again = there.import_entries(file)
        assert contents(there) == held
    with_vector = sum(vector is not None for _, vector in held)
    assert exported == Exported(len(held), with_vector if vectors else 0, 0)
    made = 0 if vectors else with_vector
    assert imported == Imported(read=len(held), stored=len(held), embedded=made)
    assert again == Imported(read=len(held), present=len(held))


@pytest.mark.parametrize("vectors", [True, False])
def test_what_was_served_is_served_again(
    vectors: bool, here: SemanticCache, there: SemanticCache, file: Path
) -> None:
    here.update(Request(Q, "s", writer="w"), "1")
    here.export_entries(file, vectors=vectors)
    there.import_entries(file)
    hit = there.lookup(Request(PARAPHRASE, "s"))
    assert hit is not None and hit.response == "1"


def test_what_was_wrong_for_a_question_stays_so(
    here: SemanticCache, there: SemanticCache, file: Path
) -> None:
    here.update(Request(Q), "1")
    hit = here.lookup(Request(PARAPHRASE))
    assert hit is not None
    here.feedback(hit.entry_id, correct=False)
    here.export_entries(file)
    there.import_entries(file)
    assert there.lookup(Request(PARAPHRASE)) is None
    assert listed(there)[0].doubt == listed(here)[0].doubt > 0


def test_answers_that_are_the_same_in_other_words_stay_so(
    there: SemanticCache, file: Path, bench: Bench
) -> None:
    here = bench.open(path=None, same_answer=lambda one, other: True)
    here.update(Request(Q), "Click.")
    longer = Request(f"{Q} right now")
    assert here.lookup(longer) is None
    here.update(longer, "Press.")
    here.export_entries(file)
    there.import_entries(file)
    assert listed(there)[1].same_as == listed(here)[1].same_as is not None


def test_a_file_is_yours_alone_and_says_what_it_is(
    here: SemanticCache, file: Path, bench: Bench
) -> None:
    here.update(Request(Q), "1")
    here.export_entries(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    header, line = map(json.loads, file.read_text().splitlines())
    assert header == {
        "format": "semcache entries",
        "version": 1,
        "exported": bench.clock.now,
        "fingerprint": None,
        "dimension": None,
    }
    assert line.keys() == {"namespace", "scope", "question", "response", "created"}
    here.export_entries(file, vectors=True)
    header, line = map(json.loads, file.read_text().splitlines())
    assert (header["fingerprint"], header["dimension"]) == (WordEmbedder.fingerprint, WORDS)
    vector = np.frombuffer(base64.b64decode(line["vector"]), "<f4")
    assert np.array_equal(vector, WordEmbedder().embed([Q])[0])


def test_of_namespaces_the_caches_own_is_written_or_another_or_all(
    here: SemanticCache, file: Path
) -> None:
    for name in ("default", "acme", "globex"):
        here.update(Request(Q, namespace=name), name)

    def written(**options: Any) -> list[str]:
        here.export_entries(file, **options)
        return [json.loads(line)["response"] for line in file.read_text().splitlines()[1:]]

    assert written() == ["default"]
    assert written(namespace="acme") == ["acme"]
    assert written(all_namespaces=True) == ["default", "acme", "globex"]
    with pytest.raises(RequestError, match="namespace must be"):
        here.export_entries(file, namespace="")


def test_what_has_expired_is_neither_written_nor_taken(
    here: SemanticCache, there: SemanticCache, file: Path, bench: Bench
) -> None:
    here.update(Request("a"), "1", ttl=50)
    here.update(Request("b"), "2", ttl=100)
    bench.clock.now += 50
    assert here.export_entries(file).entries == 1
    bench.clock.now += 50
    assert there.import_entries(file) == Imported(read=1, expired=1)
    assert listed(there) == []


def test_an_entry_too_long_for_a_line_is_left_out_and_counted(
    here: SemanticCache, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "MAX_LINE_BYTES", 1000)
    here.update(Request("long"), "x" * 1000)
    here.update(Request("short"), "x")
    assert here.export_entries(file) == Exported(entries=1, vectors=0, left_out=1)
    assert "short" in file.read_text() and "long" not in file.read_text()


# -- what is here already --------------------------------------------------------------------------


@pytest.mark.parametrize("newer", ["here", "there"])
def test_the_newer_answer_wins(
    newer: str, here: SemanticCache, there: SemanticCache, file: Path, bench: Bench
) -> None:
    first, second = (there, here) if newer == "here" else (here, there)
    first.update(Request(Q), "first")
    bench.clock.now += 1
    second.update(Request(Q), "second")
    here.export_entries(file)
    done = there.import_entries(file)
    assert [one.response for one in listed(there)] == ["second"]
    assert (done.stored, done.present) == ((1, 0) if newer == "here" else (0, 1))


def test_nothing_is_embedded_that_is_not_stored(
    here: SemanticCache, file: Path, bench: Bench
) -> None:
    here.update(Request("a"), "1")
    here.export_entries(file)
    embedder = WordEmbedder()
    there = bench.open(path=None, embedder=embedder)
    there.import_entries(file)
    there.import_entries(file)
    assert embedder.calls == ["a"]


# -- vectors ---------------------------------------------------------------------------------------


def test_vectors_of_the_same_model_are_taken_and_not_made(
    here: SemanticCache, file: Path, bench: Bench
) -> None:
    here.update(Request(Q), "1")
    here.export_entries(file, vectors=True)
    there = bench.open(path=None, embedder=FailingEmbedder(error=ValueError("offline")))
    assert there.import_entries(file).embedded == 0
    assert contents(there) == contents(here)


def renamed(file: Path, fingerprint: str, dimension: int = WORDS) -> None:
    """As if another model had made the vectors."""
    lines = file.read_text().splitlines()
    header = {**json.loads(lines[0]), "fingerprint": fingerprint, "dimension": dimension}
    file.write_text("\n".join([json.dumps(header), *lines[1:]]))


def test_vectors_of_another_model_are_made_anew(
    here: SemanticCache, there: SemanticCache, file: Path
) -> None:
    here.update(Request(Q), "1")
    here.export_entries(file, vectors=True)
    renamed(file, "another")
    assert there.import_entries(file).embedded == 1
    assert listed(there)[0].fingerprint == WordEmbedder.fingerprint


def test_without_embedding_they_are_kept_until_a_rebuild(
    here: SemanticCache, there: SemanticCache, file: Path
) -> None:
    here.update(Request(Q), "1")
    here.export_entries(file, vectors=True)
    renamed(file, "another")
    assert there.import_entries(file, embed=False).embedded == 0
    assert listed(there)[0].fingerprint == "another"
    assert there.lookup(Request(Q)) is not None
    assert there.lookup(Request(PARAPHRASE)) is None
    there.rebuild()
    assert there.lookup(Request(PARAPHRASE)) is not None


@pytest.mark.parametrize("embed", [True, False])
def test_vectors_of_one_model_must_have_one_length(
    embed: bool, here: SemanticCache, there: SemanticCache, file: Path
) -> None:
    if not embed:  # then the model here is not asked, and only what is stored tells
        there.update(Request("a"), "1")
    here.update(Request(Q), "1")
    here.export_entries(file, vectors=True)
    header, line = map(json.loads, file.read_text().splitlines())
    line["vector"] = base64.b64encode(np.array([0.6, 0.8], "<f4").tobytes()).decode()
    file.write_text(f"{json.dumps({**header, 'dimension': 2})}\n{json.dumps(line)}")
    with pytest.raises(SemcacheError, match=f"have 2 numbers, here they have {WORDS}"):
        there.import_entries(file, embed=embed)
    assert Q not in [one.question for one in listed(there)]


@pytest.mark.parametrize("embed", [True, False])
def test_an_exact_only_entry_has_no_vector_whatever_the_file_says(
    embed: bool, here: SemanticCache, there: SemanticCache, file: Path
) -> None:
    here.update(Request(Q), "1")
    here.export_entries(file, vectors=True)
    file.write_text(file.read_text().replace('"question"', '"exact_only": true, "question"'))
    there.import_entries(file, embed=embed)
    assert there.lookup(Request(Q)) is not None
    assert there.lookup(Request(PARAPHRASE)) is None


def test_a_question_that_the_model_does_not_read_gets_no_vector(
    there: SemanticCache, log: Any
) -> None:
    done = there.import_entries(log({"question": "word " * 50, "response": "1"}))
    assert (done.stored, done.embedded) == (1, 0)


def test_an_embedder_that_fails_stores_nothing_of_its_batch(log: Any, bench: Bench) -> None:
    there = bench.open(embedder=FailingEmbedder(error=ValueError("offline")))
    with pytest.raises(EmbedderError, match="offline"):
        there.import_entries(log({"question": Q, "response": "1"}))
    assert listed(there) == []


def test_an_embedder_that_gives_no_numbers_stores_nothing(log: Any, bench: Bench) -> None:
    there = bench.open(embedder=FailingEmbedder(nan=True))
    with pytest.raises(EmbedderError, match="finite"):
        there.import_entries(log({"question": Q, "response": "1"}))
    assert listed(there) == []


# -- logs ------------------------------------------------------------------------------------------


def test_a_log_warms_a_cache_up(there: SemanticCache, log: Any) -> None:
    file = log(
        {"question": Q, "response": "1", "latency_ms": 812},
        {"question": Q, "response": "2", "scope": "s", "namespace": "acme", "tags": ["t"]},
    )
    assert there.import_entries(file) == Imported(read=2, stored=2, embedded=2)
    for request, answer in [
        (Request(PARAPHRASE), "1"),
        (Request(PARAPHRASE, "s", namespace="acme"), "2"),
    ]:
        hit = there.lookup(request)
        assert hit is not None and hit.response == answer
    assert there.invalidate(["t"], "acme") == 1


def test_a_line_without_a_time_replaces_nothing(
    there: SemanticCache, log: Any, bench: Bench
) -> None:
    there.update(Request(Q), "learnt")
    bench.clock.now += 1
    file = log({"question": Q, "response": "logged"}, {"question": "new", "response": "first"})
    assert there.import_entries(file).present == 1
    before = listed(there)
    bench.clock.now += 1
    assert there.import_entries(file).present == 2
    assert [one.id for one in listed(there)] == [one.id for one in before]
    assert [one.response for one in before] == ["learnt", "first"]


def test_lines_with_a_time_are_weighed_by_it(there: SemanticCache, log: Any) -> None:
    lines = [{"question": Q, "response": str(n), "created": n} for n in (5, 9, 7)]
    there.import_entries(log(*lines))
    assert [one.response for one in listed(there)] == ["9"]


def test_the_caches_ttl_is_for_lines_of_a_log_that_say_none(log: Any, bench: Bench) -> None:
    now = bench.clock.now
    there = bench.open(ttl=50)
    file = log(
        {"question": "a", "response": "1"},
        {"question": "b", "response": "2", "expires": NEVER},
        {"question": "c", "response": "3", "created": now - 50},
        {"question": "d", "response": "4", "created": now - 49},
    )
    assert there.import_entries(file).expired == 1
    expiries = {one.question: one.expires for one in listed(there)}
    assert expiries == {"a": now + 50, "b": NEVER, "d": now + 1}


def test_the_entries_of_an_export_keep_their_own_expiry(
    here: SemanticCache, file: Path, bench: Bench
) -> None:
    here.update(Request(Q), "1")
    here.export_entries(file)
    there = bench.open(path=None, ttl=50)
    there.import_entries(file)
    assert listed(there)[0].expires is None


# -- what may be stored, and how much --------------------------------------------------------------


def test_admit_and_redact_see_every_entry(here: SemanticCache, file: Path, bench: Bench) -> None:
    here.update(Request("refused", tags=("t",)), "1")
    here.update(Request("the secret"), "2")
    here.update(Request("fine"), "wraps: a secret", answer="a secret")
    here.export_entries(file, vectors=True)
    seen: list[Request] = []

    def admit(request: Request, response: str) -> bool:
        seen.append(request)
        return response != "1"

    there = bench.open(
        path=None, admit=admit, redact=lambda text: text.replace("secret", "[removed]")
    )
    assert there.import_entries(file) == Imported(read=3, stored=1, refused=2)
    (found,) = listed(there)
    assert (found.response, found.answer_text) == ("wraps: a [removed]", "a [removed]")
    assert seen[0] == Request("refused", namespace="default", tags=("t",))


def test_a_hook_that_fails_stores_nothing(log: Any, bench: Bench) -> None:
    there = bench.open(redact=lambda text: None)
    with pytest.raises(SemcacheError, match="redact must return"):
        there.import_entries(log({"question": Q, "response": "1"}))
    assert listed(there) == []


@pytest.mark.usefixtures("still")
def test_no_more_entries_stay_than_may_be_held_the_last_used_ones(
    here: SemanticCache, file: Path, bench: Bench
) -> None:
    there = bench.open(path=None, max_entries=3)
    there.update(Request("used"), "x")
    for n in range(4):
        bench.clock.now += 1
        here.update(Request(str(n)), str(n))
    here.export_entries(file)
    there.lookup(Request("used"))
    there.import_entries(file)
    assert [one.question for one in listed(there)] == ["used", "2", "3"]


# -- a file that is wrong; batches -----------------------------------------------------------------


def test_nothing_is_stored_of_a_file_with_a_wrong_line(
    there: SemanticCache, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "BATCH", 1)
    file.write_text('{"question": "a", "response": "1"}\n' * 3 + '{"question": "a"}\n')
    with pytest.raises(SemcacheError, match=r"entries\.jsonl, line 4: response is missing"):
        there.import_entries(file)
    assert listed(there) == []


@pytest.mark.parametrize(
    ("entries", "size", "batches"), [(2, 1 << 20, [2, 2, 1]), (9, 150, [2] * 2)]
)
def test_batches_end_by_number_and_by_bytes(
    entries: int, size: int, batches: list[int], there: SemanticCache, log: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(transfer, "BATCH", entries)
    monkeypatch.setattr(transfer, "BATCH_BYTES", size)
    n = sum(batches)
    lines = [{"question": f"question {i}", "response": "x" * 50} for i in range(n)]
    told: list[tuple[int, int]] = []
    there.import_entries(log(*lines), progress=lambda *counts: told.append(counts))
    assert told == [(sum(batches[: i + 1]), n) for i in range(len(batches))]
    assert len(listed(there)) == n


# -- whatever there is -----------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
LINE = {"namespace": "n", "scope": "", "question": "a?", "response": "b", "created": 100.0}
HEADER = {
    "format": "semcache entries",
    "version": 1,
    "exported": 5.0,
    "fingerprint": "model",
    "dimension": 2,
}
NAMES = sorted(jsonl.ExportLine.model_fields)
NEARLY = [
    st.dictionaries(st.sampled_from(NAMES), JSON, max_size=3).map(lambda d: {**LINE, **d}),
    st.dictionaries(st.sampled_from(sorted(HEADER)), JSON, max_size=2).map(
        lambda d: {**HEADER, **d}
    ),
]
BYTES = st.one_of(
    st.binary(max_size=30),
    *(one.map(lambda d: json.dumps(d).encode("utf-8", "surrogatepass")) for one in (JSON, *NEARLY)),
)


@pytest.fixture(scope="module")
def any_cache(shared: Bench) -> SemanticCache:
    return shared.open(path=None)


@given(st.lists(BYTES, max_size=4), st.booleans())
def test_any_bytes_are_entries_or_an_error_that_names_the_line(
    any_cache: SemanticCache, shared: Bench, lines: list[bytes], embed: bool
) -> None:
    file = shared.directory / "any.jsonl"
    file.write_bytes(b"\n".join(lines))
    try:
        done = any_cache.import_entries(file, embed=embed)
    except SemcacheError as error:
        assert f"{file}, line " in str(error)
    else:
        assert done.read == done.stored + done.present + done.expired


# -- both forms ------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [Sync, Async])
async def test_both_forms_do_the_same(form: type[Sync], bench: Bench, file: Path) -> None:
    call = form(bench.open())
    await call("update", Request(Q, namespace="n"), "1")
    exported = await call("export_entries", str(file), "n", vectors=True)
    await call("clear", "n")
    told: list[tuple[int, int]] = []
    imported = await call("import_entries", file, progress=lambda *now: told.append(now))
    assert (exported, imported) == (Exported(1, 1, 0), Imported(read=1, stored=1))
    assert told == [(1, 1)]


@pytest.mark.parametrize("name", ["export_entries", "import_entries"])
def test_the_async_twin_has_the_same_parameters(name: str) -> None:
    twin = getattr(SemanticCache, f"a{name}")
    assert inspect.iscoroutinefunction(twin)
    ours = inspect.signature(getattr(SemanticCache, name))
    assert inspect.signature(twin).parameters == ours.parameters


def test_an_imported_entry_is_seen_by_another_process_that_was_looking(
    bench: Bench, here: SemanticCache, log: Any
) -> None:
    here.update(Request("reset my router", "s"), "other")
    assert here.lookup(Request("my router reset", "s")) is not None
    bench.open().import_entries(log({"question": Q, "response": "1", "scope": "s"}))
    hit = here.lookup(Request(PARAPHRASE, "s"))
    assert hit is not None and hit.response == "1"


def test_the_clock_of_an_import_is_the_caches(log: Any) -> None:
    with SemanticCache(path=None, clock=ManualClock(7.0)) as there:
        there.import_entries(log({"question": "", "response": "1"}), embed=False)
        assert listed(there)[0].created == 7.0


# -- killed half-way -------------------------------------------------------------------------------

IMPORT = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from fakes import WordEmbedder
from semcache_core import SemanticCache
from semcache_core.transfer import transfer

transfer.BATCH = 40
path, artefact, file = sys.argv[1:]
with SemanticCache(path=path, artefact=artefact, embedder=WordEmbedder()) as cache:
    cache.import_entries(file, progress=lambda done, total: print(done, flush=True))
"""


@pytest.mark.slow
@pytest.mark.parametrize("batches", [1, 4, 9])
def test_an_import_that_was_killed_ends_as_if_it_had_not_been(
    batches: int, bench: Bench, here: SemanticCache, there: SemanticCache, file: Path
) -> None:
    for n in range(500):
        here.update(Request(f"question {n}", tags=("t",)), f"answer {n}")
        if n % 3 == 0:  # replaced: its id is not that of the order of questions
            here.update(Request(f"question {n // 2}", tags=("t",)), f"later {n}")
    here.export_entries(file)
    target = bench.directory / "killed"
    arguments = [str(target), str(bench.artefact), str(file)]
    child = subprocess.Popen(
        [sys.executable, "-c", IMPORT, *arguments], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    for _ in range(batches):
        assert child.stdout.readline()
    child.kill()
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    killed = bench.open(path=target)
    stored = len(listed(killed))
    assert 40 * batches <= stored < 500
    assert killed.import_entries(file).present == stored
    there.import_entries(file)
    assert contents(killed) == contents(there) == contents(here)
    assert [one.id for one in listed(killed)] == [one.id for one in listed(there)]
