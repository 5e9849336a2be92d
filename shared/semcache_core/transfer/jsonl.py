"""The file format of exports and logs: a JSON object per line, which may hold anything."""

import base64
import codecs
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, BinaryIO, TypeAlias

import numpy as np
from pydantic import AfterValidator, Field, PlainValidator
from typing_extensions import Self

from semcache_core._utils.csv_rows import csv_rows, is_csv
from semcache_core._utils.json_lines import JsonLine, parse_model, parse_object, shown
from semcache_core.errors import SemcacheError
from semcache_core.storage.entries import ListedEntry
from semcache_core.types import MOST_TOKENS, Vector

FORMAT = "semcache entries"
VERSION = 1
MAX_LINE_BYTES = 64 * 2**20

_EXAMPLE = '{"question": "...", "response": "..."}'
_UNIT_TOLERANCE = 1e-3  # of the length of a float32 unit vector
_MAX_DIMENSION = 1 << 16
_MAX_DOUBT = 64.0  # more than `entry_trust.doubt` gives


def _not_empty(text: str) -> str:
    if not text:
        raise ValueError("an empty text")
    return text


def _key(value: object) -> bytes:
    if not isinstance(value, str) or len(key := bytes.fromhex(value)) != 32:
        raise ValueError("not a SHA-256 in hexadecimal digits")
    return key


def _two_keys(value: object) -> tuple[bytes, bytes]:
    if not isinstance(value, dict) or value.keys() != {"request", "answer"}:
        raise ValueError("not the two keys")
    return _key(value["request"]), _key(value["answer"])


def _vector(value: object) -> Vector:
    if not isinstance(value, str):
        raise ValueError("not a text")
    return np.frombuffer(base64.b64decode(value, validate=True), "<f4").astype(np.float32)


# not `min_length`, with which pydantic refuses lone surrogates
Name: TypeAlias = Annotated[str, AfterValidator(_not_empty)]
Key: TypeAlias = Annotated[bytes, PlainValidator(_key)]
Keys: TypeAlias = Annotated[tuple[Key, ...], Field(strict=False)]
Texts: TypeAlias = Annotated[tuple[str, ...], Field(strict=False)]

_AMOUNT = "a number from 0 on"
_SECONDS = "seconds since the epoch"
_TEXT = "a text"
_TOKENS = f"a whole number from 0 to {MOST_TOKENS}"


class LogLine(JsonLine):
    """An answer in a log. `answer` is the text of the answer where the response is more than it."""

    question: str = Field(description=_TEXT)
    response: str = Field(description=_TEXT)
    namespace: Name | None = Field(None, description="a text that is not empty")
    scope: str = Field("", description=_TEXT)
    exact_only: bool = Field(False, description="true or false")
    created: float | None = Field(None, description=_SECONDS)
    expires: float | None = Field(None, description=_SECONDS)
    cost: float | None = Field(None, ge=0, description=_AMOUNT)
    tokens_in: int | None = Field(None, ge=0, le=MOST_TOKENS, description=_TOKENS)
    tokens_out: int | None = Field(None, ge=0, le=MOST_TOKENS, description=_TOKENS)
    seconds: float | None = Field(None, ge=0, description=_AMOUNT)
    tags: Texts = Field((), description="a list of texts")
    writer: str | None = Field(None, description=_TEXT)
    answer: str | None = Field(None, description=_TEXT)


class ExportLine(LogLine):
    """An entry in an export, see `ListedEntry`."""

    doubt: float = Field(0.0, ge=0, le=_MAX_DOUBT, description=f"log-odds from 0 to {_MAX_DOUBT:g}")
    exact_only_since: float | None = Field(None, description=_SECONDS)
    wrong_for: Keys = Field((), description="a list of keys, each 64 hexadecimal digits")
    same_as: Annotated[tuple[bytes, bytes] | None, PlainValidator(_two_keys)] = Field(
        None, description='{"request": KEY, "answer": KEY}, each 64 hexadecimal digits'
    )
    # Any: pydantic has no schema of an array
    vector: Annotated[Any, PlainValidator(_vector)] = Field(
        None, description="float32 numbers in base64"
    )


class Header(JsonLine):
    """The first line of an export: its time, in seconds since the epoch, and the model of its
    vectors with their length, both None where it has none.
    """

    version: int = Field(
        default=VERSION, ge=1, le=VERSION, description=f"a whole number from 1 to {VERSION}"
    )
    exported: float = Field(description="a finite number")
    fingerprint: Name | None = Field(None, description="a text that is not empty")
    dimension: int | None = Field(
        None, ge=1, le=_MAX_DIMENSION, description=f"a whole number from 1 to {_MAX_DIMENSION:,}"
    )


def header_line(header: Header) -> bytes:
    return _line({"format": FORMAT, **dict(header)})


def entry_line(entry: ListedEntry, with_vector: bool) -> bytes:
    """One line, without the fields that have their default."""
    fields = {name: value for name, value in vars(entry).items() if name in ExportLine.model_fields}
    fields |= {
        "exact_only": entry.exact_only or None,
        "tags": list(entry.tags),
        "answer": entry.answer_text,
        "doubt": entry.doubt or None,
        "wrong_for": [key.hex() for key in entry.wrong_for],
        "vector": None,
    }
    if entry.same_as is not None:
        request, answer = entry.same_as
        fields["same_as"] = {"request": request.hex(), "answer": answer.hex()}
    if with_vector and entry.vector is not None:
        fields["vector"] = base64.b64encode(entry.vector.astype("<f4").tobytes()).decode("ascii")
    # not by truth: a cost of 0 is one
    return _line({name: value for name, value in fields.items() if value not in (None, [])})


def _line(fields: Mapping[str, Any]) -> bytes:
    # Not as escapes: JSON cannot tell two lone surrogates from the one character that they would
    # make as a pair. Without them the line is plain UTF-8.
    return (json.dumps(fields, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")


class EntriesFile:
    """Entries in a file, read line by line at each iteration.

    A file that ends in .csv or .tsv is a log, each row an entry. An export begins with a header
    (`header`; None for a log). An unknown field is an error in an export and ignored in a log.
    Blank lines are skipped. Reading raises SemcacheError, which names the line, for a line that is
    not JSON, has a wrong type or is longer than MAX_LINE_BYTES.
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
            first = None if is_csv(file) else next(self._lines(), None)
            self.header = None if first is None else _header(*first)
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[tuple[LogLine, int]]:
        """Each entry with the bytes of its line; those of an export are `ExportLine`s."""
        if is_csv(self._file):
            for where, row in csv_rows(self._file, SemcacheError):
                yield parse_model(LogLine, row, where, _EXAMPLE), sum(map(len, row.values()))
            return
        lines = self._lines()
        if self.header is not None:
            next(lines, None)
        for where, line in lines:
            yield _entry(parse_object(line, where, _EXAMPLE), where, self.header), len(line)

    def check(self) -> int:
        """Validate every line; returns how many entries there are."""
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

    def __exit__(self, *_: object) -> None:
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
    if version is None or data.get("exported") is None:
        raise SemcacheError(f"{where}: version or exported is missing; export anew")
    header = parse_model(Header, data, where, _EXAMPLE)
    if (header.fingerprint is None) != (header.dimension is None):
        raise SemcacheError(f"{where}: give both fingerprint and dimension, or neither of them")
    return header


def _entry(data: dict[str, Any], where: str, header: Header | None) -> LogLine:
    if header is None:
        return parse_model(LogLine, data, where, _EXAMPLE)
    fields = ExportLine.model_fields
    if unknown := data.keys() - fields.keys():
        raise SemcacheError(
            f"{where}: {shown(min(unknown))} is no field of an entry; those are {', '.join(fields)}"
        )
    entry = parse_model(ExportLine, data, where, _EXAMPLE)
    for name in ("namespace", "scope", "created"):
        if name not in entry.model_fields_set:
            raise SemcacheError(f"{where}: {name} is missing; write an object like {_EXAMPLE}")
    if entry.vector is not None:
        _check_vector(entry.vector, header.dimension, where)
    return entry


def _check_vector(vector: Vector, dimension: int | None, where: str) -> None:
    if dimension is None:
        raise SemcacheError(f"{where}: it has a vector, but the header names no model")
    if len(vector) != dimension:
        raise SemcacheError(
            f"{where}: its vector has {vector.nbytes} bytes, but the header says {dimension} "
            "numbers of 4 bytes; export anew"
        )
    length = float(np.linalg.norm(vector.astype(np.float64)))
    if not abs(length - 1) <= _UNIT_TOLERANCE:  # written so that NaN fails too
        raise SemcacheError(f"{where}: its vector has the length {length:g}, not 1; export anew")
