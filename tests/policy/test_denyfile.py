"""Deny-list files: any text is read or refused with its line, however it is cut into pieces."""

import gc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from x0d.errors import InvalidInput
from x0d.policy.denyfile import FAULTS_MAX, LINE_CHARACTERS_MAX, DenyFileReader
from x0d.policy.durations import DURATION_S_MAX, parse_duration
from x0d.policy.model import PackedPrefix, PrefixKey, Terms, parse_prefix

NOW = 1_700_000_000_000
HOUR_MS = 3_600_000


def read(*pieces: str) -> tuple[dict[PrefixKey, Terms], DenyFileReader]:
    """Read a file in pieces."""
    reader = DenyFileReader(NOW)
    for piece in pieces:
        reader.feed(piece)
    return reader.finish(), reader


def test_file_with_everything_in_it() -> None:
    """Comments, blank lines, CRLF, a byte-order mark, durations and duplicates are read for what they are."""
    text = (
        "\ufeff# bad people\r\n\r\n192.0.2.1\r\n198.51.100.9/24 for=1h # scanner \x1b[1m\n2001:db8::/32#glued\n"
        "   192.0.2.1\t for=2h\n  # indented\n203.0.113.7 # last, no newline"
    )
    entries, reader = read(text)
    expected = {
        "192.0.2.1": Terms(NOW + 2 * HOUR_MS, ""),
        "198.51.100.0/24": Terms(NOW + HOUR_MS, "scanner [1m"),
        "2001:db8::/32": Terms(0, "glued"),
        "203.0.113.7": Terms(0, "last, no newline"),
    }
    assert expected == {str(PackedPrefix(*prefix)): terms for prefix, terms in entries.items()}
    assert list(expected) == [str(PackedPrefix(*prefix)) for prefix in entries]
    assert (8, 1, 4) == (reader.lines, reader.duplicates, reader.entries)


def outcome(*pieces: str) -> dict[PrefixKey, Terms] | str:
    """What comes of a file: its entries, or what it is refused with."""
    try:
        return read(*pieces)[0]
    except InvalidInput as refused:
        return str(refused)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("10.0.0.300", "line 2: '10.0.0.300' is neither an IP address nor a prefix"),
        ("10.0.0.0/40", "line 2: '10.0.0.0/40': the prefix length must be a number from 0 to 32"),
        ("10.0.0.1 10.0.0.2", "line 2: '10.0.0.2': only one for=DURATION or a # comment may follow a prefix"),
        ("10.0.0.1 for=1h for=2h", "line 2: 'for=1h for=2h': only one for=DURATION"),
        ("10.0.0.1 for=", "line 2: '' is no duration: write such as 90s"),
        ("10.0.0.1 for=0s", "line 2: '0s': a duration is 1 second to 10 years"),
        ("10.0.0.1 # " + "x" * 5000, "line 2: '10.0.0.1 # " + "x" * 49 + "'...: a line is at most 4096 characters"),
        ("x" * 5000, "line 2: '" + "x" * 60 + "'...: a line is at most 4096 characters"),
        (" " * 4088 + "192.0.2.0/24", "line 2: '192.0.2.0"),
        ("#" * 5000, "a line is at most 4096 characters"),
    ],
)
def test_fault_names_the_line(line: str, reason: str) -> None:
    """A faulty line is told of by number, text (cut) and fault."""
    with pytest.raises(InvalidInput) as refused:
        read(f"10.1.1.1\n{line}\n10.1.1.2\n")
    assert reason in str(refused.value)
    assert len(str(refused.value)) < 200


def test_several_faults_are_told_at_once() -> None:
    """The first faults come together, the good lines between them notwithstanding, and reading ends with the last."""
    reader = DenyFileReader(NOW)
    reader.feed("".join(f"bad{n}\n10.0.0.{n}\n" for n in range(50)) + "worse")
    reader.feed("worst\n")
    with pytest.raises(InvalidInput) as refused:
        reader.finish()
    told = str(refused.value).split("; ")
    assert FAULTS_MAX == len(told)
    assert told[3].startswith("line 7: 'bad3'")
    assert "wors" not in str(refused.value)


def test_line_without_end_takes_no_memory() -> None:
    """A line that never ends is refused, and only its beginning is kept meanwhile."""
    reader = DenyFileReader(NOW)
    for _ in range(100):
        reader.feed("x" * 10_000)
    assert len(reader._rest) < 5000
    with pytest.raises(InvalidInput, match="line 1: 'xxx"):
        reader.finish()


LINES = st.lists(
    st.one_of(
        st.text(max_size=30),
        st.builds("{}{}{}".format, st.ip_addresses(), st.sampled_from(["", "/8", "/24"]), st.text(max_size=9)),
    )
)


@given(LINES, st.lists(st.integers(0, 200), max_size=4))
def test_any_text_is_read_or_refused(lines: list[str], cuts: list[int]) -> None:
    """Any text gives entries or InvalidInput, the same in one piece and in many; what is read prints back to itself."""
    text = "\n".join(lines)
    places = sorted({0, *(min(cut, len(text)) for cut in cuts), len(text)})
    pieces = [text[start:end] for start, end in pairwise(places)]
    whole, cut = outcome(text), outcome(*pieces)
    assert whole == cut
    if not isinstance(whole, str):
        assert list(whole) == [parse_prefix(str(PackedPrefix(*prefix))) for prefix in whole]


@given(
    st.integers(LINE_CHARACTERS_MAX - 30, LINE_CHARACTERS_MAX + 10),
    st.sampled_from(["192.0.2.0/24", "192.0.2.1", "2001:db8::/32", "192.0.2.0/24 # why", "# comment"]),
    st.sampled_from(["", "\n", "\r\n", "\n10.0.0.1\n"]),
    st.integers(0, 50),
)
def test_line_is_read_whole_or_refused(pad: int, entry: str, end: str, cut: int) -> None:
    """A line about as long as one may be gives its entry or is refused; its beginning is never taken for the whole."""
    line = " " * pad + entry
    whole = outcome(line + end)
    assert whole == outcome(line[: -1 - cut], line[-1 - cut :] + end)
    if isinstance(whole, str):
        assert len(line + end) > LINE_CHARACTERS_MAX
        assert "line 1: " in whole
    else:
        assert len(line) <= LINE_CHARACTERS_MAX
        assert list(whole) == list(read(entry + end)[0])


PLAIN = st.builds(
    "{}.{}.{}.{}{}".format,
    *[st.sampled_from(["0", "1", "10", "255", "256", "01", "\u0661"])] * 4,
    st.sampled_from(["", "/0", "/9", "/32", "/33", "/", " ", "\r"]),
)


@given(st.lists(PLAIN, max_size=4))
def test_lines_read_together_say_what_each_says_alone(lines: list[str]) -> None:
    """Slices of bare IPv4 lines, which are read at one go, give what line by line gives, or the same faults."""
    expected: dict[PrefixKey, Terms] = {}
    faults = []
    for number, line in enumerate(lines, start=1):
        try:
            expected[parse_prefix(line.strip())] = Terms()
        except InvalidInput as fault:
            faults.append(f"line {number}: {fault}")
    assert ("; ".join(faults) or expected) == outcome("\n".join(lines))


def test_lists_are_nothing_to_the_collector() -> None:
    """After one look, Python's collector leaves a list's keys alone: however long it is, it makes no pause."""
    entries, _ = read("192.0.2.1\n198.51.100.0/24\n", "2001:db8::/32 for=1h\n203.0.113.9 # commented\n")
    gc.collect()
    assert [False] * 4 == [gc.is_tracked(prefix) for prefix in entries]


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("1h30m", 5400), ("2w", 1_209_600), ("3650d", DURATION_S_MAX)]
)
def test_durations(text: str, seconds: int) -> None:
    """A duration is a number and a unit, or several."""
    assert seconds == parse_duration(text)


@pytest.mark.parametrize("text", ["", "1", "h", "-1h", "1 h", "1y", "0s", "3651d", "٣h", "1h" * 9, "9" * 5000 + "s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    """No unit, an unknown one, nothing, and more than ten years are InvalidInput."""
    with pytest.raises(InvalidInput, match="duration"):
        parse_duration(text)
