"""The part of the story that shows who is who: every node's SPIFFE ID, and how its neighbours have proved theirs.

All of it is read with x0ctl; the last calls go from the issuer to another router over the mesh, by mutual TLS.
"""

import json
import os
import subprocess
import sys
from typing import Final

from lab import control, identities
from lab.machine import inside, wait_until
from lab.network import Lab
from lab.nodes import ROOT, TRUST_DOMAIN
from lab.teller import Teller
from lab.timeline import Json

AGREED_S: Final = 10.0
REFUSED: Final = 4  # exit status of x0ctl for somebody else than was asked for


class Trust:
    """The mesh's identities."""

    def __init__(self, lab: Lab, teller: Teller, slowness: float) -> None:
        self._lab = lab
        self._teller = teller
        self._slowness = slowness

    def tell(self, target: str) -> list[str]:
        """Tell it and return what did not hold; ``target`` is the router that is asked from afar."""
        self._teller.heading("Every router has a SPIFFE ID and knows its neighbours by theirs")
        failed = []
        for node in self._lab.topology.nodes:
            if not wait_until(lambda node=node: self._all_proved(node), AGREED_S * self._slowness):  # type: ignore[misc] # called at once
                failed.append(f"every neighbour of {node} to have proved who it is; {self._show(node)}")
                continue
            shown = self._identity(node)
            groups = sorted({str(peer["group"]) for peer in shown["peers"]})
            names = " ".join(str(peer["node"]) for peer in shown["peers"])
            text = f"{shown['spiffe_id']}  TLS group {' '.join(groups)} with {names}; their datagrams have keys"
            self._teller.held(text)
            if not all(peer["post_quantum"] for peer in shown["peers"]):
                failed.append(f"a post-quantum key exchange with every neighbour of {node}; seen: {groups}")
        return failed + self._ask_from_afar(target)

    def _all_proved(self, node: str) -> bool:
        peers = self._identity(node).get("peers", [])
        return bool(peers) and all(peer["state"] == "authenticated" for peer in peers)

    def _show(self, node: str) -> str:
        return f"seen: {[(peer['node'], peer['state'], peer['reason']) for peer in self._identity(node)['peers']]}"

    def _identity(self, node: str) -> Json:
        done = control.x0ctl(self._lab, node, "-o", "json", "identity", "show")
        shown: Json = json.loads(done.stdout or "{}")
        return shown

    def _ask_from_afar(self, target: str) -> list[str]:
        """Call a router over the mesh, from the issuer, under its name and under another's."""
        issuer = identities.issuer_of(self._lab.topology.nodes)
        spiffe_id = f"spiffe://{TRUST_DOMAIN}/node/{target}"
        endpoint = f"dns:///{self._lab.topology.address(target)}:9470"
        right = self._call(issuer, endpoint, spiffe_id)
        if right.returncode or json.loads(right.stdout)["node"] != target:
            return [f"{target} to answer {issuer} by mutual TLS; {right.stderr.strip()}"]
        self._teller.held(f"{issuer}: x0ctl --endpoint {endpoint} --server-id {spiffe_id} status: {target} answers")
        other = f"spiffe://{TRUST_DOMAIN}/node/{issuer}"
        wrong = self._call(issuer, endpoint, other)
        if wrong.returncode != REFUSED:
            return [f"x0ctl to refuse {target} where {other} was asked for; exit {wrong.returncode}: {wrong.stderr}"]
        self._teller.held(f"with --server-id {other} nothing is sent: somebody else answers there")
        return []

    def _call(self, node: str, endpoint: str, server_id: str) -> "subprocess.CompletedProcess[str]":
        socket = self._lab.daemons[node].directory / "run" / "workload.sock"
        options = ["--workload-socket", str(socket), "--endpoint", endpoint, "--server-id", server_id]
        command = [sys.executable, "-m", "x0ctl", *options, "-o", "json", "status"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "daemon")}
        return subprocess.run(
            inside(self._lab.namespace(node), command),
            check=False, capture_output=True, text=True, env=environment, timeout=control.X0CTL_S,
        )  # fmt: skip
