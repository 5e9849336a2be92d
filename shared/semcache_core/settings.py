"""All settings in one place; each can also come from the environment as SEMCACHE_<NAME>."""

import os
from pathlib import Path
from typing import Any, Literal, TypedDict

import platformdirs
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from semcache_core.errors import SettingsError


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

    model_config = SettingsConfigDict(env_prefix="SEMCACHE_", extra="forbid", frozen=True)

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


def settings_from(options: CacheOptions) -> CacheSettings:
    """Settings from arguments and environment; raises SettingsError naming value and fix."""
    try:
        return CacheSettings(**options)  # type: ignore[arg-type]
    except ValidationError as error:
        raise SettingsError("; ".join(_explain(problem) for problem in error.errors())) from None


def _explain(problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = ", ".join(CacheSettings.model_fields)
        return f"{name} is not a setting of semcache; the settings are {known}"
    fix = _FIXES.get(name, "see CacheSettings for what it means")
    return f"{name} cannot be {problem['input']!r} ({problem['msg']}); {fix}"


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
