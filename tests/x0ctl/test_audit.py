"""The audit as a table: places and texts of several lines as people read them."""

import json
from dataclasses import replace

from fakes.control import Finished, run, running, x0ctl
from fakes.views_identity import FakeAuditView


def test_one_line_a_text_and_readable_places() -> None:
    """Texts of several lines stand in one, and gRPC's places are spelt out in both columns; JSON has what was kept."""
    raw = "ipv6:%5Bfe80::2%252%5D:35832"

    async def scene() -> tuple[Finished, Finished]:
        async with running() as lab:
            audit = lab.views.audit
            assert isinstance(audit, FakeAuditView)
            told = replace(audit.records[0], who=f"joiner at {raw}", address=raw, detail="why\nnot")
            audit.records = [replace(told, before="one\n  two\n", after="three\r\n\nfour")]
            return await x0ctl(lab, "audit", "list"), await x0ctl(lab, "-o", "json", "audit", "list")

    table, whole = run(scene())
    row = " ".join(table.out.splitlines()[1].split())
    assert " joiner at [fe80::2%2]:35832 [fe80::2%2]:35832 " in row
    assert row.endswith(" one, two -> three, four why, not")
    assert "one\n  two\n" == json.loads(whole.out)["records"][0]["before"]
