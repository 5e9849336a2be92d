"""Runs Hypothesis state machines with the same settings: repeatable, and without a deadline."""

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

DEFAULT_EXAMPLES = 25
"""`max_examples` of the default profile, see `conftest.py`."""


def run_machine(machine: type[RuleBasedStateMachine], examples: int, steps: int) -> None:
    """Run `examples` sequences of at most `steps` rules, more in the nightly profile."""
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=examples * settings().max_examples // DEFAULT_EXAMPLES,
            stateful_step_count=steps,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
