"""Virtual time: a clock that a test moves, and an event loop that moves it whenever all tasks wait.

``FakeClock`` has a timeline of its own for what the kernel does (``at``): it goes on while the event loop is busy, as
the real one does, so a test can stop the loop for a second (``hang``) and the probes are answered all the same.
``run_virtual`` runs a coroutine on a loop whose timers follow the clock: five virtual seconds pass in milliseconds, and
every run is the same.

Not modelled: the time that computing takes; threads (whoever waits for one without a timer waits for ever).
"""

import asyncio
import heapq
import itertools
import math
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")
SECOND_NS = 1_000_000_000


class FakeClock:
    """``ports.Clock``; starts an hour after the machine did."""

    def __init__(self) -> None:
        self.now_ns = 3600 * SECOND_NS
        self._order = itertools.count()
        self._timeline: list[tuple[int, int, Callable[[], None]]] = []

    def monotonic_ns(self) -> int:
        return self.now_ns

    def unix_ms(self) -> int:
        return 1_700_000_000_000 + self.now_ns // 1_000_000

    def at(self, delay_s: float, action: Callable[[], None]) -> None:
        """Let the kernel do something later."""
        heapq.heappush(self._timeline, (self.now_ns + round(delay_s * SECOND_NS), next(self._order), action))

    def advance(self, for_s: float) -> None:
        """Let time pass, with all that the kernel does meanwhile."""
        until_ns = self.now_ns + math.ceil(for_s * SECOND_NS)
        while self._timeline and self._timeline[0][0] <= until_ns:
            self._act()
        self.now_ns = until_ns

    hang = advance

    def idle(self, timeout_s: float | None) -> None:
        """Go to the kernel's next deed, or to the loop's next timer if that is earlier."""
        due_ns = self._timeline[0][0] if self._timeline else None
        until_ns = None if timeout_s is None else self.now_ns + math.ceil(timeout_s * SECOND_NS)
        assert due_ns is not None or until_ns is not None, "everybody waits, and nothing will ever happen"
        if due_ns is not None and (until_ns is None or due_ns <= until_ns):
            self._act()
        elif until_ns is not None:
            self.now_ns = until_ns

    def _act(self) -> None:
        due_ns, _, action = heapq.heappop(self._timeline)
        self.now_ns = max(self.now_ns, due_ns)
        action()


class _Idler(selectors.SelectSelector):
    """Where the loop would sleep, the clock moves."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and (timeout is None or timeout > 0):
            self._clock.idle(timeout)
        return ready


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self, clock: FakeClock) -> None:
        super().__init__(_Idler(clock))
        self._fake_clock = clock

    def time(self) -> float:
        return self._fake_clock.now_ns / SECOND_NS


def run_virtual(clock: FakeClock, main: Coroutine[Any, Any, Result]) -> Result:
    """Run to the end in virtual time; then cancel what is left."""
    with asyncio.Runner(loop_factory=lambda: _VirtualLoop(clock)) as runner:
        return runner.run(main)


async def passes(for_s: float) -> None:
    """Let virtual time pass while everybody else works."""
    await asyncio.sleep(for_s)


async def until(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    """Let virtual time pass until something holds; looks every virtual millisecond."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110  conditions are of anything, and no time is wasted
            await asyncio.sleep(0.001)
