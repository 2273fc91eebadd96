"""How the nodes of a lab come by their identities: the first one issues, the others join it with a token each.

A joiner needs a way to the issuer before it has any route.  On real hosts that is a cable or a network for management;
here ``x0d --join`` runs in the issuer's namespace, since what it writes are files.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import grpc

from lab import control
from lab.machine import LabError, Process, inside
from lab.network import Lab
from lab.nodes import ROOT
from x0d.v1 import identity_pb2, identity_pb2_grpc

JOIN_S = 60.0
JOINS_AT_A_TIME = 4
Started = Callable[[Process], None]


def issuer_of(nodes: Sequence[str]) -> str:
    """The node that issues."""
    return nodes[0]


def is_joined(lab: Lab, node: str) -> bool:
    """Whether a node has its identity from an earlier life."""
    return (lab.daemons[node].directory / "state" / "identity").exists()


def token_for(socket: str, node: str, address: str) -> str:
    """Have the issuer, asked on its control socket, make a token for a node."""
    with grpc.insecure_channel(f"unix://{socket}") as channel:
        stub = identity_pb2_grpc.IdentityServiceStub(channel)
        request = identity_pb2.CreateTokenRequest(spiffe_id=node, address=address)
        return str(stub.CreateToken(request, timeout=control.CALL_S).token)


def join(lab: Lab, node: str) -> None:
    """Let a node join.

    Raises:
        LabError: it could not; with what x0d said.
    """
    issuer = issuer_of(lab.topology.nodes)
    token = token_for(str(lab.daemons[issuer].socket), node, "127.0.0.1")
    command = [sys.executable, "-m", "x0d", "--join", token, "--config", str(lab.daemons[node].config)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "daemon")}
    done = subprocess.run(
        inside(lab.namespace(issuer), command),
        check=False, capture_output=True, text=True, env=environment, timeout=JOIN_S,
    )  # fmt: skip
    if done.returncode:
        raise LabError(f"{node} could not join: {done.stderr.strip()}")


def start_all(lab: Lab, started: Started = lambda _: None) -> None:
    """Start every daemon: the issuer, then the others, which join it first where they have not.

    Raises:
        LabError: one does not answer, or could not join.
    """
    issuer, *others = lab.topology.nodes
    started(lab.start(issuer))
    newcomers = [node for node in others if not is_joined(lab, node)]
    if newcomers:
        control.wait_answers(lab, issuer)
        with ThreadPoolExecutor(JOINS_AT_A_TIME) as pool:
            list(pool.map(lambda node: join(lab, node), newcomers))
    for node in others:
        started(lab.start(node))
