"""Budgets: never more than burst and rate allow, in bounded memory, whoever asks."""

import random

from hypothesis import given
from hypothesis import strategies as st

from x0d.identity.budget import Budget, Budgets

RATE, BURST = 2.0, 5.0


def test_burst_then_rate() -> None:
    """A full budget gives its burst at once and then its rate."""
    budget = Budget(RATE, BURST)
    assert 5 == sum(budget.take(0.0) for _ in range(20))
    assert [False, True, False] == [budget.take(at) for at in (0.4, 0.5, 0.5)]
    assert 5 == sum(budget.take(1_000.0) for _ in range(20))


def test_cost() -> None:
    """A cost is spent whole or not at all."""
    budget = Budget(RATE, BURST)
    assert [True, False, True] == [budget.take(0.0, 3), budget.take(0.0, 3), budget.take(0.0, 2)]


def test_clock_that_goes_back() -> None:
    """A clock that goes back and comes again fills only what passes from then on."""
    budget = Budget(RATE, BURST)
    for _ in range(5):
        budget.take(100.0)
    assert [False, False, True] == [budget.take(0.0), budget.take(0.4), budget.take(0.5)]


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(1, 4)), max_size=80))
def test_never_more_than_promised(story: list[tuple[float, int]]) -> None:
    """Within any stretch of time no more is spent than the burst and the rate over it."""
    budget, now_s = Budget(RATE, BURST), 0.0
    spent: list[tuple[float, int]] = []
    for passed_s, cost in story:
        now_s += passed_s
        if budget.take(now_s, cost):
            spent.append((now_s, cost))
    for first, (begun_s, _) in enumerate(spent):
        total = 0
        for ended_s, cost in spent[first:]:
            total += cost
            assert total <= BURST + RATE * (ended_s - begun_s) + 1e-6


def test_sources_apart() -> None:
    """One source that has spent its budget leaves the others theirs."""
    budgets = Budgets(RATE, BURST)
    assert 5 == sum(budgets.take("a", 0.0) for _ in range(20))
    assert 5 == sum(budgets.take("b", 0.0) for _ in range(20))


def test_many_names(seed: int) -> None:
    """A hundred thousand names stay within memory, and get together what the remembered ones and one more may have."""
    rng = random.Random(seed)
    budgets = Budgets(RATE, BURST, sources_max=16)
    taken = sum(budgets.take(rng.randrange(100_000), n / 100_000) for n in range(100_000))
    assert 16 == len(budgets)
    assert taken <= 17 * (BURST + RATE)


def test_room_again() -> None:
    """A source that has its whole budget back makes room for a new one."""
    budgets = Budgets(RATE, BURST, sources_max=2)
    for _ in range(5):
        budgets.take("a", 0.0)
        budgets.take("b", 0.0)
    assert 5 == sum(budgets.take("c", 0.1) for _ in range(20))  # of the common one
    assert not budgets.take("d", 0.1)
    assert 5 == sum(budgets.take("e", 10.0) for _ in range(20))
    assert 5 == sum(budgets.take("f", 10.0) for _ in range(20))
    assert 2 == len(budgets)


def test_busy_sources_are_remembered() -> None:
    """The source that makes room is the one that waited longest, not the one that came first."""
    budgets = Budgets(RATE, BURST, sources_max=2)
    for source, now_s in (("a", 0.0), ("b", 0.0), ("a", 10.0), ("c", 10.0)):
        budgets.take(source, now_s)
    assert 5 == sum(budgets.take("d", 10.0) for _ in range(20))
    assert 4 == sum(budgets.take("c", 10.0) for _ in range(20))
