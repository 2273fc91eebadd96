"""What the connector's side of a handshake shows and asks for, seen by a server in memory."""

import time

import pytest
from OpenSSL import SSL, crypto

from fakes.authority import Issued
from fakes.tls_peer import OWN_ID, PEER_ID, FakeSource, bundles_of, new_ca, source_of, svid_of
from x0d.errors import IdentityRefused
from x0d.identity.spiffe_id import SpiffeId
from x0d.transport.connector_tls import Contexts, ExpectId

ROUNDS_MAX = 10


def server_of(issued: Issued) -> SSL.Connection:
    """Make a server in memory that takes any client and keeps what it shows."""
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.use_certificate(crypto.load_certificate(crypto.FILETYPE_PEM, issued.leaf_pem).to_cryptography())
    context.use_privatekey(issued.key)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *_: True)
    context.set_alpn_select_callback(lambda _, offered: b"h2" if offered == [b"h2"] else b"")
    context.set_session_id(b"x0d")
    connection = SSL.Connection(context, None)
    connection.set_accept_state()
    return connection


def shake_hands(contexts: Contexts, server: SSL.Connection) -> SSL.Connection:
    """Pass bytes both ways until both ends are done."""
    client = SSL.Connection(contexts.begin(), None)
    client.set_connect_state()
    ends, done = (client, server), set()
    for _ in range(ROUNDS_MAX):
        for end, other in (ends, ends[::-1]):
            try:
                end.do_handshake()
                done.add(end)
            except SSL.WantReadError:
                pass
            try:
                other.bio_write(end.bio_read(1 << 16))
            except SSL.WantReadError:
                continue
        if len(done) == 2:
            return client
    raise AssertionError("no handshake")


def contexts_of(source: FakeSource) -> Contexts:
    return Contexts(ExpectId(SpiffeId.parse(PEER_ID), source, require_pq=True), time.time)


def test_we_show_our_chain_and_nothing_of_what_we_trust() -> None:
    """Leaf and intermediates are sent, never the root out of our store; no server name, and a post-quantum group."""
    ca = new_ca()
    for issuer in (ca, new_ca(parent=ca)):
        own = issuer.issue(OWN_ID)
        server = server_of(ca.issue(PEER_ID))
        shake_hands(contexts_of(source_of(ca, own=own)), server)
        leaf, above = server.get_peer_certificate(), server.get_peer_cert_chain() or []
        assert leaf is not None
        shown = [crypto.dump_certificate(crypto.FILETYPE_ASN1, each) for each in (leaf, *above)]
        assert [own.leaf_der, *own.chain_ders] == shown
    assert (None, "X25519MLKEM768") == (server.get_servername(), server.get_group_name())
    assert "TLSv1.3" == server.get_protocol_version_name()


def test_sessions_are_not_resumed() -> None:
    """Two connections of one context shake hands in full: each proves the server's certificate anew."""
    ca = new_ca()
    contexts = contexts_of(source_of(ca))
    for _ in range(2):
        client = shake_hands(contexts, server_of(ca.issue(PEER_ID)))
        assert PEER_ID == str(contexts.judge(client).spiffe_id)
        assert contexts.begin().get_session_cache_mode() == SSL.SESS_CACHE_OFF


def test_newest_snapshot_counts() -> None:
    """A context lives as long as its snapshot; the verdict is by the bundles of the moment it is given."""
    ca, other = new_ca(), new_ca()
    source = source_of(ca)
    contexts = contexts_of(source)
    first = contexts.begin()
    assert contexts.begin() is first
    client = shake_hands(contexts, server_of(ca.issue(PEER_ID)))
    source.set(svid_of(ca.issue(OWN_ID)), bundles_of(other))
    assert contexts.begin() is not first
    with pytest.raises(IdentityRefused) as refused:
        contexts.judge(client)
    assert "untrusted" == refused.value.reason
