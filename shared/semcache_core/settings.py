"""All settings in one place; each can also come from the environment as SEMCACHE_<NAME>."""

import functools
import logging
import os
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypedDict

import platformdirs
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from semcache_core.errors import SettingsError

log = logging.getLogger("semcache")

_PREFIX = "SEMCACHE_"
_OBJECTS = (
    *("embedder", "chroma_client", "clock", "verifier", "same_answer", "admit", "redact", "prices"),
)
"""The arguments of `SemanticCache` that are objects of the app, and so no settings."""


def default_path() -> Path:
    """The user's cache directory on this system: `~/.cache/semcache` on Linux."""
    return Path(platformdirs.user_cache_dir("semcache", appauthor=False))


class SharedOptions(TypedDict, total=False):
    """Keyword arguments of `SemanticCache` and every adapter, described in `CacheSettings`."""

    path: str | os.PathLike[str] | None
    max_error_rate: float
    ttl: float | None
    max_entries: int | None
    max_bytes: int | None
    max_response_bytes: int | None
    eviction: Literal["lru", "lfu", "cost"]
    artefact: str | os.PathLike[str] | None
    ledger_url: str | None
    audit_rate: float
    shadow: bool
    confirmations: int
    scan_limit: int
    scan_memory_mb: int
    namespace_in_telemetry: bool


class CacheOptions(SharedOptions, total=False):
    """All keyword arguments of `SemanticCache`; an adapter's `namespace` may be a callable too."""

    namespace: str


class CacheSettings(BaseSettings):
    """The settings of a cache. An argument wins over the environment, that over the default."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, extra="forbid", frozen=True)

    path: Path | None = Field(default_factory=default_path)
    """Directory of the ledger and the index; None keeps all in memory, gone with the process."""

    max_error_rate: float = Field(default=0.02, gt=0, lt=1)
    """At most this share of the answers served by meaning may be wrong."""

    namespace: str = Field(default="default", min_length=1)
    """The tenant of requests that name none."""

    ttl: float | None = Field(default=None, gt=0)
    """Seconds an entry lives; None is for ever."""

    max_entries: int | None = Field(default=None, gt=0)
    """With more entries than this, some are evicted."""

    max_bytes: int | None = Field(default=None, gt=0)
    """With more bytes than this in all entries, some are evicted. Texts, vectors and tags count,
    and 1 KiB for each entry."""

    max_response_bytes: int | None = Field(default=8 * 2**20, gt=0)
    """A larger response is not stored, and no older one is kept in its place."""

    eviction: Literal["lru", "lfu", "cost"] = "lru"
    """Which entries are evicted first: the least recently used, the least frequently used, or those
    that save least for their size (see the docs)."""

    artefact: Path | None = None
    """A directory with model and calibration; None is the shipped one."""

    ledger_url: str | None = Field(default=None, repr=False)  # it may hold a password
    """An SQLAlchemy URL in place of the SQLite file under `path`, such as
    postgresql+psycopg://user@host/database for a ledger that many hosts share."""

    audit_rate: float = Field(default=0.0, ge=0, le=1)
    """Share of the hits by meaning for which the model is asked too, to measure the wrong ones."""

    shadow: bool = False
    """Decide and record, but serve nothing by meaning, to see what would have happened."""

    confirmations: int = Field(default=0, ge=0)
    """An entry is served by meaning to others than its writer once so many other writers stored the
    same answer; 0 is off. See `Request.writer`."""

    scan_limit: int = Field(default=20_000, ge=0)
    """Scopes with more entries are searched through Chroma, others by scanning (see the docs)."""

    scan_memory_mb: int = Field(default=256, gt=0)
    """Memory for the vectors of scanned scopes; the least recently used are dropped."""

    namespace_in_telemetry: bool = False
    """Whether metrics and spans of lookups and updates name the tenant. Off by default: a name may
    be a person's, and each makes a time series."""

    @field_validator("path", "artefact", mode="before")
    @classmethod
    def _names_a_directory(cls, value: object) -> object:
        """An empty path would be the directory that the app happens to run in."""
        if isinstance(value, str | os.PathLike):
            name = os.fspath(value)
            if isinstance(name, str) and (not name.strip() or "\0" in name):
                raise ValueError("this names no directory")
            if isinstance(name, str):
                os.fsencode(name)  # UnicodeEncodeError, a ValueError, for a lone surrogate
        return value

    @field_validator("path", "artefact")
    @classmethod
    def _expand(cls, value: Path | None) -> Path | None:
        try:
            # absolute: a process that changes its directory must not open another cache
            return None if value is None else value.expanduser().absolute()
        except RuntimeError as error:  # of a user that does not exist
            raise ValueError(str(error)) from None


_FIELDS = tuple(CacheSettings.model_fields)


def settings_from(options: CacheOptions) -> CacheSettings:
    """Settings from arguments and environment; raises SettingsError naming value and fix.

    A variable SEMCACHE_<NAME> that is no setting is logged.
    """
    _warn_of_unknown(tuple(sorted(name for name in os.environ if _is_unknown(name))))
    try:
        return CacheSettings(**options)  # type: ignore[arg-type]
    except ValidationError as error:
        raise SettingsError("; ".join(_explain(problem) for problem in error.errors())) from None


def check_names(names: Iterable[str]) -> None:
    """Raise SettingsError unless each is the name of a setting or of an argument of a cache."""
    known = (*_FIELDS, *_OBJECTS)
    if problems := [_unknown(name) for name in names if name not in known]:
        raise SettingsError("; ".join(problems))


def _is_unknown(variable: str) -> bool:
    """Case does not matter, as for the settings themselves."""
    name = variable.upper()
    return name.startswith(_PREFIX) and name.removeprefix(_PREFIX).lower() not in _FIELDS


@functools.cache  # every cache reads the environment: it is logged once, and again if it changes
def _warn_of_unknown(variables: tuple[str, ...]) -> None:
    for variable in variables:  # never its value, which may be a secret
        near = get_close_matches(variable.upper().removeprefix(_PREFIX).lower(), _FIELDS, 1)
        meant = f"; did you mean {_PREFIX}{near[0].upper()}?" if near else ""
        log.warning(
            "semcache: the environment variable %s is not a setting and changes nothing%s",
            variable,
            meant,
        )


def _explain(problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return _unknown(name)
    fix = _FIXES.get(name, "see CacheSettings for what it means")
    return f"{name} cannot be {problem['input']!r} ({problem['msg']}); {fix}"


def _unknown(name: str) -> str:
    """What to give in place of an argument that a cache does not have."""
    problem = f"{name} is not a setting of semcache; "
    if (instead := _OTHER_CACHES.get(name)) is not None:
        return problem + instead
    if near := get_close_matches(name, (*_FIELDS, *_OBJECTS), 1):
        problem += f"did you mean {near[0]}? "
    return f"{problem}the settings are {', '.join(_FIELDS)}"


_FIXES = {
    "max_error_rate": "give a share between 0 and 1, such as 0.02 for at most 2 % wrong answers",
    "audit_rate": "give a share from 0 (never) to 1, such as 0.01",
    "confirmations": "give a whole number, 0 for none",
    "shadow": "give True or False",
    "namespace_in_telemetry": "give True or False",
    "ttl": "give seconds above 0, or None to keep entries for ever",
    "max_entries": "give a whole number above 0, or None for no limit",
    "max_bytes": "give a whole number above 0, such as 2**30 for a gigabyte, or None for no limit",
    "max_response_bytes": "give a whole number above 0, or None for no limit",
    "eviction": "give 'lru', 'lfu' or 'cost'",
    "namespace": "give a non-empty text",
    "path": "give a directory, or None to keep everything in memory",
}

# Arguments of langchain-redis, langchain-community, RedisVL, GPTCache, LiteLLM and Upstash.
_INSTEAD = (
    (
        "give embedder=, with an artefact= that is calibrated for it, or leave both out for the "
        "shipped model (docs/own-embedder.md)",
        (
            "embeddings",
            "embedding",
            "embedding_func",
            "embedding_model",
            "embed_model",
            "vectorizer",
            "redis_semantic_cache_embedding_model",
            "qdrant_semantic_cache_embedding_model",
        ),
    ),
    (
        "give max_error_rate=, the share of the served answers that may be wrong, such as 0.02; "
        "do not convert the number, as a similarity or a distance is not the probability that an "
        "answer is right",
        (
            "distance_threshold",
            "score_threshold",
            "similarity_threshold",
            "search_threshold",
            "threshold",
            "min_proximity",
        ),
    ),
    (
        "leave it out: the probability that an answer is right decides, see max_error_rate",
        ("similarity_evaluation", "evaluation", "distance_metric"),
    ),
    (
        "give path=, a directory on this host, or ledger_url=, a PostgreSQL database that many "
        "hosts share; answers are not kept in Redis or in a vector database",
        (
            "redis_url",
            "redis_client",
            "redis",
            "redis_",
            "host",
            "port",
            "url",
            "data_manager",
            "connection_string",
            "opensearch_url",
            "qdrant_api_base",
            "cluster",
            "session",
        ),
    ),
    (
        "give path=, a directory, or ledger_url=, an SQLAlchemy URL",
        ("database_path", "data_dir", "disk_cache_dir", "cache_dir", "engine"),
    ),
    (
        "give namespace= to keep tenants apart, or path= to keep caches apart",
        (
            "name",
            "prefix",
            "cache_name",
            "collection_name",
            "index_name",
            "redis_semantic_cache_index_name",
            "qdrant_collection_name",
        ),
    ),
    (
        "give ttl=, in seconds",
        ("ttl_seconds", "expiration", "default_in_memory_ttl", "default_in_redis_ttl"),
    ),
    ("give max_entries= or max_bytes=", ("maxsize", "max_size")),
    ("give scope= or tags= with each Request", ("filterable_fields",)),
    ("give split= to an adapter: it finds the question in a text", ("pre_embedding_func",)),
)
_OTHER_CACHES = {name: instead for instead, names in _INSTEAD for name in names}
