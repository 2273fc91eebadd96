"""How the story is printed: headings, what held and what did not, drawings; in colour on a terminal."""

import sys
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Teller:
    """Prints the story, in colour on a terminal."""

    colour: bool

    def heading(self, text: str) -> None:
        """A part begins."""
        self._print(f"\n\x1b[1;36m{text}\x1b[0m" if self.colour else f"\n== {text}")

    def line(self, text: str) -> None:
        """Anything."""
        self._print(text)

    def held(self, text: str) -> None:
        """Something expected was seen."""
        self._print(f"  \x1b[32mok\x1b[0m {text}" if self.colour else f"  ok {text}")

    def failed(self, text: str) -> None:
        """The story ends."""
        self._print(f"\x1b[1;31mnot as expected:\x1b[0m {text}" if self.colour else f"not as expected: {text}")

    def indented(self, text: str) -> None:
        """A drawing or a table."""
        self._print("".join(f"    {line}\n" for line in text.splitlines()).rstrip("\n"))

    def _print(self, text: str) -> None:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
