"""Whatever is read is read, or refused as promised: `scripts/fuzz.py`, in short."""

import importlib.util
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]


def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fuzz, audit = script("fuzz"), script("audit")
PARSERS = fuzz.parsers()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PARSERS)
def test_a_mutated_input_is_read_or_refused_as_promised(name: str) -> None:
    @settings(max_examples=60)
    @given(st.integers(0, 2**32))
    def attempted(seed: int) -> None:
        fuzz.attempt(PARSERS[name], random.Random(seed))

    attempted()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PARSERS)
def test_the_fuzzer_makes_inputs_that_are_read(name: str) -> None:
    parser = PARSERS[name]
    read = sum(fuzz.attempt(parser, random.Random(seed)) for seed in range(100))
    assert read > 5


def test_an_error_that_was_not_promised_ends_the_fuzzing() -> None:
    def breaks(rng: random.Random) -> None:
        raise KeyError("unthought of")

    with pytest.raises(KeyError):
        fuzz.attempt(fuzz.Parser(breaks, (ValueError,)), random.Random(0))


def test_an_audit_tells_each_vulnerability_and_whether_it_can_be_mended() -> None:
    def found(*fixes: str) -> str:
        one = f'{{"id": "PYSEC-1", "fix_versions": {list(fixes)}}}'.replace("'", '"')
        return f'{{"dependencies": [{{"name": "a", "version": "1", "vulns": [{one}]}}]}}'

    summary = "1 known vulnerabilities in 1 packages"
    assert audit.report(found("2")) == (["a 1: PYSEC-1, mended in 2", summary], True)
    assert audit.report(found()) == (["a 1: PYSEC-1, mended in no version yet", summary], False)


def test_an_audit_that_could_ask_about_no_package_is_none() -> None:
    """pip-audit calls that "no known vulnerabilities"."""
    skipped = '{"name": "b", "skip_reason": "not found"}'
    assert audit.report(f'{{"dependencies": [{skipped}]}}') is None
    assert audit.report("no route to the database") is None
    clean = '{"name": "a", "version": "1", "vulns": []}'
    summary = "0 known vulnerabilities in 1 packages, not checked: b"
    assert audit.report(f'{{"dependencies": [{skipped}, {clean}]}}') == ([summary], False)
