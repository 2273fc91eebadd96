"""What a lab writes into its namespaces: sysctls, interfaces, addresses, and routes if it is asked for them."""

from collections.abc import Callable

from lab.machine import batch, write_sysctls
from lab.topology import Topology

# What x0d's installation sets on a router, and what a lab needs beside it.
SYSCTLS = {
    "ipv4/ip_forward": 1,
    "ipv4/conf/all/rp_filter": 0,
    "ipv4/conf/default/rp_filter": 0,
    "ipv4/conf/all/send_redirects": 0,
    "ipv4/conf/default/send_redirects": 0,
    "ipv4/conf/all/accept_redirects": 0,
    "ipv4/conf/default/accept_redirects": 0,
    "ipv4/fib_multipath_hash_policy": 1,
    "ipv4/nexthop_compat_mode": 0,
    "ipv6/conf/all/disable_ipv6": 0,
    "ipv6/conf/default/disable_ipv6": 0,
    "ipv6/conf/all/forwarding": 1,
    "ipv6/conf/all/accept_dad": 0,
    "ipv6/conf/default/accept_dad": 0,
}
SYSCTLS_WIRE = {"ipv6/conf/all/disable_ipv6": 1, "ipv6/conf/default/disable_ipv6": 1}


def make_links(topology: Topology, namespace: Callable[[str], str]) -> None:
    """Prepare the namespaces, which exist and are empty, and join them by unconnected wires.

    Args:
        topology: nodes and links.
        namespace: from a node, or ``wire``, to the name of its namespace.
    """
    links = topology.links
    wire = namespace("wire")
    write_sysctls(wire, SYSCTLS_WIRE)
    for node in topology.nodes:
        write_sysctls(namespace(node), SYSCTLS)
        batch(namespace(node), ["link set dev lo up", f"addr add {topology.address(node)}/32 dev lo"])
    batch(
        None,
        [
            f"link add {link.interface(node)} index {link.ifindex(node)} netns {namespace(node)} type veth"
            f" peer name {link.wire_interface(node)} index {link.wire_ifindex(node)} netns {wire}"
            for link in links
            for node in link.ends
        ],
    )
    batch(wire, [f"link set dev {link.wire_interface(node)} up" for link in links for node in link.ends])
    for node in topology.nodes:
        lines = []
        for link in topology.links_of(node):
            if link.link_local:
                lines.append(f"link set dev {link.interface(node)} addrgenmode none")
            lines.append(f"link set dev {link.interface(node)} up")
            lines.append(f"addr add {link.address_with_length(node)} dev {link.interface(node)}")
        batch(namespace(node), lines)


def add_static_routes(topology: Topology, namespace: Callable[[str], str]) -> None:
    """Install a cheapest path from each node to each stable address."""
    for node in topology.nodes:
        by_neighbour = {link.other(node): link for link in topology.links_of(node)}
        lines = []
        for target, hop in topology.next_hops(node).items():
            link = by_neighbour[hop]
            via = f"inet6 {link.address(hop)}" if link.link_local else link.address(hop)
            out = f"dev {link.interface(node)} src {topology.address(node)} proto static"
            lines.append(f"route add {topology.address(target)}/32 via {via} {out}")
        batch(namespace(node), lines)
