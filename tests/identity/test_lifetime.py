"""The life of an SVID: what holds at an instant depends on nothing but that instant."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from x0d.identity.lifetime import Look, Validity, look, renewal_at

BEGUN, ENDS = 1_000_000.0, 1_003_600.0
instants = st.floats(0, 3e9, allow_nan=False)


@pytest.mark.parametrize(
    ("now_s", "expected"),
    [
        (BEGUN - 1, Look(Validity.NOT_YET_VALID, 3_601.0, due=False, late=False)),
        (BEGUN, Look(Validity.VALID, 3_600.0, due=False, late=False)),
        (BEGUN + 1_799, Look(Validity.VALID, 1_801.0, due=False, late=False)),
        (BEGUN + 1_800, Look(Validity.VALID, 1_800.0, due=True, late=False)),
        (BEGUN + 2_399, Look(Validity.VALID, 1_201.0, due=True, late=False)),
        (BEGUN + 2_401, Look(Validity.VALID, 1_199.0, due=True, late=True)),
        (ENDS - 1, Look(Validity.VALID, 1.0, due=True, late=True)),
        (ENDS, Look(Validity.EXPIRED, 0.0, due=True, late=True)),
        (ENDS + 1e9, Look(Validity.EXPIRED, 0.0, due=True, late=True)),
    ],
)
def test_life(now_s: float, expected: Look) -> None:
    """An SVID is valid, due at half, late when less than a third is left, then expired."""
    assert expected == look(BEGUN, ENDS, now_s)


def test_missing() -> None:
    """Where there is none, one is due, and nothing can be shown."""
    now = look(0, 0, BEGUN)
    assert (Validity.MISSING, True, False) == (now.validity, now.due, now.usable)


@given(instants, instants, instants, instants)
def test_clock_jump(begun_s: float, ends_s: float, now_s: float, jump_s: float) -> None:
    """A jump of the clock and back leaves nothing behind."""
    before = look(begun_s, ends_s, now_s)
    look(begun_s, ends_s, jump_s)
    assert before == look(begun_s, ends_s, now_s)


@given(instants, instants, instants)
def test_usable_within_its_life_only(begun_s: float, ends_s: float, now_s: float) -> None:
    """It may be shown from its beginning and before its end, whatever its dates say."""
    assert (ends_s != 0 and begun_s <= now_s < ends_s) == look(begun_s, ends_s, now_s).usable


@given(st.floats(0, 1))
def test_renewal(chance: float) -> None:
    """Renewal falls within a tenth of the life around its half."""
    at = renewal_at(BEGUN, ENDS, chance)
    assert BEGUN + 1_620 - 1e-6 <= at <= BEGUN + 1_980 + 1e-6
