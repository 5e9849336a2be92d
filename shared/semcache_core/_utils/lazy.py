"""For packages that need an extra, and whose names load their modules when they are first used."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any

from semcache_core.errors import TrainingError


def check_extra(package: str, modules: Sequence[str], rest: Sequence[str] = ()) -> None:
    """Raise TrainingError with the missing `modules` and the command that installs them.

    What is missing of the `rest` of the extra is named too, but is no error by itself.
    """
    if any(find_spec(name) is None for name in modules):
        missing = [name for name in (*rest, *modules) if find_spec(name) is None]
        raise TrainingError(
            f'{package} needs {", ".join(missing)}; run: pip install "semcache-core[train]"'
        )


def lazy_names(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of `package`: `homes` gives the module of each name, below the package."""

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    return load


def version_of(package: str) -> Callable[[str], str]:
    """A `__getattr__` of `package` that knows `__version__`, which takes a file to read."""

    def load(name: str) -> str:
        if name != "__version__":
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return metadata.version("semcache-core")

    return load
