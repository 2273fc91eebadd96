"""Streaming calls under way, so that those whose caller is not trusted any more can be ended.

A unary call is judged once, when it begins, and ends within its deadline; a stream may live for days.  ``look`` judges
every stream again: after each change of the bundles or of the bindings, and once a second for what only time changes.
What is refused then is cancelled, and the gate tells its client.  Which stream was cut, and why, is kept with the
stream: a client that cancels at the same moment is not mistaken for one that was cut.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from x0d.errors import IdentityRefused
from x0d.identity.model import Principal


@dataclass(slots=True, eq=False)
class OpenStream:
    """One call that streams in either direction."""

    principal: Principal
    method: str
    task: "asyncio.Task[object] | None"
    refused: IdentityRefused | None = None
    """Why it was cut; None while it may go on."""


class OpenStreams:
    """Every stream of one server."""

    def __init__(
        self,
        judge: Callable[[Principal, str], None] | None = None,
        on_cut: Callable[[OpenStream, IdentityRefused], None] | None = None,
    ) -> None:
        """``judge`` raises IdentityRefused for who may not go on with a method; None: nobody is judged again."""
        self._judge = judge
        self._on_cut = on_cut
        self._open: set[OpenStream] = set()

    def __len__(self) -> int:
        return len(self._open)

    @contextmanager
    def hold(self, principal: Principal, method: str) -> Iterator[OpenStream]:
        """Count the current task as a stream while the block lasts."""
        stream = OpenStream(principal, method, asyncio.current_task())
        self._open.add(stream)
        try:
            yield stream
        finally:
            self._open.discard(stream)

    def look(self) -> None:
        """Judge all of them again, and cut those that are refused."""
        if self._judge is None:
            return
        for stream in tuple(self._open):
            if stream.refused is not None:
                continue
            try:
                self._judge(stream.principal, stream.method)
            except IdentityRefused as refused:
                stream.refused = refused
                if self._on_cut is not None:
                    self._on_cut(stream, refused)
                if stream.task is not None:
                    stream.task.cancel()
