"""The address that x0ctl puts into a join token: how it may be written, and a warning of one that leads nowhere."""

import pytest

from fakes.control import Finished, run, running, x0ctl
from fakes.views_identity import FakeIdentityView


def made(address: str) -> tuple[Finished, list[tuple[str, str]]]:
    """What the command says, and what the issuer was asked for."""

    async def scene() -> tuple[Finished, list[tuple[str, str]]]:
        async with running() as lab:
            view = lab.views.identity
            assert isinstance(view, FakeIdentityView)
            return await x0ctl(lab, "identity", "token", "--for", "n3", "--address", address), view.asked

    return run(scene())


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("192.0.2.1:99", "192.0.2.1"),
        ("[fe80::1]:9476", "fe80::1"),
        ("n1.example:9476", "n1.example"),
        ("n1:", "n1"),
    ],
)
def test_port(address: str, host: str) -> None:
    """An address with a port is a usage error that says how it is written; the issuer is not asked."""
    finished, asked = made(address)
    assert (2, "", []) == (finished.code, finished.out, asked)
    assert f"'{address}' has a port: write {host};" in finished.err


@pytest.mark.parametrize(
    ("address", "host"), [("fe80::1", "fe80::1"), ("[2001:db8::1]", "2001:db8::1"), ("n1", "n1"), ("::", "::")]
)
def test_host(address: str, host: str) -> None:
    """Names and addresses go to the issuer as they are, those in brackets without them."""
    finished, asked = made(address)
    assert (0, [("n3", host)]) == (finished.code, asked)
    assert "warning" not in finished.err


def test_mesh_address() -> None:
    """A token that names an address of the mesh is made, with a warning that the new node cannot get there."""
    finished, _ = made("10.255.0.2")
    assert (0, "x0d1-token1\n") == (finished.code, finished.out)
    assert "warning: 10.255.0.2 is the node.address of n2: a node that has not joined has no route" in finished.err
