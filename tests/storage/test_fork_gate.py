"""A fork waits for the operations inside the gate, and lets none in until it is over."""

import threading

import pytest
from semcache_core.storage import database
from semcache_core.storage.database import ForkGate


def test_a_fork_goes_on_as_soon_as_the_last_operation_has_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(database, "FORK_WAIT_SECONDS", 60.0)
    gate = ForkGate()
    all_left: list[bool] = []
    gate.__enter__()
    gate.__enter__()
    fork = threading.Thread(target=lambda: all_left.append(gate.shut()), daemon=True)
    fork.start()
    gate.__exit__()
    fork.join(timeout=0.2)
    assert fork.is_alive()
    gate.__exit__()
    fork.join(timeout=20)
    assert all_left == [True]


def test_an_operation_waits_until_the_fork_is_over() -> None:
    gate, entered = ForkGate(), threading.Event()
    assert gate.shut()

    def operation() -> None:
        with gate:
            entered.set()

    threading.Thread(target=operation, daemon=True).start()
    assert not entered.wait(timeout=0.2)
    gate.open()
    assert entered.wait(timeout=20)
