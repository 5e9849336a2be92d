"""CSV in place of JSON lines, as people and spreadsheets write it."""

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field
from semcache_core._utils.csv_rows import csv_rows, is_csv
from semcache_core._utils.json_lines import JsonLine, parse_model
from semcache_core.errors import SemcacheError, TrainingError


class Line(JsonLine):
    text: str = Field(description="a text")
    other: str | None = Field(None, description="a text")
    flag: bool = Field(False, description="true or false")
    count: int = Field(1, ge=1, description="a whole number from 1 on")
    number: float | None = Field(None, description="a number")
    texts: Annotated[tuple[str, ...], Field(strict=False)] = Field((), description="a list")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rows.csv"


def lines(file: Path) -> list[Line]:
    return [
        parse_model(Line, row, where, "{}", TrainingError)
        for where, row in csv_rows(file, TrainingError)
    ]


def test_cells_get_the_type_that_their_field_has(file: Path) -> None:
    file.write_text(
        "text,other,flag,count,number,texts\n"
        "5,true,true,7,0.5,a\n"
        '"[1]","{}",FALSE,1,1e3,"[""a"", ""b, c""]"\n'
        "null,,,,,5\n"
    )
    assert lines(file) == [
        Line(text="5", other="true", flag=True, count=7, number=0.5, texts=("a",)),
        Line(text="[1]", other="{}", number=1000.0, texts=("a", "b, c")),
        Line(text="null", texts=("5",)),
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_quotes_line_breaks_blank_rows_and_the_mark_of_a_spreadsheet_are_read(
    encoding: str, file: Path
) -> None:
    text = ' text ,,other\r\n"a, ""b""\r\nc",9,é\r\n\r\n,,\r\nd,9,e\r\n'
    file.write_bytes(text.encode(encoding))
    assert [row for _, row in csv_rows(file, TrainingError)] == [
        {"text": 'a, "b"\r\nc', "other": "é"},
        {"text": "d", "other": "e"},
    ]


def test_a_row_is_named_by_the_line_on_which_it_begins(file: Path) -> None:
    file.write_text('text\n\n"a\nb"\nc\n')
    assert [where for where, _ in csv_rows(file, TrainingError)] == [
        f"{file}, line 3",
        f"{file}, line 5",
    ]


def test_tabs_separate_the_cells_of_a_tsv_file(tmp_path: Path) -> None:
    file = tmp_path / "ROWS.TSV"
    file.write_text("text\tother\na, b\tc\n")
    assert lines(file) == [Line(text="a, b", other="c")]
    assert [is_csv(name) for name in (file, "a.csv", "a.jsonl", "csv")] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("text,count\na,1\nb,many\n", "line 3: count is 'many'; give a whole number from 1 on"),
        ("text,count\na,1\nb,0\n", "line 3: count is 0; give a whole number from 1 on"),
        ("text,flag\na,yes\n", "line 2: flag is 'yes'; give true or false"),
        ("text,number\na,NaN\n", "line 2: number is 'NaN'; give a number"),
        ("text,other\n,b\n", "line 2: text is missing; fill in its cell"),
        ("Text;other\na;b\n", r"line 2: text is missing; give a column that name; .* Text;other"),
        ("text,other\na,b\nc\n", "line 3 has 1 cells, the first line names 2 columns"),
        ("text\na, b\n", "line 2 has 2 cells, the first line names 1 columns"),
        ("text,text\na,b\n", "line 1 names the column 'text' twice"),
        ('text\na\n"b" c\n', "line 3 is not CSV"),
        ('text\n"never closed\n', "line 2 is not CSV"),
        ("text\n" + "x" * 200_000, "line 2 is not CSV .*JSON lines"),
        (b"text\n\xff\n", "cannot be read: .*give a CSV file in UTF-8"),
    ],
)
def test_an_error_names_file_line_problem_and_fix(
    content: str | bytes, said: str, file: Path
) -> None:
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TrainingError, match=said) as raised:
        lines(file)
    assert str(raised.value).startswith(str(file))


def test_a_file_that_is_not_there_is_an_error_of_the_kind_that_was_asked_for(file: Path) -> None:
    with pytest.raises(SemcacheError, match="cannot be read"):
        list(csv_rows(file, SemcacheError))
