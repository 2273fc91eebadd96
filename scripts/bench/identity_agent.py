"""A child that gives identities: a Workload API for the server and one for the client, from one authority.

Certificates for the peer, native gRPC, are files beside the sockets: ``root.pem``, ``server.pem``, ``client.pem`` and
their keys.  They are the same as those that the Workload APIs give first; the server's has a DNS name as well, which
is all that gRPC's own client can ask for.  Argument: the directory.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.identity_children import Order, obey, run_child
from fakes.agent import FakeAgent, update_of
from fakes.authority import CA, HOUR_S

DOMAIN = "bench.x0d.test"
SERVER_ID = f"spiffe://{DOMAIN}/node/n1"
CLIENT_ID = f"spiffe://{DOMAIN}/operator/root"
SERVER_NAME = "server.bench.x0d.test"
SOCKETS = {"server": "server.sock", "client": "client.sock"}


class Issuing:
    """Both ends' identities."""

    def __init__(self, directory: Path) -> None:
        """Make the first root; nobody is served yet."""
        self._directory = directory
        self._agents = {end: FakeAgent(directory / name) for end, name in SOCKETS.items()}
        self._roots = [CA(DOMAIN, start_unix_s=time.time())]
        self._signer = self._roots[0]
        self.issued = 0

    async def start(self) -> None:
        """Serve both Workload APIs."""
        for agent in self._agents.values():
            await agent.start()

    async def stop(self) -> None:
        """Serve nobody any more."""
        for agent in self._agents.values():
            await agent.stop()

    async def answer(self, order: Order) -> Order:
        """``issue``, ``publish``, ``activate`` or ``drop``."""
        match order["do"]:
            case "issue":
                self._issue(float(order.get("life_s", HOUR_S)))
            case "publish":
                self._roots.append(CA(DOMAIN, start_unix_s=time.time()))
                self._issue(HOUR_S)
            case "activate":
                self._signer = self._roots[-1]
                self._issue(HOUR_S)
            case "drop":
                del self._roots[0]
                self._issue(HOUR_S)
        return {"issued": self.issued}

    def _issue(self, life_s: float) -> None:
        """Give both ends a new leaf, valid from a second ago, and the bundle of now."""
        offset_s = time.time() - self._signer.start_unix_s
        for end, spiffe_id in (("server", SERVER_ID), ("client", CLIENT_ID)):
            names = [SERVER_NAME] if end == "server" else []
            issued = self._signer.issue(spiffe_id, dns=names, not_before_s=offset_s - 1, ttl_s=offset_s + life_s)
            update = update_of(issued, self._signer, spiffe_id=spiffe_id)
            bundle = b"".join(root.der for root in self._roots)
            self._agents[end].push(replace(update, svids=tuple(replace(one, bundle=bundle) for one in update.svids)))
            if not self.issued:
                (self._directory / f"{end}.pem").write_bytes(issued.certificates_pem)
                (self._directory / f"{end}.key").write_bytes(issued.key_pem)
        if not self.issued:
            (self._directory / "root.pem").write_bytes(self._signer.pem)
        self.issued += 1


async def main(argv: Sequence[str]) -> None:
    """Serve until the input ends."""
    issuing = Issuing(Path(argv[0]))
    await issuing.start()
    await obey(issuing.answer)
    await issuing.stop()


if __name__ == "__main__":
    run_child(main(sys.argv[1:]))
