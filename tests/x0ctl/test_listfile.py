"""A deny-list file before it is sent."""

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from x0ctl import listfile
from x0ctl.failure import Failure
from x0ctl.listfile import PART_BYTES_MAX, read_list, whole_lines


@given(st.lists(st.text("ab\u00e9\r\x0b ", max_size=200_000), max_size=5).map("\n".join))
def test_parts_are_whole_lines(text: str) -> None:
    """The parts joined are the text; each fits and all but the last end with a line."""
    parts = list(whole_lines("x", text))
    assert text == "".join(parts)
    assert [True] * (len(parts) - 1) == [part.endswith("\n") for part in parts[:-1]]
    assert max(len(part.encode()) for part in parts) <= PART_BYTES_MAX


def test_large_lists_come_in_several_parts() -> None:
    """A list larger than a request is cut between lines."""
    text = "192.0.2.1 # comment\n" * 60_000
    parts = list(whole_lines("x", text))
    assert 3 == len(parts)
    assert text == "".join(parts)


def test_line_that_is_too_long() -> None:
    """A line that no request takes is refused by its number, before the first part."""
    with pytest.raises(Failure, match="x: line 2 has 524,289 bytes"):
        whole_lines("x", "192.0.2.1\n" + "x" * PART_BYTES_MAX + "\n")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"192.0.2.1\n\x7fELF\x02\x01\0\0", "line 2 has a NUL byte"),
        (b"192.0.2.1\n192.0.2.2\n\xff\xfe", "line 3 is no UTF-8 text"),
    ],
    ids=["NUL", "not UTF-8"],
)
def test_binary_files(tmp_path: Path, content: bytes, said: str) -> None:
    """A file that is no text is refused by the line where that shows."""
    file = tmp_path / "deny.txt"
    file.write_bytes(content)
    with pytest.raises(Failure, match=said):
        read_list(str(file))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file, a directory and one that is too large are told as such."""
    with pytest.raises(Failure, match="No such file or directory\n  nothing was sent"):
        read_list(str(tmp_path / "missing"))
    with pytest.raises(Failure, match="Is a directory"):
        read_list(str(tmp_path))


def test_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file beyond the limit is not read to its end."""
    monkeypatch.setattr(listfile, "FILE_BYTES_MAX", 1 << 20)
    file = tmp_path / "deny.txt"
    file.write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(Failure, match="larger than 1 MiB"):
        read_list(str(file))


def test_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    """``-`` is stdin; a byte-order mark is no part of the text."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbf192.0.2.1\n")))
    assert "192.0.2.1\n" == read_list("-")
