"""Roles, the table of methods, and the names that carry a caller."""

from pathlib import Path

import pytest
from grpc import aio
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from hypothesis import given
from hypothesis import strategies as st

from fakes.control import run
from fakes.views import fake_views
from x0d.service.api import Servicers
from x0d.transport.access import METHODS, Caller, Role, Roles, caller_of, name_of
from x0d.transport.health import Health

PRIVATE = Path("/run/x0d/private")
ids = st.integers(0, 2**32 - 1)


@given(uid=ids, groups=st.frozensets(ids, max_size=3), number=st.integers(1))
def test_name_round_trip(uid: int, groups: frozenset[int], number: int) -> None:
    """A caller survives the way through the name that its connection is bound to."""
    caller = Caller(uid, groups)
    assert caller == caller_of(f"unix:{PRIVATE}/{name_of(caller, number)}", PRIVATE)


@given(st.text() | st.text("u01-g/:", max_size=30).map(lambda text: f"unix:{PRIVATE}/{text}"))
def test_any_peer_text(peer: str) -> None:
    """Any peer text is a caller or none, and never an error."""
    caller = caller_of(peer, PRIVATE)
    assert caller is None or caller.uid >= 0


def test_foreign_names() -> None:
    """A peer that is not a name in the private directory is nobody we know."""
    peers = [
        "unix:",
        "unix:@",
        "unix:/elsewhere/u0-1",
        "ipv4:127.0.0.1:1",
        f"unix:{PRIVATE}/x/u0-1",
        f"unix:{PRIVATE}/u0",
    ]
    assert [None] * len(peers) == [caller_of(peer, PRIVATE) for peer in peers]


def test_roles() -> None:
    """Root and the daemon's uid are admins, the group's members viewers, anyone else nobody."""
    roles = Roles(frozenset({0, 990}), frozenset({998}))
    callers = [Caller(0, frozenset()), Caller(990, frozenset()), Caller(7, frozenset({998})), Caller(7, frozenset({5}))]
    assert [Role.ADMIN, Role.ADMIN, Role.VIEWER, Role.NOBODY] == [roles.of(caller) for caller in callers]


def test_absent_group() -> None:
    """Without the viewer group nobody is a viewer."""
    assert Role.NOBODY is Roles(frozenset({0}), frozenset()).of(Caller(7, frozenset({998})))


def test_every_method_is_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each method that is registered has a role, and the table names no other."""
    found: set[str] = set()

    def record(service_name: str, method_handlers: dict[str, object]) -> None:
        found.update(f"/{service_name}/{method}" for method in method_handlers)

    async def register() -> None:
        server = aio.server()
        monkeypatch.setattr(server, "add_registered_method_handlers", record)
        servicers = Servicers(fake_views())
        servicers.register(server)
        health_pb2_grpc.add_HealthServicer_to_server(Health(servicers.names), server)
        reflection.enable_server_reflection(servicers.names, server)

    run(register())
    assert set(METHODS) == found


def test_changes_are_for_admins() -> None:
    """Of x0d's own methods only those that read are a viewer's."""
    viewers = {method for method, role in METHODS.items() if role is Role.VIEWER and method.startswith("/x0d.")}
    verbs = {method.rpartition("/")[2] for method in viewers}
    assert all(verb.startswith(("Get", "List", "Watch", "RunDoctor")) for verb in verbs), verbs
