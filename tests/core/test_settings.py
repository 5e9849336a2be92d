"""Settings: where they come from, and what is refused."""

import inspect
from pathlib import Path
from typing import Any

import pytest
from semcache_core import CacheSettings, SemanticCache, SemcacheError, settings
from semcache_core.errors import SettingsError
from semcache_core.settings import CacheOptions, check_names, settings_from


@pytest.mark.parametrize("rate", [0, 1, -1, 2, float("nan"), float("inf"), "much", None])
def test_an_unusable_error_rate_is_refused_with_its_value_and_the_fix(
    rate: Any, tmp_path: Path
) -> None:
    with pytest.raises(SemcacheError) as raised:
        SemanticCache(path=tmp_path / "new", max_error_rate=rate)
    text = str(raised.value)
    assert "max_error_rate" in text and repr(rate) in text and "0.02" in text
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ttl", 0),
        ("ttl", -1),
        ("ttl", float("nan")),
        ("ttl", "soon"),
        ("max_entries", 0),
        ("max_entries", -5),
        ("max_entries", 1.5),
        ("max_bytes", 0),
        ("max_response_bytes", -1),
        ("eviction", "fifo"),
        ("namespace", ""),
        ("namespace", 5),
        ("namespace", None),
        ("path", 5),
        ("scan_limit", -1),
        ("scan_memory_mb", 0),
        ("path", "~no-such-user-here/x"),
        ("path", ""),
        ("path", " \t"),
        ("path", "a\0b"),
        ("path", "a\ud800b"),
        ("artefact", ""),
        ("artefact", "a\0b"),
        ("audit_rate", -0.1),
        ("audit_rate", 1.1),
        ("audit_rate", float("nan")),
        ("audit_rate", "some"),
        ("shadow", "perhaps"),
        ("shadow", 2),
        ("confirmations", -1),
        ("confirmations", 1.5),
        ("confirmations", None),
    ],
)
def test_an_unusable_value_is_refused_by_name_and_value(name: str, value: Any) -> None:
    with pytest.raises(SemcacheError) as raised:
        settings_from({name: value})  # type: ignore[misc]
    assert name in str(raised.value) and repr(value) in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value", "fix"),
    [
        ("audit_rate", 2, r"share from 0 \(never\) to 1, such as 0.01"),
        ("confirmations", -1, "whole number, 0 for none"),
        ("eviction", "fifo", "'lru', 'lfu' or 'cost'"),
        ("max_bytes", 0, "whole number above 0.*None for no limit"),
        ("max_response_bytes", 0, "whole number above 0, or None for no limit"),
    ],
)
def test_the_fix_is_named(name: str, value: Any, fix: str) -> None:
    with pytest.raises(SettingsError, match=rf"{name} cannot be {value!r}.*{fix}"):
        settings_from({name: value})  # type: ignore[misc]


def test_nothing_is_audited_withheld_or_waited_for_unless_it_is_said() -> None:
    settings = settings_from({})
    assert (settings.audit_rate, settings.shadow, settings.confirmations) == (0.0, False, 0)


@pytest.mark.parametrize("rate", [0, 0.01, 1])
def test_none_and_all_may_be_audited(rate: float) -> None:
    assert settings_from({"audit_rate": rate}).audit_rate == rate


def test_an_unknown_setting_is_refused_with_those_that_exist() -> None:
    with pytest.raises(SemcacheError, match=r"max_eror_rate is not a setting.*max_error_rate"):
        settings_from({"max_eror_rate": 0.1})  # type: ignore[typeddict-unknown-key]


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PATH": "~/somewhere",
        "MAX_ERROR_RATE": "0.05",
        "NAMESPACE": "acme",
        "TTL": "60",
        "MAX_ENTRIES": "7",
        "MAX_BYTES": "1000000",
        "MAX_RESPONSE_BYTES": "5000",
        "EVICTION": "cost",
        "SCAN_LIMIT": "11",
        "AUDIT_RATE": "0.25",
        "SHADOW": "true",
        "CONFIRMATIONS": "3",
    }.items():
        monkeypatch.setenv(f"SEMCACHE_{name}", value)
    settings = settings_from({})
    assert settings.path == Path.home() / "somewhere"
    assert (settings.max_error_rate, settings.namespace) == (0.05, "acme")
    assert (settings.ttl, settings.max_entries, settings.scan_limit) == (60, 7, 11)
    assert (settings.max_bytes, settings.max_response_bytes) == (1_000_000, 5_000)
    assert settings.eviction == "cost"
    assert (settings.audit_rate, settings.shadow, settings.confirmations) == (0.25, True, 3)


def test_an_argument_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMCACHE_MAX_ERROR_RATE", "0.05")
    monkeypatch.setenv("SEMCACHE_PATH", "/from/environment")
    settings = settings_from({"max_error_rate": 0.1, "path": None})
    assert settings.max_error_rate == 0.1
    assert settings.path is None


def test_a_bad_value_in_the_environment_is_a_semcache_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SEMCACHE_TTL", "soon")
    with pytest.raises(SemcacheError, match=r"ttl cannot be 'soon'.*seconds"):
        settings_from({})


def test_the_home_directory_is_filled_in() -> None:
    assert settings_from({}).path == Path.home() / ".cache" / "semcache"


def test_every_option_is_a_setting() -> None:
    assert set(CacheOptions.__annotations__) == set(CacheSettings.model_fields)


def test_every_object_that_a_cache_takes_is_a_known_name() -> None:
    parameters = set(inspect.signature(SemanticCache.__init__).parameters)
    check_names(parameters - {"self", "options"})


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        *((name, "embedder=.*artefact=") for name in ("embeddings", "embedding", "vectorizer")),
        *(
            (name, r"max_error_rate=.*such as 0\.02; do not convert the number")
            for name in ("distance_threshold", "score_threshold", "similarity_threshold")
        ),
        ("redis_url", "path=.*ledger_url="),
        ("prefix", "namespace="),
        ("ttl_seconds", "ttl=, in seconds"),
        ("maxsize", "max_entries="),
    ],
)
def test_an_argument_of_another_cache_names_ours(name: str, ours: str) -> None:
    with pytest.raises(SettingsError, match=rf"^{name} is not a setting of semcache; .*{ours}"):
        SemanticCache(path=None, **{name: 0.1})


def test_the_value_of_an_argument_of_another_cache_is_not_repeated() -> None:
    with pytest.raises(SettingsError) as raised:
        SemanticCache(path=None, redis_url="redis://:secret@host")  # type: ignore[call-arg]
    assert "secret" not in str(raised.value)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """What was logged before, by other tests, is logged again."""
    settings._warn_of_unknown.cache_clear()
    return monkeypatch


def test_an_unknown_variable_is_logged_once_with_the_nearest_setting_and_without_its_value(
    environment: pytest.MonkeyPatch, warnings_of: Any
) -> None:
    environment.setenv("SEMCACHE_MAX_EROR_RATE", "0.123")
    for _ in range(3):
        assert settings_from({}).max_error_rate == 0.02
    (logged,) = warnings_of()
    assert "SEMCACHE_MAX_EROR_RATE is not a setting" in logged
    assert "did you mean SEMCACHE_MAX_ERROR_RATE?" in logged and "0.123" not in logged


def test_variables_of_settings_and_of_other_programs_are_not_logged(
    environment: pytest.MonkeyPatch, warnings_of: Any
) -> None:
    for name in ("SEMCACHE_NAMESPACE", "semcache_ttl", "_SEMCACHE_COMPLETE", "SEMCACHER_X"):
        environment.setenv(name, "5")
    settings_from({})
    assert warnings_of() == []
