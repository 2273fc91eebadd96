"""The lock-out guard: what would cut off x0d or its operator is named, and nothing else is."""

import random

import pytest

from x0d.policy.guard import REASONS_MAX, Protected, lock_outs
from x0d.policy.model import PackedPrefix, parse_prefix

NEIGHBOUR = Protected(parse_prefix("10.0.0.2"), "neighbour n2", overlap=False)
NEIGHBOUR6 = Protected(parse_prefix("fd00::2"), "neighbour n3", overlap=False)
MANAGEMENT = Protected(parse_prefix("192.168.0.0/18"), "management network", overlap=True)
ALL = (NEIGHBOUR, NEIGHBOUR6, MANAGEMENT)


@pytest.mark.parametrize(
    ("entry", "reasons"),
    [
        ("10.0.0.2", ("10.0.0.2 covers 10.0.0.2, neighbour n2",)),
        ("10.0.0.0/8", ("10.0.0.0/8 covers 10.0.0.2, neighbour n2",)),
        ("10.0.0.3", ()),
        ("10.0.1.0/24", ()),
        ("fd00::/16", ("fd00::/16 covers fd00::2, neighbour n3",)),
        ("::/0", ("::/0 covers fd00::2, neighbour n3",)),
        ("192.168.0.0/18", ("192.168.0.0/18 covers 192.168.0.0/18, management network",)),
        ("192.168.0.0/16", ("192.168.0.0/16 covers 192.168.0.0/18, management network",)),
        ("192.168.63.9", ("192.168.63.9 lies in 192.168.0.0/18, management network",)),
        ("192.168.64.0/24", ()),
        (
            "0.0.0.0/0",
            (
                "0.0.0.0/0 covers 10.0.0.2, neighbour n2",
                "0.0.0.0/0 covers 192.168.0.0/18, management network",
            ),
        ),
    ],
)
def test_entry_is_held_against_all_that_is_protected(entry: str, reasons: tuple[str, ...]) -> None:
    """An entry is told of if it covers something protected or lies in a management network; IPv4 and IPv6 apart."""
    assert reasons == lock_outs([parse_prefix(entry)], ALL)


def test_sentences_are_bounded() -> None:
    """A list that covers more than an answer should hold names the first and counts the rest."""
    protected = [Protected(parse_prefix(f"10.0.0.{n}"), f"neighbour n{n}", overlap=False) for n in range(50)]
    reasons = lock_outs([parse_prefix("10.0.0.0/8")], protected)
    assert REASONS_MAX + 1 == len(reasons)
    assert f"and {50 - REASONS_MAX} more" == reasons[-1]


def test_quick_search_finds_what_comparing_pairs_finds(seed: int) -> None:
    """On random lists the guard finds each pair that comparing all with all finds, and no other."""
    rng = random.Random(seed)

    def prefix() -> PackedPrefix:
        high = rng.choice(("10.0.0.{}", "10.{}.0.1", "10.0.{}.7", "fd00::{:x}", "fd00:{:x}::1"))
        text = high.format(rng.randrange(4))
        return parse_prefix(f"{text}/{rng.randrange(129 if ':' in text else 33)}")

    for _ in range(200):
        entries = {prefix() for _ in range(3)}
        protected = [Protected(prefix(), f"p{n}", overlap=rng.random() < 0.5) for n in range(3)]
        expected = {
            f"{entry} {'covers' if entry.covers(one.prefix) else 'lies in'} {one.prefix}, {one.what}"
            for entry in entries
            for one in protected
            if entry.covers(one.prefix) or (one.overlap and one.prefix.covers(entry))
        }
        assert expected == set(lock_outs(entries, protected)) == set(lock_outs(list(entries), protected))
