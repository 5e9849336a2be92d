"""The fields of a JSON object that anybody may have written, each read as what it should be."""

import base64
import codecs
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from typing_extensions import Self

from semcache_core.errors import SemcacheError
from semcache_core.storage.entries import ListedEntry
from semcache_core.types import MOST_TOKENS, Vector


@dataclass(frozen=True)
class Field:
    """How a value is read: `read` gives it, or raises ValueError, TypeError or OverflowError, where
    an error then says that the line should give `fix`.
    """

    read: Callable[[Any], Any]
    fix: str


def parse_object(line: bytes, where: str, example: str) -> dict[str, Any]:
    """The JSON object in a line of UTF-8, in which lone surrogates may be; a SemcacheError names
    `where` and shows `example`.
    """
    try:
        data: Any = json.loads(line.decode("utf-8", "surrogatepass"), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise SemcacheError(
            f"{where} is not JSON in UTF-8 ({error}); write an object like {example}"
        ) from None
    if not isinstance(data, dict):
        raise SemcacheError(f"{where} is {shown(data)}; write an object like {example}")
    return data


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def read_fields(data: dict[str, Any], fields: Mapping[str, Field], where: str) -> dict[str, Any]:
    """Those of `fields` that are there and not null; a SemcacheError names `where` and field."""
    found = {}
    for name, field in fields.items():
        if (value := data.get(name)) is None:
            continue
        try:
            found[name] = field.read(value)
        except (TypeError, ValueError, OverflowError):
            raise SemcacheError(f"{where}: {name} is {shown(value)}; give {field.fix}") from None
    return found


def shown(value: object) -> str:
    """A value as an error shows it: never all of a long one."""
    if isinstance(value, str | int | float):
        return ascii(value)[:60]
    return "null" if value is None else f"a {type(value).__name__}"


def exactly(kind: type) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if type(value) is not kind:  # a bool is no int here
            raise TypeError
        return value

    return read


def within(low: float, high: float) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        if type(value) not in (int, float) or not low <= value <= high:
            raise ValueError
        number = float(value)
        if not math.isfinite(number):
            raise ValueError
        return number

    return read


def non_empty(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError
    return value


def whole(least: int, most: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if type(value) is not int or not least <= value <= most:
            raise ValueError
        return value

    return read


def list_of(read: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    def read_all(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise TypeError
        return tuple(read(one) for one in value)

    return read_all


def sha256(value: Any) -> bytes:
    key = bytes.fromhex(value)
    if len(key) != 32:
        raise ValueError
    return key


def in_base64(value: Any) -> bytes:
    return base64.b64decode(exactly(str)(value), validate=True)


FORMAT = "semcache entries"
VERSION = 1
MAX_LINE_BYTES = 64 * 2**20

_EXAMPLE = '{"question": "...", "response": "..."}'
_UNIT = 1e-3  # how far the length of a float32 unit vector may be from 1
_MAX_DIMENSION = 1 << 16
_MOST_DOUBT = 64.0  # more than `posterior.doubt` ever gives


@dataclass(frozen=True)
class Header:
    """The first line of an export: when it was made, in seconds since the epoch, and the model of
    its vectors with their length; both None where it has none.
    """

    exported: float
    fingerprint: str | None = None
    dimension: int | None = None


@dataclass(frozen=True)
class Portable:
    """An entry as a file holds it, fields as in `ListedEntry`. None where a log does not say."""

    question: str
    response: str
    namespace: str | None = None
    scope: str = ""
    exact_only: bool = False
    created: float | None = None
    expires: float | None = None
    cost: float | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    seconds: float | None = None
    tags: tuple[str, ...] = ()
    writer: str | None = None
    answer: str | None = None
    doubt: float = 0.0
    exact_only_since: float | None = None
    wrong_for: tuple[bytes, ...] = ()
    same_as: tuple[bytes, bytes] | None = None
    vector: Vector | None = None


def header_line(header: Header) -> bytes:
    return _line({"format": FORMAT, "version": VERSION, **vars(header)})


def entry_line(entry: ListedEntry, with_vector: bool) -> bytes:
    """One line; what is as in any new entry is left out of it."""
    fields: dict[str, Any] = {
        "namespace": entry.namespace,
        "scope": entry.scope,
        "question": entry.question,
        "response": entry.response,
        "created": entry.created,
    }
    optional: dict[str, Any] = {
        "exact_only": entry.exact_only or None,
        "expires": entry.expires,
        "cost": entry.cost,
        "tokens_in": entry.tokens_in,
        "tokens_out": entry.tokens_out,
        "seconds": entry.seconds,
        "tags": list(entry.tags),
        "writer": entry.writer,
        "answer": entry.answer_text,
        "doubt": entry.doubt or None,
        "exact_only_since": entry.exact_only_since,
        "wrong_for": [key.hex() for key in entry.wrong_for],
    }
    if entry.same_as is not None:
        request, answer = entry.same_as
        optional["same_as"] = {"request": request.hex(), "answer": answer.hex()}
    if with_vector and entry.vector is not None:
        data = entry.vector.astype("<f4").tobytes()
        optional["vector"] = base64.b64encode(data).decode("ascii")
    # not by truth: a cost of 0 is one
    given = {name: value for name, value in optional.items() if value not in (None, [])}
    return _line(fields | given)


def _line(fields: Mapping[str, Any]) -> bytes:
    # Not as escapes: JSON cannot tell two lone surrogates from the one character that they would
    # make as a pair. Without them the line is plain UTF-8.
    return (json.dumps(fields, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")


class EntriesFile:
    """Entries in a file, read a line at a time, as often as it is iterated over.

    The file of an export begins with a header (`header`; None for a plain log). There a field that
    is not known is an error, in a log it is passed over. Blank lines are skipped. Reading raises
    SemcacheError, which names the line, for what is no entry: not JSON, not of the right types, or
    longer than MAX_LINE_BYTES.
    """

    def __init__(self, file: str | Path) -> None:
        self._file = file
        try:
            self._stream: BinaryIO = open(file, "rb")  # noqa: SIM115
        except (OSError, ValueError) as error:  # a name with a NUL
            raise SemcacheError(f"{file} cannot be read: {error}") from None
        try:
            if not self._stream.seekable():
                raise SemcacheError(
                    f"{file} can be read once only, but is checked as a whole before it is stored; "
                    "save it to a file first"
                )
            first = next(self._lines(), None)
            self.header = None if first is None else _header(*first)
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[tuple[Portable, int]]:
        """Each entry, with the bytes of its line."""
        lines = self._lines()
        if self.header is not None:
            next(lines, None)
        for where, line in lines:
            yield _entry(parse_object(line, where, _EXAMPLE), where, self.header), len(line)

    def check(self) -> int:
        """Read all of it; returns how many entries there are."""
        return sum(1 for _ in self)

    def _lines(self) -> Iterator[tuple[str, bytes]]:
        try:
            self._stream.seek(0)
            number = 0
            while line := self._stream.readline(MAX_LINE_BYTES + 1):
                number += 1
                where = f"{self._file}, line {number}"
                if len(line) > MAX_LINE_BYTES:
                    raise SemcacheError(
                        f"{where} has more than {MAX_LINE_BYTES:,} bytes, which none may have; "
                        "leave it out"
                    )
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                if line.strip():
                    yield where, line
        except OSError as error:
            raise SemcacheError(f"{self._file} cannot be read: {error}") from error

    def close(self) -> None:
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _header(where: str, line: bytes) -> Header | None:
    data = parse_object(line, where, _EXAMPLE)
    if data.get("format") != FORMAT:
        return None
    version = data.get("version")
    if isinstance(version, int) and version > VERSION:
        raise SemcacheError(
            f"{where}: the file has format version {version}, this program reads up to {VERSION}; "
            "upgrade semcache-core"
        )
    fields = {"version": _VERSION, "exported": _NUMBER, "fingerprint": _NAME, "dimension": _SIZE}
    found = read_fields(data, fields, where)
    if "version" not in found or "exported" not in found:
        raise SemcacheError(f"{where}: version or exported is missing; export anew")
    if ("fingerprint" in found) != ("dimension" in found):
        raise SemcacheError(f"{where}: give both fingerprint and dimension, or neither of them")
    del found["version"]
    return Header(**found)


def _entry(data: dict[str, Any], where: str, header: Header | None) -> Portable:
    fields = _LOGGED if header is None else _EXPORTED
    if header is not None and (unknown := data.keys() - fields.keys()):
        raise SemcacheError(
            f"{where}: {shown(min(unknown))} is no field of an entry; those are {', '.join(fields)}"
        )
    found = read_fields(data, fields, where)
    needed = _NEEDED if header is None else (*_NEEDED, "namespace", "scope", "created")
    if missing := [name for name in needed if name not in found]:
        raise SemcacheError(f"{where}: {missing[0]} is missing; write an object like {_EXAMPLE}")
    if "vector" in found:
        dimension = None if header is None else header.dimension
        found["vector"] = _unit_vector(found["vector"], dimension, where)
    return Portable(**found)


def _unit_vector(data: bytes, dimension: int | None, where: str) -> Vector:
    if dimension is None:
        raise SemcacheError(f"{where}: it has a vector, but the header names no model")
    if len(data) != 4 * dimension:
        raise SemcacheError(
            f"{where}: its vector has {len(data)} bytes, but the header says {dimension} numbers "
            "of 4 bytes; export anew"
        )
    vector = np.frombuffer(data, dtype="<f4").astype(np.float32)
    length = float(np.linalg.norm(vector.astype(np.float64)))
    if not abs(length - 1) <= _UNIT:  # written so that NaN fails too
        raise SemcacheError(f"{where}: its vector has the length {length:g}, not 1; export anew")
    return vector


def _same_as(value: Any) -> tuple[bytes, bytes]:
    if not isinstance(value, dict) or value.keys() != {"request", "answer"}:
        raise TypeError
    return sha256(value["request"]), sha256(value["answer"])


_VERSION = Field(whole(1, VERSION), f"a whole number from 1 to {VERSION}")
_TEXT = Field(exactly(str), "a text")
_NAME = Field(non_empty, "a text that is not empty")
_NUMBER = Field(within(-math.inf, math.inf), "a finite number")
_AMOUNT = Field(within(0, math.inf), "a number from 0 on")
_TOKENS = Field(whole(0, MOST_TOKENS), f"a whole number from 0 to {MOST_TOKENS}")
_SIZE = Field(whole(1, _MAX_DIMENSION), f"a whole number from 1 to {_MAX_DIMENSION:,}")
_SECONDS = Field(_NUMBER.read, "seconds since the epoch")
_NEEDED = ("question", "response")
_LOGGED = {
    "question": _TEXT,
    "response": _TEXT,
    "namespace": _NAME,
    "scope": _TEXT,
    "exact_only": Field(exactly(bool), "true or false"),
    "created": _SECONDS,
    "expires": _SECONDS,
    "cost": _AMOUNT,
    "tokens_in": _TOKENS,
    "tokens_out": _TOKENS,
    "seconds": _AMOUNT,
    "tags": Field(list_of(exactly(str)), "a list of texts"),
    "writer": _TEXT,
    "answer": _TEXT,
}
_EXPORTED = {
    **_LOGGED,
    "doubt": Field(within(0, _MOST_DOUBT), f"log-odds from 0 to {_MOST_DOUBT:g}"),
    "exact_only_since": _SECONDS,
    "wrong_for": Field(list_of(sha256), "a list of keys, each 64 hexadecimal digits"),
    "same_as": Field(_same_as, '{"request": KEY, "answer": KEY}, each 64 hexadecimal digits'),
    "vector": Field(in_base64, "float32 numbers in base64"),
}
