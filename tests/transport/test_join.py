"""Joining, over real TLS: one token lets one node in, once; whatever else is tried is refused and spends nothing."""

import asyncio
import socket
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from grpc import aio

from fakes import raw_http2
from fakes.tls_peer import hostile
from transport.issuer_world import N2, OWN, TD, MovedClock, World, issuer_world, play, stranger, until
from x0d.errors import IdentityRefused, InvalidInput, PeerUnreachable, TokenRefused, X0dError
from x0d.identity.model import Reason, Usage
from x0d.identity.spiffe_id import TrustDomain, node_id
from x0d.ports.issuer import join_id
from x0d.service.issuer import TOKEN_TTL_S
from x0d.spiffe.authority import Authority
from x0d.spiffe.bundles import Bundles
from x0d.spiffe.certificate import to_pem
from x0d.spiffe.joined import KeyRequest, take
from x0d.transport import connector_dial, join_server
from x0d.transport.connector import Connector, ExpectPinnedRoot
from x0d.transport.join_front import source_of
from x0d.v1 import peer_pb2, peer_pb2_grpc


async def refusal(world: World, token: object, request: KeyRequest | None = None) -> X0dError:
    """The error with which a join ends."""
    with pytest.raises(X0dError) as refused:
        await world.join(token, request)  # type: ignore[arg-type]  # of the caller's making
    return refused.value


def test_a_token_lets_its_node_in(tmp_path: Path) -> None:
    """What a join brings is an identity of the token's ID and the joiner's key, whole and valid."""

    async def scenario() -> None:
        foreign = TrustDomain("other.test")
        other = Authority.open(tmp_path / "other", foreign, 8000, 1000, MovedClock().unix_s)
        async with issuer_world(tmp_path, federated={foreign: other.bundle()}) as world:
            token, request = await world.token(), KeyRequest.make()
            admission = await world.join(token, request)
            joined = take(N2, request.key, admission, world.clock.unix_s())
            assert (N2, "10.255.0.1:9471", OWN) == (joined.svid.spiffe_id, joined.renewal_endpoint, joined.issuer_id)
            assert {foreign: other.bundle()} == joined.federated
            bundles = Bundles.of({TD: joined.bundle_ders})
            verified = bundles.verify(joined.svid.leaf_pem, b"", Usage.CLIENT, world.clock.unix_s())
            assert (N2, world.authority.root_sha256) == (verified.spiffe_id, token.root_sha256)

    play(scenario)


def test_the_join_port_is_open_while_a_token_is(tmp_path: Path) -> None:
    """It opens with the first token, and closes by itself once the last is spent or has expired."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            assert (False, 0) == (world.listener.is_open, world.issuer.status().open_tokens)
            first, _ = await world.token("n2"), await world.token("n3")
            port = world.listener.bound_port
            assert (True, 2) == (world.issuer.status().join_open, world.issuer.status().open_tokens)
            await world.join(first)
            await until(lambda: world.issuer.status().open_tokens == 1)
            assert world.listener.is_open
            world.clock.advance(TOKEN_TTL_S + 1)
            await until(lambda: not world.listener.is_open)
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", port)

    play(scenario)


def test_a_token_is_spent_by_one_of_many(tmp_path: Path) -> None:
    """Of several nodes that show the same token at the same time exactly one is let in."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            token = await world.token()
            results = await asyncio.gather(*(world.join(token) for _ in range(4)), return_exceptions=True)
            refused = [str(result) for result in results if isinstance(result, TokenRefused)]
            assert (1, 3) == (sum(not isinstance(result, BaseException) for result in results), len(refused))
            assert all("is spent" in text for text in refused)

    play(scenario)


def test_what_is_refused_leaves_the_token_unspent(tmp_path: Path) -> None:
    """Another ID, a wrong secret and a request that is none are refused with a reason; the token still works."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            token = await world.token()
            assert f"is for {N2}" in str(await refusal(world, replace(token, spiffe_id=node_id(TD, "n3"))))
            assert "not known here" in str(await refusal(world, replace(token, secret=bytes(16))))
            request = replace(KeyRequest.make(), csr_der=b"garbage")
            assert "request is malformed" in str(await refusal(world, token, request))
            world.clock.advance(60)  # the budget of an address
            assert "holds 16" in str(await refusal(world, replace(token, secret=bytes(15))))
            await world.join(token)

    play(scenario)


@pytest.mark.parametrize(
    "text",
    [
        "spiffe://dev.x0d.test/operator/root",
        "spiffe://dev.x0d.test/issuer/join",
        "spiffe://dev.x0d.test/node/n1",
        "spiffe://dev.x0d.test/node/n2/x",
        "spiffe://dev.x0d.test/node",
        "spiffe://dev.x0d.test/node/N2",
        "spiffe://other.test/node/n2",
        "spiffe://dev.x0d.test/node/n2\n",
        "",
        "n2\0",
    ],
)
def test_no_token_is_made_for_others_than_nodes(tmp_path: Path, text: str) -> None:
    """Operators, the join port, the issuer itself, other trust domains and odd names are refused, and no port opens."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            with pytest.raises(InvalidInput):
                await world.issuer.create_token(text, "127.0.0.1")
            with pytest.raises(InvalidInput):
                await world.issuer.admit(bytes(16), text, KeyRequest.make().csr_der, "here")
            assert not world.listener.is_open

    play(scenario)


def test_an_expired_token_is_refused(tmp_path: Path) -> None:
    """A token is good for ten minutes, whatever holds the port open."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            token = await world.token()
            world.clock.advance(TOKEN_TTL_S - 5)
            await world.token("n3")
            world.clock.advance(6)
            assert "has expired" in str(await refusal(world, token))

    play(scenario)


def test_another_cluster_sees_nothing_of_the_token(tmp_path: Path) -> None:
    """Whoever answers without the pinned root, or with another ID below it, is refused before any byte of the call."""

    async def scenario() -> None:
        (tmp_path / "impostor").mkdir()
        async with issuer_world(tmp_path) as world, issuer_world(tmp_path / "impostor") as impostor:
            token = await world.token()
            await impostor.token()
            endpoint = f"127.0.0.1:{impostor.listener.bound_port}"
            refused = await refusal(world, replace(token, endpoint=endpoint))
            assert isinstance(refused, IdentityRefused)
            assert Reason.UNTRUSTED == refused.reason
            assert [] == impostor.auditor.records
            await world.join(token)

    play(scenario)


def test_a_node_of_the_cluster_cannot_play_the_issuer(tmp_path: Path) -> None:
    """A certificate below the right root for another ID than /issuer/join is not the join port's."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            token, request = await world.token(), KeyRequest.make()
            admission = await world.join(token, request)
            joined = take(N2, request.key, admission, world.clock.unix_s())
            chain = joined.svid.certificates_pem + to_pem(joined.bundle_ders[0])
            server = aio.server()
            port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(joined.svid.key_pem, chain)]))
            await server.start()
            later = await world.token("n3")
            refused = await refusal(world, replace(later, endpoint=f"127.0.0.1:{port}"))
            await server.stop(0)
            assert isinstance(refused, IdentityRefused)
            assert Reason.WRONG_ID == refused.reason

    play(scenario)


def test_nobody_answers(tmp_path: Path) -> None:
    """Without a listener the error says where nobody answered."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            token = await world.token()
            refused = await refusal(world, replace(token, endpoint="127.0.0.1:1"))
            assert isinstance(refused, PeerUnreachable)
            assert "127.0.0.1:1" in str(refused)

    play(scenario)


def test_guessing_is_slow(tmp_path: Path) -> None:
    """One address has a handful of attempts; further ones are refused before the store and the audit see them."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            token = await world.token()
            guesses = [replace(token, secret=number.to_bytes(16, "big")) for number in range(9)]
            told = [str(await refusal(world, guess)) for guess in guesses]
            assert (5, 4) == (
                sum("not known here" in text for text in told),
                sum("too many attempts" in text for text in told),
            )
            assert join_server.SOURCE_BURST == len(world.auditor.records)
            world.clock.advance(5.1)
            await world.join(token)

    play(scenario)


@pytest.mark.parametrize(
    ("host", "source"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:0:1:2:3:4:5", "2001:db8:0:1::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
    ],
)
def test_an_ipv6_network_shares_a_budget(host: str, source: str) -> None:
    """Budgets go by IPv4 address and by IPv6 network, or one host would have 2**64 of them."""
    assert source == source_of(host)


def test_every_attempt_is_in_the_audit_without_its_secret(tmp_path: Path) -> None:
    """Who, for whom and how it ended; a failed attempt's secret may be somebody's unspent one."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            token = await world.token()
            await refusal(world, replace(token, spiffe_id=node_id(TD, "n3")))
            await world.join(token)
            outcomes = [(record.method, record.outcome) for record in world.auditor.records]
            assert [("/x0d.v1.JoinService/Join", "failed"), ("/x0d.v1.JoinService/Join", "done")] == outcomes
            assert all("(secret)" in record.what for record in world.auditor.records)
            assert all(record.who == f"joiner at {record.address}" for record in world.auditor.records)
            assert all(record.address.startswith("127.0.0.1:") for record in world.auditor.records)
            world.auditor.is_full = True
            later = await world.token("n3")
            assert "disk full" in str(await refusal(world, later))
            world.auditor.is_full = False
            await world.join(later)

    play(scenario)


def test_other_methods_are_refused_on_the_join_port(tmp_path: Path) -> None:
    """Only Join answers there: the port has no health, no reflection and nothing of the control API."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            token = await world.token()
            connector = Connector(
                host="127.0.0.1",
                port=token.port,
                interface="",
                expect=ExpectPinnedRoot(token.root_sha256, join_id(TD)),
                directory=world.runtime_dir,
                unix_s=world.clock.unix_s,
            )
            await connector.start()
            async with aio.insecure_channel(connector.target, options=connector.channel_options) as channel:
                for method in ("/x0d.v1.IssuerService/RenewSvid", "/grpc.health.v1.Health/Check", "/no.Such/Method"):
                    world.clock.advance(60)
                    with pytest.raises(aio.AioRpcError) as refused:
                        await channel.unary_unary(method)(b"")  # type: ignore[arg-type]  # bytes as they are
                    assert grpc.StatusCode.PERMISSION_DENIED == refused.value.code()
            await connector.stop()

    play(scenario)


def test_plaintext_gets_nowhere(tmp_path: Path) -> None:
    """A client without TLS makes no call."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            token = await world.token()
            request = peer_pb2.JoinRequest(secret=token.secret, spiffe_id=str(N2), csr=KeyRequest.make().csr_der)
            async with aio.insecure_channel(token.endpoint) as channel:
                with pytest.raises(aio.AioRpcError):
                    await peer_pb2_grpc.JoinServiceStub(channel).Join(request, timeout=2)
            assert [] == world.auditor.records

    play(scenario)


def test_a_call_in_bytes_reaches_the_servicer(tmp_path: Path) -> None:
    """A caller that is no gRPC gets as far as the audit, so that the attacks of the same making mean something."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            token = await world.token()

            def call() -> None:
                with raw_http2.tls(token.port, stranger()) as connection:
                    raw_http2.ask(connection, "/x0d.v1.JoinService/Join")

            calling = asyncio.get_running_loop().create_task(asyncio.to_thread(call))
            await until(lambda: calling.done() or bool(world.auditor.records))
            await world.listener.close(0)
            await calling
            assert 1 == len(world.auditor.records)

    play(scenario)


# ---- restarts ----


def test_an_open_token_survives_a_restart(tmp_path: Path) -> None:
    """The next life opens the port again, under the root that the token names, and knows what is spent."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            spent, token = await world.token("n3"), await world.token()
            await world.join(spent)
        async with issuer_world(tmp_path) as world:
            await until(lambda: world.listener.is_open)
            endpoint = f"127.0.0.1:{world.listener.bound_port}"
            assert 1 == world.issuer.status().open_tokens
            assert "is spent" in str(await refusal(world, replace(spent, endpoint=endpoint)))
            await world.join(replace(token, endpoint=endpoint))

    play(scenario)


def test_an_open_token_survives_a_restart_after_a_rotation(tmp_path: Path) -> None:
    """The next life shows the root that its open tokens name, not the one that signs meanwhile."""

    async def scenario() -> None:
        async with issuer_world(tmp_path, root_ttl_s=1000, svid_ttl_s=100) as world:
            token, now = await world.token(), world.clock.unix_s()
            assert world.authority.rotate(now + 501)
            assert world.authority.rotate(now + 602)
            assert token.root_sha256 != world.authority.root_sha256
        async with issuer_world(tmp_path, root_ttl_s=1000, svid_ttl_s=100) as world:
            await until(lambda: world.listener.is_open)
            await world.join(replace(token, endpoint=f"127.0.0.1:{world.listener.bound_port}"))

    play(scenario)


def test_a_rotation_of_the_root_leaves_open_tokens_good(tmp_path: Path) -> None:
    """The port shows the root that its tokens name until it closes, and the next token names the new one."""

    async def scenario() -> None:
        async with issuer_world(tmp_path, root_ttl_s=8000, svid_ttl_s=1000) as world:
            world.clock.advance(4000 - 10)
            await until(lambda: len(world.authority.bundle()) == 1)
            token = await world.token()
            old = world.authority.root_sha256
            now = world.clock.unix_s()
            assert world.authority.rotate(now + 20)
            assert world.authority.rotate(now + 1100)
            assert old != world.authority.root_sha256
            later = await world.token("n3")
            assert (old, old) == (token.root_sha256, later.root_sha256)
            await world.join(token)
            await world.join(later)
            await until(lambda: not world.listener.is_open)
            assert world.authority.root_sha256 == (await world.token("n4")).root_sha256

    play(scenario)


@pytest.mark.parametrize("speaks", [True, False], ids=["plaintext", "silent"])
def test_who_proves_nothing_was_not_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speaks: bool) -> None:
    """What answers without TLS, or not at all, is nobody: the join may be tried again, and it is said what was met."""
    monkeypatch.setattr(connector_dial, "DEADLINE_S", 0.3)

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            token = await world.token()
            with hostile(None) as plain, socket.create_server(("127.0.0.1", 0)) as quiet:
                port = plain.port if speaks else quiet.getsockname()[1]
                refused = await refusal(world, replace(token, endpoint=f"127.0.0.1:{port}"))
            assert isinstance(refused, PeerUnreachable)
            assert "no TLS handshake" in str(refused)

    play(scenario)


def test_a_port_whose_root_is_dropped_closes(tmp_path: Path) -> None:
    """Tokens of a root that is gone go with it, and the next one opens the port under the root of then."""

    async def scenario() -> None:
        async with issuer_world(tmp_path, root_ttl_s=1000, svid_ttl_s=100) as world:
            token, now = await world.token(), world.clock.unix_s()
            for at_s in (501, 602, 823):
                assert world.authority.rotate(now + at_s)
            await until(lambda: not world.listener.is_open)
            later = await world.token("n3")
            assert world.authority.root_sha256 == world.listener.root_sha256 == later.root_sha256
            assert isinstance(await refusal(world, replace(token, endpoint=later.endpoint)), IdentityRefused)
            await world.join(later)
            assert 0 == world.issuer.status().open_tokens

    play(scenario)


def test_a_set_clock_rotates_nothing(tmp_path: Path) -> None:
    """A wall clock that jumps a year ahead and back leaves roots and open tokens as they were."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            token, roots = await world.token(), world.authority.bundle()
            world.clock.set_wall(300 * 86_400)
            await until(lambda: not world.listener.is_open)
            world.clock.set_wall(-300 * 86_400)
            await until(lambda: world.listener.is_open)
            assert roots == world.authority.bundle()
            await world.join(replace(token, endpoint=f"127.0.0.1:{world.listener.bound_port}"))
            seen_at = world.issuer._set_at_ns
            world.clock.set_wall(300 * 86_400)
            await until(lambda: world.issuer._set_at_ns != seen_at)
            world.clock.advance(601)
            await until(lambda: len(world.authority.bundle()) == 2)

    play(scenario)


def test_a_token_made_under_a_wrong_clock_costs_no_other(tmp_path: Path) -> None:
    """Making a token while the wall clock is far ahead forgets none that is good once the clock is right again."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            token = await world.token()
            world.clock.set_wall(300 * 86_400)
            await world.token("n3")
            world.clock.set_wall(-300 * 86_400)
            await until(lambda: world.listener.is_open)
            await world.join(replace(token, endpoint=f"127.0.0.1:{world.listener.bound_port}"))

    play(scenario)


def test_a_connection_that_says_nothing_is_closed(tmp_path: Path) -> None:
    """Whoever connects and does not shake hands is cut at the handshake's timeout."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            token = await world.token()
            reader, writer = await asyncio.open_connection("127.0.0.1", token.port)
            async with asyncio.timeout(10):
                assert b"" == await reader.read()
            writer.close()
            await world.join(token)

    play(scenario)
