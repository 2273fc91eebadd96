"""A bar on the terminal while something takes its time; silent where nobody watches."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def bar(total: float, *, shown: bool) -> Iterator[Callable[[str, float], None]]:
    """Give a function that shows a word and how much of ``total`` is done.

    The bar goes to stderr, is there only if that is a terminal and ``shown``, and leaves no trace.
    """
    if not shown or not sys.stderr.isatty():
        yield lambda _word, _done: None
        return
    from rich.console import Console  # noqa: PLC0415 - start-up time
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description:<10}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)

        def tell(word: str, done: float) -> None:
            progress.update(task, description=word, completed=done)

        yield tell
