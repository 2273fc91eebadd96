"""Roles, the table of methods, and the names that carry a caller."""

import os

import pytest
from grpc import aio
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from fakes.control import run
from fakes.views import fake_views
from x0d.identity.roles import Binding, IdPattern, Role
from x0d.service.api import Servicers
from x0d.transport.access import AUDITED, METHODS, Caller, UnixRoles
from x0d.transport.health import Health
from x0d.v1 import audit_pb2, dataplane_pb2, identity_pb2, incident_pb2, mesh_pb2, node_pb2, peer_pb2

GROUP = "nogroup"
GID = 65534


def held(caller: Caller, *bindings: Binding) -> set[Role]:
    """Roles of a caller under these bindings."""
    return set(UnixRoles.of_bindings(bindings, GROUP).of(caller))


def test_built_in_roles() -> None:
    """Root and the daemon's uid are admins, the group's members viewers, anyone else nobody."""
    assert {Role.ADMIN} == held(Caller(1, 0, frozenset()))
    assert {Role.ADMIN} == held(Caller(1, os.geteuid(), frozenset()))
    assert {Role.VIEWER} == held(Caller(1, 7, frozenset({GID})))
    assert set() == held(Caller(1, 7, frozenset({5})))


def test_bindings_add_roles() -> None:
    """A bound user and the members of a bound group hold what they are given, beside what they hold already."""
    nobody = Caller(1, 65534, frozenset({GID}))
    operators = Binding(Role.OPERATOR, group=GROUP)
    assert {Role.VIEWER, Role.OPERATOR} == held(nobody, operators)
    assert {Role.VIEWER, Role.ADMIN, Role.OPERATOR} == held(nobody, operators, Binding(Role.ADMIN, user="nobody"))
    assert {Role.ADMIN, Role.VIEWER} == held(Caller(1, 0, frozenset()), Binding(Role.VIEWER, user="root"))


def test_absent_names() -> None:
    """Names that this host does not know give nobody a role."""
    bindings = (Binding(Role.ADMIN, user="no such user"), Binding(Role.ADMIN, group="no such group"))
    assert {} == UnixRoles.of_bindings((), "no such group").by_gid
    assert {0, os.geteuid()} == set(UnixRoles.of_bindings(bindings, "no such group").by_uid)


def test_absent_names_are_told() -> None:
    """Who is bound and is no account of this host is named with the role; the group of the viewers is not, unbound."""
    everybody = Binding(Role.ADMIN, IdPattern.parse("spiffe://dev.x0d.test/*"))
    bindings = (
        *(Binding(Role.OPERATOR, user="nobdy"), Binding(Role.ADMIN, user="root"), Binding(Role.VIEWER, group="rot")),
        *(Binding(Role.OPERATOR, user="nobdy"), everybody),
    )
    assert ("operator for user nobdy", "viewer for group rot") == UnixRoles.of_bindings(bindings, "rot").unknown
    assert () == UnixRoles.of_bindings((), "rot").unknown


def test_ids_of_spiffe_are_no_unix_users() -> None:
    """A binding of SPIFFE IDs gives nothing on the unix socket."""
    everybody = IdPattern.parse("spiffe://dev.x0d.test/*")
    assert set() == held(Caller(1, 7, frozenset()), Binding(Role.ADMIN, everybody))


def registered(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Every method that the control server would answer."""
    found: set[str] = set()

    def record(service_name: str, method_handlers: dict[str, object]) -> None:
        found.update(f"/{service_name}/{method}" for method in method_handlers)

    async def register() -> None:
        server = aio.server()
        monkeypatch.setattr(server, "add_registered_method_handlers", record)
        servicers = Servicers(fake_views())
        servicers.register(server)
        health_pb2_grpc.add_HealthServicer_to_server(Health(), server)
        reflection.enable_server_reflection(servicers.names, server)

    run(register())
    return found


def test_every_method_is_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each method that is registered or in a proto has its roles, and the table names no other."""
    found = registered(monkeypatch)
    for file in (audit_pb2, dataplane_pb2, identity_pb2, incident_pb2, mesh_pb2, node_pb2, peer_pb2):
        for service in file.DESCRIPTOR.services_by_name.values():
            found.update(f"/{service.full_name}/{method.name}" for method in service.methods)
    assert found == set(METHODS)


def test_viewers_only_read() -> None:
    """Of x0d's own methods only those that read are a viewer's, and all others but four leave a record."""
    own = {method for method in METHODS if method.startswith("/x0d.")}
    viewers = {method for method in own if Role.VIEWER in METHODS[method]}
    verbs = {method.rpartition("/")[2] for method in viewers}
    assert all(verb.startswith(("Get", "List", "Watch", "RunDoctor", "CheckIdentity")) for verb in verbs), verbs
    unrecorded = {"ListRecords", "ListTokens", "AgreeKey", "ExchangeDescriptors"}
    assert own - viewers == AUDITED | {method for method in own if method.rpartition("/")[2] in unrecorded}


def test_peers_have_no_method_of_people() -> None:
    """What a node may call no person may, and the other way round."""
    for method, roles in METHODS.items():
        assert roles in ({Role.PEER}, {Role.JOINER}) or not roles & {Role.PEER, Role.JOINER}, method
