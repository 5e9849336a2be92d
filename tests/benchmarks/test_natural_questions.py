"""Natural Questions from a local file, and from a hub that is a stand-in here."""

import json
import sys
from types import ModuleType

import pytest
from natural_questions import HUB, load_natural_questions
from semcache_core.errors import TrainingError
from semcache_core.training.data.records import Question

ROWS = [
    {"question": "when was the last time anyone was on the moon", "answer": ["14 December 1972"]},
    {"question": "who wrote he ain't heavy", "answer": ["Bobby Scott", "Bob Russell"]},
]
QUESTIONS = [Question(row["question"], tuple(row["answer"])) for row in ROWS]


def write(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


@pytest.fixture
def hub(monkeypatch):
    """Puts a module `datasets` in place whose load_dataset does what the test says."""

    def install(load_dataset):
        module = ModuleType("datasets")
        module.load_dataset = load_dataset
        monkeypatch.setitem(sys.modules, "datasets", module)

    return install


def no_hub(*args, **kwargs):
    raise AssertionError("the hub was asked")


@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_a_local_file_is_read_without_the_hub(tmp_path, hub, kind):
    hub(no_hub)
    assert load_natural_questions(kind(write(tmp_path / "nq.jsonl", ROWS))) == QUESTIONS


def test_a_local_file_of_any_name_is_read(tmp_path, hub):
    hub(no_hub)
    assert load_natural_questions(str(write(tmp_path / "nq", ROWS))) == QUESTIONS


@pytest.mark.parametrize("name", ["no.jsonl", "no.json"])
def test_a_file_that_is_not_there_is_not_looked_for_on_the_hub(tmp_path, hub, name):
    hub(no_hub)
    with pytest.raises(TrainingError, match=rf"{name} cannot be read"):
        load_natural_questions(str(tmp_path / name))


def test_a_path_that_is_not_there_is_not_looked_for_on_the_hub(tmp_path, hub):
    hub(no_hub)
    with pytest.raises(TrainingError, match="cannot be read"):
        load_natural_questions(tmp_path / "no")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"answer": ["a"]}, "question is None"),
        ({"question": "q"}, "no answer"),
        ({"question": "q", "answer": []}, "no answer"),
        ({"question": "q", "answer": [7]}, r"answer is \[7\]"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(tmp_path, row, said):
    file = write(tmp_path / "nq.jsonl", [ROWS[0], row])
    with pytest.raises(TrainingError, match=rf"nq\.jsonl, line 2.*{said}"):
        load_natural_questions(file)


def test_a_file_without_questions_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="no questions"):
        load_natural_questions(write(tmp_path / "nq.jsonl", []))


def test_the_split_asked_for_is_loaded_from_the_hub(hub):
    asked = []

    def load_dataset(name, split):
        asked.append((name, split))
        return iter(ROWS)

    hub(load_dataset)
    assert load_natural_questions(split="validation") == QUESTIONS
    assert load_natural_questions("mine/nq") == QUESTIONS
    assert asked == [(HUB, "validation"), ("mine/nq", "train")]


def test_a_hub_that_cannot_be_reached_is_said_with_the_way_around_it(hub):
    def load_dataset(name, split):
        raise ConnectionError("no route to host")

    hub(load_dataset)
    with pytest.raises(TrainingError, match=r"(?s)nq_open.*no route to host.*local file") as caught:
        load_natural_questions()
    assert isinstance(caught.value.__cause__, ConnectionError)


def test_a_connection_that_breaks_in_the_middle_is_said_too(hub):
    def load_dataset(name, split):
        yield ROWS[0]
        raise ConnectionError("reset by peer")

    hub(load_dataset)
    with pytest.raises(TrainingError, match="reset by peer"):
        load_natural_questions()


@pytest.mark.parametrize("row", [{"question": "q"}, "q"])
def test_a_data_set_of_another_form_is_refused_by_row(hub, row):
    hub(lambda name, split: [ROWS[0], row])
    with pytest.raises(TrainingError, match=r"mine/other \(train\), row 1"):
        load_natural_questions("mine/other")


def test_without_datasets_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(TrainingError, match="pip install datasets"):
        load_natural_questions()


def test_without_datasets_a_local_file_is_read_all_the_same(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert load_natural_questions(write(tmp_path / "nq.jsonl", ROWS)) == QUESTIONS
