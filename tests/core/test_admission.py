"""What the app's own hooks let be stored."""

import json
import re
from pathlib import Path
from runpy import run_path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from semcache_core.admission import Admission, Admitted
from semcache_core.errors import SemcacheError, SettingsError
from semcache_core.types import Request

QUESTION, RESPONSE = "How do I cancel?", "Call Ada."


def hide_ada(text: str) -> str:
    return text.replace("Ada", "<NAME>")


def test_without_hooks_everything_is_stored_as_it_is() -> None:
    assert Admission().admitted(Request("I am Ada"), "Hello Ada") == Admitted(
        "I am Ada", "Hello Ada"
    )


class TestAdmit:
    def test_it_sees_the_request_and_the_response_as_they_are(self) -> None:
        seen = []

        def admit(request: Request, response: str) -> bool:
            seen.append((request, response))
            return True

        request = Request(QUESTION, scope="model", namespace="acme")
        admission = Admission(admit, hide_ada)
        assert admission.admitted(request, RESPONSE) == Admitted(QUESTION, "Call <NAME>.")
        assert seen == [(request, RESPONSE)]

    def test_what_it_refuses_is_not_stored_nor_redacted(self) -> None:
        admission = Admission(lambda request, response: False, redact=pytest.fail)
        assert admission.admitted(Request(QUESTION), RESPONSE) is None


class TestRedact:
    def test_a_response_is_stored_as_redacted(self) -> None:
        admission = Admission(redact=hide_ada)
        assert admission.admitted(Request(QUESTION), RESPONSE) == Admitted(QUESTION, "Call <NAME>.")

    @pytest.mark.parametrize("exact_only", [False, True])
    def test_nothing_is_stored_of_a_question_that_it_changes(self, exact_only: bool) -> None:
        request = Request("What does Ada owe?", exact_only=exact_only)
        assert Admission(redact=hide_ada).admitted(request, "5 euros") is None

    def test_a_question_that_it_changes_is_not_to_be_written_anywhere(self) -> None:
        admission = Admission(redact=hide_ada)
        assert admission.storable(QUESTION)
        assert not admission.storable("What does Ada owe?")
        assert Admission().storable("What does Ada owe?")

    @given(question=st.text(), response=st.text(), secret=st.text(min_size=1))
    def test_whatever_it_takes_out_is_in_nothing_that_is_stored(
        self, question: str, response: str, secret: str
    ) -> None:
        def redact(text: str) -> str:
            return "" if secret in text else text

        admitted = Admission(redact=redact).admitted(Request(question), response)
        emptied = secret in response and bool(response.strip())
        assert (admitted is None) == (secret in question or emptied)
        if admitted is not None:
            assert secret not in admitted.question + admitted.response

    @pytest.mark.parametrize("left", ["", " \n"])
    def test_nothing_is_stored_of_a_response_without_words_left(self, left: str) -> None:
        admission = Admission(redact=lambda text: left if text == RESPONSE else text)
        assert admission.admitted(Request(QUESTION), RESPONSE) is None


class TestRedactWithinJson:
    """What the adapters store is JSON, and must still be when something was taken out of it."""

    def redacted(self, value: object) -> Any:
        def redact(text: str) -> str:
            return re.sub(r"\d+", '"N"', text)

        admitted = Admission(redact=redact).admitted(Request(QUESTION), json.dumps(value), True)
        assert admitted is not None
        return json.loads(admitted.response)

    def test_each_text_and_number_in_it_is_redacted_and_it_stays_json(self) -> None:
        answer = {"lc": 1, "content": "Call 555", "n": [4821, 1.5, True, None], "k7": {"a": "x"}}
        assert self.redacted(answer) == {
            "lc": 1,
            "content": 'Call "N"',
            "n": ['"N"', '"N"."N"', True, None],
            'k"N"': {"a": "x"},
        }

    def test_json_within_a_text_stays_json_too(self) -> None:
        answer = [json.dumps({"arguments": json.dumps({"account": 4821})})]
        arguments = json.loads(json.loads(self.redacted(answer)[0])["arguments"])
        assert arguments == {"account": '"N"'}

    def test_what_is_not_changed_is_stored_to_the_byte(self) -> None:
        text = '{ "a" :\t["b", 1e3] }'
        admitted = Admission(redact=hide_ada).admitted(Request(QUESTION), text, True)
        assert admitted == Admitted(QUESTION, text)

    def test_what_is_no_json_is_redacted_as_a_whole(self) -> None:
        for text in (RESPONSE, "[" * 100_000 + "Ada"):
            admitted = Admission(redact=hide_ada).admitted(Request(QUESTION), text, True)
            assert admitted == Admitted(QUESTION, text.replace("Ada", "<NAME>"))


def fails(*arguments: object) -> Any:
    raise KeyError("Ada's IBAN")


async def is_async(*arguments: object) -> Any:
    raise AssertionError("nobody awaits it")


class TestAHookThatGoesWrong:
    @pytest.mark.parametrize(
        ("admission", "name"),
        [(Admission(admit=fails), "admit"), (Admission(redact=fails), "redact")],
    )
    def test_its_error_stops_the_storing_and_is_the_cause_of_ours(
        self, admission: Admission, name: str
    ) -> None:
        with pytest.raises(SemcacheError, match=f"^{name} failed with KeyError") as raised:
            admission.admitted(Request(QUESTION), RESPONSE)
        assert isinstance(raised.value.__cause__, KeyError)

    def test_our_error_repeats_no_text_that_a_log_must_not_get(self) -> None:
        with pytest.raises(SemcacheError) as raised:
            Admission(redact=fails).storable(QUESTION)
        assert "IBAN" not in str(raised.value) and "cancel" not in str(raised.value)

    @pytest.mark.parametrize("answer", [None, b"bytes", 0])
    def test_a_redaction_that_is_no_text_is_not_stored(self, answer: Any) -> None:
        admission = Admission(redact=lambda text: answer if text == RESPONSE else text)
        with pytest.raises(
            SemcacheError, match=f"must return a str, got a {type(answer).__name__}"
        ):
            admission.admitted(Request(QUESTION), RESPONSE)

    def test_an_admission_by_numpy_counts(self) -> None:
        admission = Admission(admit=lambda request, response: np.bool_(len(response) > 3))
        assert admission.admitted(Request(QUESTION), RESPONSE) is not None

    @pytest.mark.parametrize("answer", [None, "yes", 1])
    def test_an_admission_that_is_no_bool_is_no_yes(self, answer: Any) -> None:
        admission = Admission(admit=lambda request, response: answer)
        with pytest.raises(SemcacheError, match="admit must return a bool, got a "):
            admission.admitted(Request(QUESTION), RESPONSE)

    @pytest.mark.filterwarnings("ignore:coroutine")
    def test_an_async_hook_is_no_yes_either(self) -> None:
        with pytest.raises(SemcacheError, match=r"got a coroutine.*do not make it async"):
            Admission(admit=is_async).admitted(Request(QUESTION), RESPONSE)

    def test_an_interrupt_is_not_wrapped(self) -> None:
        def interrupted(text: str) -> str:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            Admission(redact=interrupted).storable(QUESTION)

    @pytest.mark.parametrize("name", ["admit", "redact"])
    def test_what_is_no_function_is_refused_at_once(self, name: str) -> None:
        hooks: Any = {name: "str.upper"}
        with pytest.raises(SettingsError, match=f"{name} must be a function, got 'str.upper'"):
            Admission(**hooks)


def test_the_example_stores_nothing_personal(capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(__file__).parents[2] / "examples" / "redact_pii.py"
    answers = ["Write to Ada, ada@example.org.", "Done.", "Done again.", "Sorry, no.", "9 to 5."]
    run_path(str(path))["main"](lambda question: answers.pop(0))
    assert capsys.readouterr().out.splitlines() == [
        "How do I close my account?",
        "   Write to Ada, ada@example.org.   [the model]",
        "How can I close my account?",
        "   Write to Ada, [EMAIL_1].   [the cache]",
        "How do I close the account C-20317?",
        "   Done.   [the model]",
        "How do I close the account C-20317?",
        "   Done again.   [the model]",
        "What are your opening hours?",
        "   Sorry, no.   [the model]",
        "What are your opening hours?",
        "   9 to 5.   [the model]",
    ]
