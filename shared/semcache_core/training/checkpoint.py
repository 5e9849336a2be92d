"""Checkpoints of a training run: one file, replaced in one step."""

import hashlib
import io
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from semcache_core._utils.files import write_whole
from semcache_core.errors import TrainingError

FILE_NAME = "checkpoint.pt"


class Checkpoint:
    """The file `checkpoint.pt` in a directory, which is made if need be.

    `made_with` holds the options and digests of the data and the model: a checkpoint with other
    values belongs to another run.
    """

    def __init__(self, directory: Path, made_with: Mapping[str, Any]) -> None:
        self.file = directory / FILE_NAME
        self._made_with = dict(made_with)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=directory).close()
        except OSError as error:
            raise TrainingError(
                f"checkpoint_dir {directory} cannot be written to ({error}); give another"
            ) from None

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the file, in one step. `state` holds tensors, numbers, texts, dicts and lists."""
        # into memory first: torch's own writer reports a full disk as any kind of error
        content = io.BytesIO()
        torch.save({**state, "made_with": self._made_with}, content)
        write_whole(self.file, [content.getvalue()], TrainingError)

    def start(self, resume: bool) -> dict[str, Any] | None:
        """The state to begin a run with; TrainingError where a new run would overwrite one."""
        if not resume and self.file.exists():
            raise TrainingError(
                f"{self.file} is there from an earlier run; go on with resume=True, give another "
                "checkpoint_dir, or delete it"
            )
        return self.load()

    def load(self) -> dict[str, Any] | None:
        """The state last saved, its tensors in main memory, or None when there is none."""
        if not self.file.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self.file, map_location="cpu", weights_only=True)
            made_with: dict[str, Any] = state.pop("made_with")
        except OSError as error:
            raise TrainingError(f"{self.file} cannot be read: {error}") from None
        # torch has many errors for such a file, some with the advice to run the code in it
        except Exception:  # noqa: BLE001
            raise TrainingError(
                f"{self.file} is no checkpoint, or not a whole one; delete it to start anew"
            ) from None
        for name, value in self._made_with.items():
            if name not in made_with or made_with[name] != value:
                raise TrainingError(
                    f"{self.file} was made with {name}={made_with.get(name)!r}, and this run has "
                    f"{value!r}; give the same, or another checkpoint_dir"
                )
        return state


def digest_of_data(data: Any) -> str:
    """SHA-256 (hex) of what JSON can write: equal for equal data, in the same order."""
    return hashlib.sha256(json.dumps(data).encode()).hexdigest()


def digest_of_weights(model: torch.nn.Module) -> str:
    """SHA-256 (hex) over the names and values of all weights."""
    hasher = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        hasher.update(name.encode())
        hasher.update(tensor.detach().cpu().float().numpy().tobytes())
    return hasher.hexdigest()
