"""Reading labelled pairs: what is accepted, and what an error names."""

from pathlib import Path

import pytest
from semcache_core.errors import TrainingError
from semcache_core.training.data.records import (
    MinedPair,
    Pair,
    Question,
    read_mined,
    read_pairs,
    write_pairs,
)

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
        ('{"other": "b", "same_answer": 1}', "prompt is missing"),
        ('{"prompt": "a", "other": " ", "same_answer": 1}', "other is ' '"),
        ('{"prompt": "a", "other": 7, "same_answer": 1}', "other is 7"),
        ('{"prompt": "a", "other": "b"}', "same_answer is missing"),
        ('{"prompt": "a", "other": "b", "same_answer": "1"}', "same_answer is '1'"),
        ('{"prompt": "a", "other": "b", "same_answer": 2}', "same_answer is 2"),
        ('{"prompt": "a", "other": "b", "same_answer": -0.1}', "same_answer is -0.1"),
        ('{"prompt": "a", "other": "b", "same_answer": NaN}', "NaN is not a number"),
        ('{"prompt": "a", "other": "b", "same_answer": 1, "domain": 3}', "domain is 3"),
        ('{"prompt": "a", "other": "b", "same_answer": 1, "split": 3}', "split is 3"),
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


MINED = MinedPair(
    (Question("a?", ("1", "one")), Question("b?", (), "id")),
    0.75,
    "train",
    "d",
    None,
    "",
    {"n": []},
)
KEYS = ("", "id id")
"""Of two answers none is the one."""


def labelled(label: float) -> MinedPair:
    return MinedPair(MINED.questions, 0.75, "train", "d", label, "why", {"n": []})


def test_an_unlabelled_pair_is_refused_with_what_to_do():
    with pytest.raises(TrainingError, match=r"'a\?' with 'b\?' has no same_answer; label"):
        MINED.labelled()
    assert labelled(0.0).labelled() == Pair("a?", "b?", 0.0, "d", "train", KEYS)


def test_a_file_of_unlabelled_pairs_is_refused_with_what_to_do(tmp_path):
    write_pairs(tmp_path / "p.jsonl", [MINED])
    with pytest.raises(TrainingError, match=r"same_answer is missing; .* label the pairs first"):
        read_pairs(tmp_path / "p.jsonl")


def test_mined_pairs_are_read_back_as_they_were_written(tmp_path):
    pairs = [MINED, labelled(0.0), MinedPair((Question("c"), Question("d")), 0.0)]
    write_pairs(tmp_path / "p.jsonl", pairs)
    assert read_mined(tmp_path / "p.jsonl") == pairs


def test_once_labelled_the_same_file_is_one_of_pairs(tmp_path):
    write_pairs(tmp_path / "p.jsonl", [labelled(1.0)])
    assert read_pairs(tmp_path / "p.jsonl") == [Pair("a?", "b?", 1.0, "d", "train", KEYS)]


def test_pairs_are_read_back_as_they_were_written(tmp_path):
    pairs = [Pair("a", "é\u2028", 0.25), Pair("c", "d", 1.0, "x", "test")]
    write_pairs(str(tmp_path / "new" / "p.jsonl"), pairs)
    assert read_pairs(tmp_path / "new" / "p.jsonl") == pairs


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('{"prompt": "a"}', "other is missing"),
        ('{"prompt": "a", "other": "b", "similarity": "x"}', "similarity is 'x'"),
        ('{"prompt": "a", "other": "b", "similarity": NaN}', "NaN is not a number"),
        ('{"prompt": "a", "other": "b", "similarity": 2}', "similarity is 2"),
        ('{"prompt": "a", "other": "b", "prompt_answers": "x"}', "prompt_answers is 'x'"),
        (
            '{"prompt": "a", "other": "b", "other_answers": [1]}',
            "other_answers is a list",
        ),
        ('{"prompt": "a", "other": "b", "other_answer_id": 1}', "other_answer_id is 1"),
        ('{"prompt": "a", "other": "b", "same_answer": 2}', "same_answer is 2"),
        ('{"prompt": "a", "other": "b", "reason": 2}', "reason is 2"),
    ],
)
def test_a_bad_line_among_mined_pairs_is_named(tmp_path, line, named):
    file = written(tmp_path, '{"prompt": "a", "other": "b"}', line)
    with pytest.raises(TrainingError) as error:
        read_mined(file)
    assert f"{file}, line 2" in str(error.value)
    assert named in str(error.value)


def test_a_file_without_mined_pairs_is_an_error(tmp_path):
    with pytest.raises(TrainingError, match="holds no pairs"):
        read_mined(written(tmp_path, ""))


def test_a_failure_half_way_leaves_the_older_file_and_nothing_else(tmp_path):
    file = written(tmp_path, GOOD)

    def pairs():
        yield Pair("x", "y", 1.0)
        raise OSError(28, "No space left on device")

    with pytest.raises(TrainingError, match=r"pairs\.jsonl cannot be written: .*No space left"):
        write_pairs(file, pairs())
    assert read_pairs(file) == [Pair("a?", "b?", 1.0)]
    assert list(tmp_path.iterdir()) == [file]


def test_what_is_read_from_a_file_can_be_written_to_it(tmp_path):
    file = tmp_path / "p.jsonl"
    link = tmp_path / "link.jsonl"
    write_pairs(file, [MINED])
    link.symlink_to(file)
    write_pairs(link, read_mined(link))
    assert link.is_symlink()
    assert read_mined(file) == [MINED]
