"""What a teacher said of pairs, kept on disk as it comes."""

import json
import os
import threading
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from semcache_core.errors import TrainingError
from semcache_core.training.pairs import MinedPair
from semcache_core.training.questions import json_line, parse_object
from semcache_core.training.teacher import Verdict

_BEGINNING = b'{"key": "'
_STORED_EXAMPLE = '{"key": "...", "probability": 0.9, "reason": "..."}'


class VerdictStore:
    """Verdicts in an append-only file of JSON lines.

    A last line that a crash left unfinished is cut off; its pair is judged again. Raises
    TrainingError, naming the line, for any other bad one, and for a file that cannot be used.
    """

    def __init__(self, file: str | Path) -> None:
        self._path = Path(file)
        self._lock = threading.Lock()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            content = self._path.read_bytes() if self._path.exists() else b""
            mended = _mended(content)
            self._verdicts = _stored_verdicts(mended, self._path)
            # unbuffered: a verdict is in the file, or the error is raised, when it is added
            self._file = self._path.open("ab", buffering=0)
            self._file.truncate(min(len(mended), len(content)))
            self._file.write(mended[len(content) :])
        except OSError as error:
            raise TrainingError(f"the store {self._path} cannot be used: {error}") from error

    def __enter__(self) -> "VerdictStore":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __contains__(self, key: str) -> bool:
        return key in self._verdicts

    def get(self, key: str) -> Verdict | None:
        return self._verdicts.get(key)

    def add(self, key: str, teacher_name: str, pair: MinedPair, verdict: Verdict) -> None:
        """Append a verdict; TrainingError, and nothing added, when the disk does not take it."""
        about = {"key": key, "teacher": teacher_name, "prompt": pair.prompt, "other": pair.other}
        line = json_line(about | verdict.model_dump())
        with self._lock:
            end = self._file.seek(0, os.SEEK_END)
            try:
                while line:
                    line = line[self._file.write(line) :]
            except OSError as error:
                # half a line would make one with the next, of a thread that finds room again
                self._file.truncate(end)
                raise TrainingError(
                    f"the store {self._path} cannot be written: {error}; make room"
                ) from error
            self._verdicts[key] = verdict


def _mended(content: bytes) -> bytes:
    """The lines of a store, the last one ended, or left out where a crash cut it short."""
    end = content.rfind(b"\n") + 1
    last = content[end:]
    try:
        json.loads(last or "0")
    except ValueError:
        # nothing that may be somebody's own text is taken for a piece of a verdict
        if last.startswith(_BEGINNING[: len(last)]):
            return content[:end]
    return content + b"\n" if last else content


def _stored_verdicts(content: bytes, path: Path) -> dict[str, Verdict]:
    verdicts = {}
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            data = parse_object(line, where, _STORED_EXAMPLE)
            verdicts[_stored_key(data, where)] = _stored_verdict(data, where)
    return verdicts


def _stored_key(data: dict[str, Any], where: str) -> str:
    key = data.get("key")
    if not isinstance(key, str):
        raise TrainingError(
            f"{where}: key is {key!r}; this is no line of a store of verdicts: remove the line, or "
            "name another file"
        )
    return key


def _stored_verdict(data: dict[str, Any], where: str) -> Verdict:
    try:
        return Verdict.model_validate(data)
    except ValidationError as error:
        wrong = "; ".join(f"{e['loc'][0]} is {e['input']!r}: {e['msg']}" for e in error.errors())
        raise TrainingError(f"{where} holds no verdict ({wrong}); remove the line") from None
