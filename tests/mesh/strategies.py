"""Random mesh data for property tests."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from hypothesis import strategies as st

from x0d.mesh.codec import Ack, Hello, StatePart, Summary, Version
from x0d.mesh.model import Adjacency, AdjacencyState, LinkStateRecord

names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
numbers = st.integers(0, 2**62)
versions = st.builds(Version, names, numbers, numbers)
ipv4 = st.integers(0, 2**32 - 1).map(IPv4Address)
ipv6 = st.integers(0, 2**128 - 1).map(IPv6Address)
prefixes = st.one_of(
    st.builds(lambda n, length: IPv4Network((n, length), strict=False), st.integers(0, 2**32 - 1), st.integers(0, 32)),
    st.builds(
        lambda n, length: IPv6Network((n, length), strict=False), st.integers(0, 2**128 - 1), st.integers(0, 128)
    ),
)
adjacencies = st.one_of(ipv4, ipv6).flatmap(
    lambda local: st.builds(
        Adjacency,
        names,
        st.just(local),
        ipv4 if local.version == 4 else ipv6,
        st.integers(1, 65_535),
        st.sampled_from(AdjacencyState),
        st.integers(0, 2**31 - 1),
    )
)
records = st.builds(
    LinkStateRecord,
    st.just("origin--1"),
    numbers,
    numbers,
    st.booleans(),
    st.lists(prefixes, max_size=20, unique=True).map(tuple),
    st.lists(adjacencies, max_size=40, unique_by=lambda a: (a.neighbour, a.local_address, a.neighbour_address)).map(
        tuple
    ),
)
messages = st.one_of(
    st.builds(Hello, names, numbers, numbers, st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.booleans()),
    st.builds(
        StatePart,
        names,
        versions,
        st.integers(0, 2**32 - 1),
        st.just(0),
        st.just(1),
        st.binary(min_size=1, max_size=1024),
    ),
    st.builds(Ack, names, st.lists(versions, max_size=8).map(tuple)),
    st.builds(
        Summary,
        names,
        st.one_of(st.just(""), names),
        st.one_of(st.just(""), names),
        st.lists(versions, max_size=8).map(tuple),
    ),
)
