"""Calls through the front to the real server: roles, readiness, limits, errors, streams."""

import asyncio
import shutil
import sys
from collections import Counter
from typing import Any

import grpc
import pytest
from grpc import StatusCode, aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from fakes.control import STRANGER_GID, VIEWER_GID, Lab, as_other, outcome, run, running, until, x0ctl_as
from fakes.views import fake_views, incident, starting
from x0d.errors import ConfigInvalid, ConfigProblem, NotSupported, StorageFailed
from x0d.service import api_incident
from x0d.service.api import Servicers
from x0d.transport import gate
from x0d.v1 import incident_pb2, incident_pb2_grpc, mesh_pb2, mesh_pb2_grpc, node_pb2, node_pb2_grpc

needs_setpriv = pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv (util-linux)")


@pytest.mark.kernel
@needs_setpriv
@pytest.mark.parametrize(
    ("gid", "extra", "status_code", "reload_code"),
    [
        (None, (), 0, 0),
        (VIEWER_GID, (), 0, 4),
        (STRANGER_GID, (VIEWER_GID, 7), 0, 4),
        (STRANGER_GID, (), 4, 4),
    ],
    ids=["root", "viewer by primary group", "viewer by supplementary group", "stranger"],
)
def test_roles(gid: int | None, extra: tuple[int, ...], status_code: int, reload_code: int) -> None:
    """Root may change things, a member of the group may read, a stranger may do neither."""

    async def scene() -> None:
        async with running() as lab:
            seen = await x0ctl_as(lab, "status", gid=gid, extra_gids=extra)
            assert status_code == seen.code, seen
            changed = await x0ctl_as(lab, "reload", gid=gid, extra_gids=extra)
            assert reload_code == changed.code, changed
            assert (1 if reload_code == 0 else 0) == lab.node.reloads

    run(scene())


@pytest.mark.kernel
@needs_setpriv
def test_private_socket_is_closed_to_others() -> None:
    """Another uid cannot reach the private socket at all."""

    async def scene() -> int:
        async with running() as lab:
            code = f"import socket; socket.socket(socket.AF_UNIX).connect({str(lab.private / 'grpc.sock')!r})"
            process = await asyncio.create_subprocess_exec(
                *as_other(VIEWER_GID), sys.executable, "-c", code, stderr=asyncio.subprocess.PIPE
            )
            _, err = await process.communicate()
            assert b"PermissionError" in err
            return process.returncode or 0

    assert 1 == run(scene())


def test_direct_call_is_unauthenticated() -> None:
    """Even the daemon's own uid is refused when it does not come through the front."""

    async def scene() -> tuple[StatusCode, str]:
        async with running() as lab, aio.insecure_channel(f"unix:{lab.private}/grpc.sock") as channel:
            return await outcome(node_pb2_grpc.NodeServiceStub(channel).GetStatus(node_pb2.GetStatusRequest()))

    assert (StatusCode.UNAUTHENTICATED, "call through the control socket x0d.sock") == run(scene())


def test_unknown_method() -> None:
    """A method that does not exist is UNIMPLEMENTED to an admin."""

    async def scene() -> StatusCode:
        async with running() as lab, lab.channel() as channel:
            explode: Any = channel.unary_unary("/x0d.v1.NodeService/Explode")
            return (await outcome(explode(b"")))[0]

    assert StatusCode.UNIMPLEMENTED == run(scene())


def test_while_starting() -> None:
    """While the node starts, status and health answer and the rest is refused as retryable."""

    async def scene() -> None:
        async with running(ready=False) as lab, lab.channel() as channel:
            lab.node.current = starting("load the data plane")
            lab.server.set_starting("load the data plane")
            reply = await node_pb2_grpc.NodeServiceStub(channel).GetStatus(node_pb2.GetStatusRequest())
            assert "load the data plane" == reply.starting_step
            health: Any = health_pb2_grpc.HealthStub(channel)
            assert (
                health_pb2.HealthCheckResponse.NOT_SERVING
                == (await health.Check(health_pb2.HealthCheckRequest())).status
            )
            links = mesh_pb2_grpc.MeshServiceStub(channel).ListLinks
            refused = (StatusCode.UNAVAILABLE, "starting: load the data plane")
            assert refused == await outcome(links(mesh_pb2.ListLinksRequest()))
            lab.server.set_ready()
            assert StatusCode.OK == (await outcome(links(mesh_pb2.ListLinksRequest())))[0]
            assert (
                health_pb2.HealthCheckResponse.SERVING == (await health.Check(health_pb2.HealthCheckRequest())).status
            )

    run(scene())


def test_thousand_calls_while_starting() -> None:
    """1,000 concurrent calls of 20 clients while the node starts: all answered or refused, none hung."""

    async def scene() -> Counter[StatusCode]:
        async with running(ready=False) as lab:
            channels = [lab.channel() for _ in range(20)]
            calls = []
            for number in range(1000):
                channel = channels[number % 20]
                if number % 2:
                    calls.append(node_pb2_grpc.NodeServiceStub(channel).GetStatus(node_pb2.GetStatusRequest()))
                else:
                    calls.append(mesh_pb2_grpc.MeshServiceStub(channel).ListNodes(mesh_pb2.ListNodesRequest()))
            outcomes = await asyncio.gather(*map(outcome, calls))
            for channel in channels:
                await channel.close()
            return Counter(status for status, _ in outcomes)

    seen = run(scene())
    assert 1000 == seen.total()
    assert {StatusCode.OK, StatusCode.UNAVAILABLE, StatusCode.RESOURCE_EXHAUSTED} >= set(seen), seen
    assert seen[StatusCode.OK] > 0


def test_oversized_request() -> None:
    """A request larger than the limit is refused, and the connection goes on."""

    async def scene() -> tuple[StatusCode, StatusCode]:
        async with running() as lab, lab.channel() as channel:
            stub = incident_pb2_grpc.IncidentServiceStub(channel)
            large, _ = await outcome(stub.GetIncident(incident_pb2.GetIncidentRequest(id="x" * (2 << 20))))
            small, _ = await outcome(stub.GetIncident(incident_pb2.GetIncidentRequest(id="n1-n2.5c1e:3")))
            return large, small

    assert (StatusCode.RESOURCE_EXHAUSTED, StatusCode.OK) == run(scene())


def test_request_that_is_no_message() -> None:
    """Bytes that are no message are refused, and the server goes on."""

    async def scene() -> None:
        async with running() as lab, lab.channel() as channel:
            raw: Any = channel.unary_unary("/x0d.v1.IncidentService/GetIncident")
            status, _ = await outcome(raw(b"\xff\xff\xff"))
            assert status in (StatusCode.INTERNAL, StatusCode.UNKNOWN, StatusCode.INVALID_ARGUMENT)
            node = node_pb2_grpc.NodeServiceStub(channel)
            assert StatusCode.OK == (await outcome(node.GetStatus(node_pb2.GetStatusRequest())))[0]

    run(scene())


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (
            ConfigInvalid("x0d.toml", (ConfigProblem("mesh.up", "no"), ConfigProblem("log.level", "no"))),
            StatusCode.INVALID_ARGUMENT,
        ),
        (StorageFailed("disk full"), StatusCode.UNAVAILABLE),
        (NotSupported("reload", "later"), StatusCode.UNIMPLEMENTED),
        (ConfigInvalid("x0d.toml", (ConfigProblem("k", "\u00e9" * 20_000),)), StatusCode.INVALID_ARGUMENT),
    ],
    ids=["config", "storage", "not supported", "very long"],
)
def test_errors_become_statuses(error: Any, status: StatusCode) -> None:  # noqa: ANN401 - any X0dError
    """Each of x0d's errors has its status and keeps its words."""

    async def scene() -> tuple[StatusCode, str]:
        async with running() as lab, lab.channel() as channel:
            lab.node.fails = error
            return await outcome(node_pb2_grpc.NodeServiceStub(channel).Reload(node_pb2.ReloadRequest()))

    seen, details = run(scene())
    assert status == seen
    assert str(error)[:1000] == details[:1000]


def test_unary_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call without a deadline gets the server's; a reload under way is finished all the same."""
    monkeypatch.setattr(gate, "UNARY_S_DEFAULT", 0.05)

    async def scene() -> StatusCode:
        async with running() as lab, lab.channel() as channel:
            slow_disk = asyncio.Event()

            async def wait() -> None:
                await slow_disk.wait()

            lab.node.before = wait
            status, _ = await outcome(node_pb2_grpc.NodeServiceStub(channel).Reload(node_pb2.ReloadRequest()))
            assert 0 == lab.node.reloads
            slow_disk.set()
            await until(lambda: lab.node.reloads == 1)
            return status

    assert StatusCode.DEADLINE_EXCEEDED == run(scene())


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (incident_pb2.GetIncidentRequest(id=""), StatusCode.INVALID_ARGUMENT),
        (incident_pb2.GetIncidentRequest(id="n9-n8.0000:1"), StatusCode.NOT_FOUND),
        (incident_pb2.GetIncidentRequest(id="\x00" * 100_000), StatusCode.NOT_FOUND),
    ],
    ids=["empty", "unknown", "long"],
)
def test_unknown_incident(request_: incident_pb2.GetIncidentRequest, status: StatusCode) -> None:
    """An empty id is invalid, an unknown one is not found."""

    async def scene() -> StatusCode:
        async with running() as lab, lab.channel() as channel:
            return (await outcome(incident_pb2_grpc.IncidentServiceStub(channel).GetIncident(request_)))[0]

    assert status == run(scene())


def test_list_limits() -> None:
    """A limit above 1000 is refused; open_only leaves closed ones out."""

    async def scene() -> None:
        async with running() as lab, lab.channel() as channel:
            stub = incident_pb2_grpc.IncidentServiceStub(channel)
            refused, _ = await outcome(stub.ListIncidents(incident_pb2.ListIncidentsRequest(limit=1001)))
            assert StatusCode.INVALID_ARGUMENT == refused
            reply = await stub.ListIncidents(incident_pb2.ListIncidentsRequest(open_only=True))
            assert ["n1-n2.5c1e:4"] == [item.id for item in reply.incidents]

    run(scene())


def watch(channel: aio.Channel, *, include_open: bool = False) -> Any:  # noqa: ANN401 - a stream call
    """A watch of incidents."""
    request = incident_pb2.WatchIncidentsRequest(include_open=include_open)
    return incident_pb2_grpc.IncidentServiceStub(channel).WatchIncidents(request)


async def read_all(call: Any) -> None:  # noqa: ANN401 - a stream call
    """Read to the end."""
    while await call.read() is not aio.EOF:
        pass


def test_watch() -> None:
    """A watcher gets the open ones first, then each change, whole and in order."""

    async def scene() -> list[tuple[str, int]]:
        async with running() as lab, lab.channel() as channel:
            call = watch(channel, include_open=True)
            seen = [(await call.read()).incident]
            for generation in (5, 6):
                lab.incidents.publish(incident(generation))
                seen.append((await call.read()).incident)
            call.cancel()
            await until(lambda: not lab.incidents.subscribers)
            return [(item.id, item.packets_lost) for item in seen]

    assert [("n1-n2.5c1e:4", 42), ("n1-n2.5c1e:5", 42), ("n1-n2.5c1e:6", 42)] == run(scene())


def test_slow_watcher_is_ended() -> None:
    """A watcher that does not read is ended with RESOURCE_EXHAUSTED; another one misses nothing."""

    async def scene() -> tuple[StatusCode, int]:
        async with running() as lab, lab.channel() as slow_channel, lab.channel() as channel:
            slow, quick = watch(slow_channel), watch(channel)
            await asyncio.gather(slow.wait_for_connection(), quick.wait_for_connection())
            total = api_incident.WATCH_QUEUE_MAX * 3
            for generation in range(total):
                lab.incidents.publish(incident(generation, padding="x" * 10_000))
                await quick.read()
            with pytest.raises(aio.AioRpcError) as raised:
                await read_all(slow)
            quick.cancel()
            return raised.value.code(), total

    assert StatusCode.RESOURCE_EXHAUSTED == run(scene())[0]


def test_burst_within_one_tick() -> None:
    """A burst larger than the queue, in one tick of the loop, ends the watcher; it does not hang."""

    async def scene() -> StatusCode:
        async with running() as lab, lab.channel() as channel:
            call = watch(channel)
            await call.wait_for_connection()
            for generation in range(api_incident.WATCH_QUEUE_MAX + 1):
                lab.incidents.publish(incident(generation))
            with pytest.raises(aio.AioRpcError) as raised:
                await read_all(call)
            return raised.value.code()

    assert StatusCode.RESOURCE_EXHAUSTED == run(scene())


def test_stream_limit() -> None:
    """The 65th stream is refused; one that ends makes room."""

    async def scene() -> None:
        async with running() as lab, lab.channel() as channel:
            calls = [watch(channel) for _ in range(gate.STREAMS_MAX)]
            await asyncio.gather(*(call.wait_for_connection() for call in calls))
            refused = watch(channel)
            with pytest.raises(aio.AioRpcError) as raised:
                await refused.read()
            assert StatusCode.RESOURCE_EXHAUSTED == raised.value.code()
            calls[0].cancel()
            await until(lambda: len(lab.incidents.subscribers) == gate.STREAMS_MAX - 1)
            await watch(channel).wait_for_connection()

    run(scene())


def test_health_watch_and_stuck_watcher() -> None:
    """A health watcher sees each change, even beside one that never reads."""

    async def scene() -> list[int]:
        async with running(ready=False) as lab, lab.channel() as channel, lab.channel() as stuck_channel:
            stuck: Any = health_pb2_grpc.HealthStub(stuck_channel)
            quick: Any = health_pb2_grpc.HealthStub(channel)
            stuck.Watch(health_pb2.HealthCheckRequest())
            call = quick.Watch(health_pb2.HealthCheckRequest())
            seen = [(await call.read()).status]
            lab.server.set_ready()
            seen.append((await call.read()).status)
            call.cancel()
            return seen

    response = health_pb2.HealthCheckResponse
    assert [response.NOT_SERVING, response.SERVING] == run(scene())


def test_reflection() -> None:
    """Reflection lists the services."""

    async def scene() -> set[str]:
        async with running() as lab, lab.channel() as channel:
            stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[arg-type] # stubs know no aio
            call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
            reply = await call.read()
            return {service.name for service in reply.list_services_response.service}

    assert {*Servicers(fake_views()).names} | {
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    } == run(scene())


def test_stop_ends_watchers() -> None:
    """A stop ends watchers within its grace and tells them."""

    async def scene(lab_of: Any) -> grpc.StatusCode:  # noqa: ANN401 - a context manager
        async with lab_of as lab, lab.channel() as channel:
            assert isinstance(lab, Lab)
            call = watch(channel)
            await call.wait_for_connection()
            started = asyncio.get_running_loop().time()
            await lab.server.stop(0.1)
            assert asyncio.get_running_loop().time() - started < 1
            return StatusCode(await call.code())

    assert run(scene(running())) in (StatusCode.UNAVAILABLE, StatusCode.CANCELLED)
