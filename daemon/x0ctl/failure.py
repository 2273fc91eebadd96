"""Why a command did not do what was asked: a sentence, what to do next, and an exit code."""

from typing import Final

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 3
EXIT_NOT_PERMITTED: Final = 4


class Failure(Exception):
    """Ends the command."""

    def __init__(self, exit_code: int, text: str, next_step: str = "") -> None:
        self.exit_code = exit_code
        super().__init__(f"{text}\n  {next_step}" if next_step else text)
