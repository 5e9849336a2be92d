"""Reading labelled pairs: what is accepted, and what an error names."""

from pathlib import Path

import pytest
from semcache_core.errors import TrainingError
from semcache_core.training.pairs import Pair, read_pairs

GOOD = '{"prompt": "a?", "other": "b?", "same_answer": 1}'


def written(tmp_path: Path, *lines: str) -> Path:
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def test_lines_become_pairs_and_blank_lines_are_skipped(tmp_path):
    file = written(
        tmp_path,
        GOOD,
        "",
        '{"prompt": "é\u2028?", "other": "c", "same_answer": 0.25, "domain": "d"}',
    )
    assert read_pairs(file) == [Pair("a?", "b?", 1.0), Pair("é\u2028?", "c", 0.25, "d")]


def test_a_domain_given_by_the_caller_overrides_the_lines(tmp_path):
    file = written(tmp_path, '{"prompt": "a", "other": "b", "same_answer": 0, "domain": "x"}')
    assert read_pairs(str(file), domain="y")[0].domain == "y"


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("{not json", "not JSON"),
        ("[1, 2]", "write an object"),
        ('{"other": "b", "same_answer": 1}', "prompt is None"),
        ('{"prompt": "a", "other": " ", "same_answer": 1}', "other is ' '"),
        ('{"prompt": "a", "other": 7, "same_answer": 1}', "other is 7"),
        ('{"prompt": "a", "other": "b"}', "same_answer is None"),
        ('{"prompt": "a", "other": "b", "same_answer": "1"}', "same_answer is '1'"),
        ('{"prompt": "a", "other": "b", "same_answer": 2}', "same_answer is 2"),
        ('{"prompt": "a", "other": "b", "same_answer": -0.1}', "same_answer is -0.1"),
        ('{"prompt": "a", "other": "b", "same_answer": NaN}', "same_answer is nan"),
        ('{"prompt": "a", "other": "b", "same_answer": 1, "domain": 3}', "domain is 3"),
    ],
)
def test_a_bad_line_is_an_error_naming_file_line_and_value(tmp_path, line, named):
    file = written(tmp_path, GOOD, "", line, GOOD)
    with pytest.raises(TrainingError) as error:
        read_pairs(file)
    assert f"{file}, line 3" in str(error.value)
    assert named in str(error.value)


def test_a_file_without_pairs_is_an_error(tmp_path):
    with pytest.raises(TrainingError, match="holds no pairs"):
        read_pairs(written(tmp_path, "", "  "))


def test_a_file_that_cannot_be_read_is_an_error_naming_it(tmp_path):
    with pytest.raises(TrainingError, match=r"missing\.jsonl cannot be read"):
        read_pairs(tmp_path / "missing.jsonl")


def test_a_file_in_another_encoding_is_an_error_naming_it(tmp_path):
    file = tmp_path / "latin.jsonl"
    file.write_bytes('{"prompt": "é", "other": "b", "same_answer": 1}'.encode("latin-1"))
    with pytest.raises(TrainingError, match=r"latin\.jsonl cannot be read"):
        read_pairs(file)


def test_a_pair_is_positive_when_most_judges_said_so():
    assert [Pair("a", "b", label).positive for label in (0, 0.5, 0.6, 1)] == [
        False,
        False,
        True,
        True,
    ]
