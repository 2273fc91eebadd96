"""How far something is, on the terminal while it takes its time; silent where nobody watches."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Tell = Callable[[str, float | None], None]
"""Takes the phase's word, and how much of the total is done; None: nobody can tell."""


@contextmanager
def bar(total: float, *, shown: bool) -> Iterator[Tell]:
    """Give a function that shows a phase: a bar of ``total`` with its share, or a moving one with the time it takes.

    It goes to stderr, is there only if that is a terminal that can be drawn on and ``shown``, and leaves no trace.
    """
    if not shown or not sys.stderr.isatty():
        yield lambda _word, _done: None
        return
    from rich.console import Console  # noqa: PLC0415 - start-up time
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    from x0ctl.terminal import restored_on_sigterm  # noqa: PLC0415

    console = Console(stderr=True)
    if console.is_dumb_terminal:
        yield lambda _word, _done: None
        return
    columns = (TextColumn("{task.description:<16}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with restored_on_sigterm(), Progress(*columns, console=console, transient=True) as progress:
        phase = ""

        def tell(word: str, done: float | None) -> None:
            nonlocal phase
            if word != phase:
                for former in progress.task_ids:
                    progress.remove_task(former)
                progress.add_task(word, total=None if done is None else total)
                phase = word
            progress.update(progress.task_ids[0], completed=done)
            progress.refresh()

        yield tell
