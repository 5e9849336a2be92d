"""All settings in one place; each can also come from the environment as SEMCACHE_<NAME>."""

import os
from pathlib import Path
from typing import Any, TypedDict

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from semcache_core.errors import SettingsError


class SharedOptions(TypedDict, total=False):
    """Keyword arguments of every adapter as of `SemanticCache`, described in `CacheSettings`."""

    path: str | os.PathLike[str] | None
    max_error_rate: float
    ttl: float | None
    max_entries: int | None
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
    """What a cache can be told. An argument wins over the environment, that over the default."""

    model_config = SettingsConfigDict(env_prefix="SEMCACHE_", extra="forbid", frozen=True)

    path: Path | None = Path("~/.cache/semcache")
    """Directory of the ledger and the index; None keeps all in memory, gone with the process."""

    max_error_rate: float = Field(default=0.02, gt=0, lt=1)
    """Of the answers served by meaning, at most this share may be wrong."""

    namespace: str = Field(default="default", min_length=1)
    """The tenant of requests that name none."""

    ttl: float | None = Field(default=None, gt=0)
    """Seconds an entry lives; None is for ever."""

    max_entries: int | None = Field(default=None, gt=0)
    """More than these, and the least recently used entry is evicted."""

    artefact: Path | None = None
    """A directory with model and calibration; None is the shipped one."""

    ledger_url: str | None = Field(default=None, repr=False)  # it may hold a password
    """An SQLAlchemy URL in place of the SQLite file under `path`, such as
    postgresql+psycopg://user@host/database for a ledger that many hosts share."""

    audit_rate: float = Field(default=0.0, ge=0, le=1)
    """Share of the hits by meaning that the model is asked again, to measure how many are wrong."""

    shadow: bool = False
    """Decide and record, but serve nothing by meaning: see what would have happened."""

    confirmations: int = Field(default=0, ge=0)
    """An entry is served by meaning to others than its writer once so many other writers were given
    the same answer; 0 is off. See `Request.writer`."""

    scan_limit: int = Field(default=20_000, ge=0)
    """Scopes with more entries are searched through Chroma, others by scanning (see the docs)."""

    scan_memory_mb: int = Field(default=256, gt=0)
    """Memory for the vectors of scanned scopes; the least recently used are dropped."""

    namespace_in_telemetry: bool = False
    """Metrics and spans of lookups and updates name the tenant; off, as its name may be a person's,
    and each name is a time series of its own."""

    @field_validator("path", "artefact")
    @classmethod
    def _expand(cls, value: Path | None) -> Path | None:
        try:
            return None if value is None else value.expanduser()
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
    "namespace": "give a non-empty text",
    "path": "give a directory, or None to keep everything in memory",
}
