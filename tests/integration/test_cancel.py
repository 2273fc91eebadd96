"""A task that is cancelled ends, also when it is woken in the same turn of the event loop."""

import ast
from pathlib import Path

DAEMON = Path(__file__).resolve().parents[2] / "daemon"


def test_no_wait_for() -> None:
    """The daemon waits with asyncio.timeout: wait_for of Python 3.11 drops a cancel that comes with the awaited event.

    A stop that met such a task waited for ever, and SIGTERM was answered by nobody.
    """
    found = [
        f"{path.relative_to(DAEMON)}:{node.lineno}"
        for path in sorted(DAEMON.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "asyncio.wait_for"
    ]
    assert [] == found
