"""Parses lines of JSON into pydantic models.

An error names the file and the line, the field, the value seen and the fix.
"""

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from semcache_core._utils.csv_rows import CsvRow, cell_value
from semcache_core.errors import SemcacheError


class JsonLine(BaseModel):
    """Base of the models of a line.

    Values must have the right JSON type: "5" is no number and true is no integer. Numbers are
    finite. The `description` of a field completes the sentence "give ..." of an error.
    """

    # defer_build: most programs that import semcache read no file
    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False, defer_build=True)


LineModel = TypeVar("LineModel", bound=JsonLine)


def parse_object(
    line: bytes | str, where: str, example: str, error: type[SemcacheError] = SemcacheError
) -> dict[str, Any]:
    """The JSON object in a line of UTF-8, which may contain lone surrogates.

    Raises `error`, which names `where` (file and line) and shows `example`.
    """
    try:
        text = line if isinstance(line, str) else line.decode("utf-8", "surrogatepass")
        data: Any = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as problem:
        raise error(
            f"{where} is not JSON in UTF-8 ({problem}); write an object like {example}"
        ) from None
    if not isinstance(data, dict):
        raise error(f"{where} is {shown(data)}; write an object like {example}")
    return data


def parse_model(
    model: type[LineModel],
    data: Mapping[str, Any],
    where: str,
    example: str,
    error: type[SemcacheError] = SemcacheError,
) -> LineModel:
    """The model of a JSON object, or of a row of CSV.

    A field that is null counts as missing; unknown ones are ignored.

    Raises `error`, which names `where` and the first field that is wrong or missing.
    """
    # Unknown fields are not passed on: pydantic refuses names with lone surrogates.
    given = {name: data[name] for name in model.model_fields if data.get(name) is not None}
    if isinstance(data, CsvRow):
        fields = model.model_fields
        given = {name: cell_value(cell, fields[name].annotation) for name, cell in given.items()}
    try:
        return model.model_validate(given)
    except ValidationError as invalid:
        first = invalid.errors(include_url=False, include_context=False)[0]
        if not first["loc"]:  # a check of the whole model, which words the problem itself
            raise error(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None
        name = str(first["loc"][0])
        if first["type"] == "missing":
            add = (
                data.how_to_add(name)
                if isinstance(data, CsvRow)
                else f"write an object like {example}"
            )
            problem = f"{name} is missing; {add}"
        else:
            fix = model.model_fields[name].description
            problem = f"{name} is {shown(given[name])}; give {fix}"
        raise error(f"{where}: {problem}") from None


def shown(value: object) -> str:
    """A value as an error shows it, in at most 60 characters of ASCII."""
    if isinstance(value, str | int | float):
        return ascii(value)[:60]
    return "null" if value is None else f"a {type(value).__name__}"


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number")
