"""x0ctl identity and audit against a real control server: what goes to stdout, what to stderr, and the exit code."""

import json
from dataclasses import replace

import pytest

from fakes.control import Finished, Lab, run, running, x0ctl
from fakes.views_identity import HOUR_MS, UNIX_MS, FakeAuditView, FakeIdentityView
from x0d.errors import NotSupported, StorageFailed
from x0d.service.views_identity import IdentityCheck


def identity_of(lab: Lab) -> FakeIdentityView:
    view = lab.views.identity
    assert isinstance(view, FakeIdentityView)
    return view


def after(*arguments: str, **changes: object) -> Finished:
    """What a command says of an identity with these changes."""

    async def scene() -> Finished:
        async with running() as lab:
            view = identity_of(lab)
            view.current = replace(view.current, **changes)  # type: ignore[arg-type]
            return await x0ctl(lab, *arguments)

    return run(scene())


def lines(finished: Finished) -> list[str]:
    """Printed lines, their gaps as one blank."""
    assert (0, "") == (finished.code, finished.err)
    return [" ".join(line.split()) for line in finished.out.splitlines()]


def test_show() -> None:
    """Who this node is, its roots, its neighbours with group and key, its issuer, and who has which role."""
    shown = lines(after("identity", "show"))
    assert "identity spiffe://dev.x0d.test/node/n1" in shown
    assert "from this node, which issues the identities of its cluster" in shown
    assert "post-quantum required of every peer" in shown
    assert "updates 4 taken, 0 rejected; roots of generation 3" in shown
    assert f"root SHA-256 {'ab' * 32}" in shown
    assert "join port open; tokens not spent: 1" in shown
    peers = [line for line in shown if line.startswith(("n2 ", "n3 "))]
    assert peers[0].startswith(
        "n2 n1-n2.5c1e authenticated spiffe://dev.x0d.test/node/n2 X25519MLKEM768 yes 1 min 1 s "
    )
    assert "n3 n1-n3.77aa refused spiffe://dev.x0d.test/node/n3 - - - - expired: its SVID has expired" == peers[1]
    assert ["peer spiffe://dev.x0d.test/node/*", "viewer group x0d"] == shown[-2:]


def test_show_of_a_joined_node() -> None:
    """Where it renews, and from when on the issuer's absence hurts."""
    hurts = UNIX_MS + 24 * HOUR_MS
    shown = lines(
        after(
            "identity",
            "show",
            source="joined",
            issuer=None,
            renewal_endpoint="10.255.0.1:9471",
            outage_hurts_unix_ms=hurts,
        )
    )
    assert "renewed by 10.255.0.1:9471" in shown
    assert any(line.startswith("its absence hurts from 2023-11-15 ") for line in shown)
    assert not [line for line in shown if line.startswith(("root ", "join port"))]


def test_show_without_an_identity() -> None:
    """A node without an SVID says so and why."""
    missing = {"spiffe_id": "", "state": "missing", "reason": "no identity issued", "not_after_unix_ms": 0}
    shown = lines(after("identity", "show", **missing, workload_connected=False, bundles=(), peers=()))
    assert "identity none" in shown
    assert "state missing: no identity issued" in shown
    assert "workload api /run/x0d/workload.sock, NOT connected" in shown
    assert "no roots: nobody is trusted" in shown


def test_status_without_an_identity() -> None:
    """The status of such a node names the command that says why."""

    async def scene() -> str:
        async with running() as lab:
            lab.node.current = replace(lab.node.current, spiffe_id="", svid_not_after_unix_ms=0)
            return (await x0ctl(lab, "status")).out

    assert "none that is valid; x0ctl identity show says why" in run(scene())


def test_status_shows_the_identity() -> None:
    """The status has the SPIFFE ID and its end."""

    async def scene() -> str:
        async with running() as lab:
            return (await x0ctl(lab, "status")).out

    assert "spiffe://dev.x0d.test/node/n1 until 2023-11-15 " in run(scene())


def test_check_that_fails() -> None:
    """A failed check makes the command exit 1, and shows what to do; a warning does not."""
    failed = IdentityCheck("peer n2 on eth1", "failed", "no answer within 7 s", "is it reachable?")

    async def scene() -> tuple[Finished, Finished]:
        async with running() as lab:
            identity_of(lab).checks = [failed]
            first = await x0ctl(lab, "identity", "check")
            identity_of(lab).checks = [replace(failed, outcome="warning")]
            return first, await x0ctl(lab, "identity", "check")

    first, second = run(scene())
    assert (1, 0) == (first.code, second.code)
    assert "is it reachable?" in first.out


def test_token_alone_on_stdout() -> None:
    """The token is all of stdout, for scripts; whose it is, until when and the command for it are on stderr."""

    async def scene() -> tuple[Finished, list[tuple[str, str]]]:
        async with running() as lab:
            finished = await x0ctl(lab, "identity", "token", "--for", "n3", "--address", "192.0.2.7")
            return finished, identity_of(lab).asked

    finished, asked = run(scene())
    assert (0, "x0d1-token1\n") == (finished.code, finished.out)
    assert "spiffe://dev.x0d.test/node/n3" in finished.err
    assert "  x0d --join TOKEN --config FILE" in finished.err.splitlines()
    assert "x0d1-token1" not in finished.err
    assert [("n3", "192.0.2.7")] == asked


def test_token_as_json() -> None:
    """With -o json the whole message is on stdout and nothing on stderr."""

    async def scene() -> Finished:
        async with running() as lab:
            return await x0ctl(lab, "-o", "json", "identity", "token", "--for", "n3")

    finished = run(scene())
    assert (0, "") == (finished.code, finished.err)
    shown = json.loads(finished.out)
    assert ("x0d1-token1", str(UNIX_MS + 600_000)) == (shown["token"], shown["expires_at_unix_ms"])


def test_token_is_audited_without_its_secret() -> None:
    """The record of a token says for whom it is, and not the token."""

    async def scene() -> str:
        async with running() as lab:
            await x0ctl(lab, "identity", "token", "--for", "n3")
            return str(lab.auditor.records)

    recorded = run(scene())
    assert "spiffe://dev.x0d.test/node/n3 may join by 192.0.2.1" in recorded
    assert "x0d1-token1" not in recorded


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("token",), 2, "--for"),
        (("token", "--for", ""), 1, "spiffe_id is the ID or the name"),
        (("token", "--for", "n" * 2049), 1, "spiffe_id is the ID or the name"),
        (("token", "--for", "n3", "--address", "a" * 256), 1, "address is a host"),
        (("token", "--for", "n3", "--address", "a\nb"), 1, "address is a host"),
    ],
    ids=["nobody", "empty", "long", "long address", "control character"],
)
def test_token_for_nobody(arguments: tuple[str, ...], code: int, said: str) -> None:
    """What cannot be is refused before the issuer is asked."""

    async def scene() -> tuple[Finished, list[tuple[str, str]]]:
        async with running() as lab:
            return await x0ctl(lab, "identity", *arguments), identity_of(lab).asked

    finished, asked = run(scene())
    assert (code, "", []) == (finished.code, finished.out, asked)
    assert said in finished.err


def test_token_where_nothing_is_issued() -> None:
    """A node that issues nothing says which one does."""

    async def scene() -> Finished:
        async with running() as lab:
            identity_of(lab).fails = NotSupported("a join token", "ask the one with identity.issuer = true")
            return await x0ctl(lab, "identity", "token", "--for", "n3")

    finished = run(scene())
    assert (1, "") == (finished.code, finished.out)
    assert "identity.issuer = true" in finished.err


def test_tokens() -> None:
    """Each open token with its id, its node and its end; -o json has the same; nothing is left in the audit."""

    async def scene() -> tuple[Finished, Finished, list[object]]:
        async with running() as lab:
            table, whole = await x0ctl(lab, "identity", "tokens"), await x0ctl(lab, "-o", "json", "identity", "tokens")
            return table, whole, list(lab.auditor.records)

    table, whole, records = run(scene())
    rows = lines(table)
    assert "ID FOR EXPIRES" == rows[0]
    assert rows[1].startswith("0badcafe spiffe://dev.x0d.test/node/n4 2023-11-14 22:18:20")
    assert ["0badcafe", "5eed5eed"] == [row["id"] for row in json.loads(whole.out)["tokens"]]
    assert [] == records


def test_revoke() -> None:
    """What was revoked is shown, and is in the audit; what is not there exits 1 and says where to look."""

    async def scene() -> tuple[Finished, Finished, Finished, str]:
        async with running() as lab:
            first = await x0ctl(lab, "identity", "revoke", "5eed5eed")
            again = await x0ctl(lab, "identity", "revoke", "5eed5eed")
            recorded = str(lab.auditor.records)
            identity_of(lab).tokens = ()
            return first, again, await x0ctl(lab, "identity", "tokens"), recorded

    first, again, none, recorded = run(scene())
    assert "5eed5eed spiffe://dev.x0d.test/node/n5 " in lines(first)[1]
    assert (1, "") == (again.code, again.out)
    assert "no open token 5eed5eed" in again.err
    assert ["no token is open"] == lines(none)
    assert "revoked: 5eed5eed of spiffe://dev.x0d.test/node/n5" in recorded


@pytest.mark.parametrize(
    ("which", "code", "said"),
    [("x0d1-secret", 2, "by its ID in x0ctl identity tokens"), ("", 1, "which is"), ("n" * 2049, 1, "which is")],
    ids=["a whole token", "empty", "long"],
)
def test_revoke_of_nothing(which: str, code: int, said: str) -> None:
    """What names no token is refused; a whole token is not even sent, since the audit would keep it."""

    async def scene() -> tuple[Finished, str, int]:
        async with running() as lab:
            finished = await x0ctl(lab, "identity", "revoke", which)
            return finished, str(lab.auditor.records), len(identity_of(lab).tokens)

    finished, recorded, left = run(scene())
    assert (code, "", 2) == (finished.code, finished.out, left)
    assert said in finished.err
    assert "x0d1-secret" not in recorded


def test_audit() -> None:
    """The newest record first: who, from where, what, what came of it; --limit holds."""

    async def scene() -> tuple[Finished, Finished]:
        async with running() as lab:
            return await x0ctl(lab, "audit", "list"), await x0ctl(lab, "audit", "list", "--limit", "1")

    whole, one = run(scene())
    rows = lines(whole)[1:]
    assert " spiffe://dev.x0d.test/node/n1 [fd00::9]:40000 Dataplane.AddDeny failed 1.2 " in rows[0]
    assert ' uid 0 (root) here Dataplane.AddDeny done 1.2 {"prefixes": ["192.0.2.7"]} 1 entry -> 2 entries' in rows[1]
    assert rows[:1] == lines(one)[1:]


def test_audit_of_long_texts() -> None:
    """In the table each text has sixty characters at most; JSON has it whole."""
    what, earlier, later, why = ("w" * 2_048, "b" * 61, "a" * 60, "y" * 500)

    async def scene() -> tuple[Finished, Finished]:
        async with running() as lab:
            audit = lab.views.audit
            assert isinstance(audit, FakeAuditView)
            audit.records = [replace(audit.records[0], what=what, before=earlier, after=later, detail=why)]
            return await x0ctl(lab, "audit", "list"), await x0ctl(lab, "-o", "json", "audit", "list")

    table, whole = run(scene())
    assert lines(table)[1].endswith(f" {'w' * 57}... {'b' * 57}... -> {'a' * 60} {'y' * 57}...")
    [record] = json.loads(whole.out)["records"]
    assert (what, earlier, later, why) == (record["what"], record["before"], record["after"], record["detail"])


def test_audit_that_cannot_be_read() -> None:
    """A store that fails is told as such."""

    async def scene() -> Finished:
        async with running() as lab:
            audit = lab.views.audit
            assert isinstance(audit, FakeAuditView)
            audit.fails = StorageFailed("knowledge.db: disk full")
            return await x0ctl(lab, "audit", "list")

    finished = run(scene())
    assert (1, "") == (finished.code, finished.out)
    assert "disk full" in finished.err
