"""From recorded incidents to one timeline."""

from lab.timeline import Event, events_of, find_incident, render, step_end_ms

STEPS = [
    {"step": "detect", "since_fault_ms": 150.0, "detail": "3 probes unanswered"},
    {"step": "decide", "since_fault_ms": 151.0, "detail": ""},
    {"step": "act", "since_fault_ms": 152.5, "detail": "moved 10.255.0.3/32"},
]
END = {"id": "n2-n3.c1f5:1", "link": "n2-n3.c1f5", "role": "end", "opened_at_unix_ms": "1120", "steps": STEPS}
TOLD = {
    "id": "n2-n3.c1f5:1",
    "link": "n2-n3.c1f5",
    "role": "end",
    "opened_at_unix_ms": "1121",
    "evidence": [
        {"at_unix_ms": "1121", "kind": "peer_reported", "detail": "n2 reports the link down"},
        {"at_unix_ms": "1127", "kind": "probes_unanswered", "detail": "3 probes unanswered"},
    ],
    "steps": [
        {"step": "detect", "since_fault_ms": 156.5, "detail": "3 probes unanswered"},
        {"step": "decide", "since_fault_ms": 150.0, "detail": ""},
        {"step": "act", "since_fault_ms": 153.0, "detail": "moved 10.255.0.1/32"},
        {"step": "verify", "since_fault_ms": 160.0, "detail": ""},
    ],
}
OBSERVER = {**END, "role": "observer", "opened_at_unix_ms": "1125", "steps": [{"step": "act", "since_fault_ms": 2.0}]}


def test_an_end_counts_from_its_last_sign_of_life() -> None:
    """The end of detection is placed at the opening of the incident, and the other steps around it."""
    expected = [
        Event(120.0, "n2", 0, "detected: 3 probes unanswered"),
        Event(121.0, "n2", 2, "routes computed"),
        Event(122.5, "n2", 3, "routes changed: moved 10.255.0.3/32"),
    ]
    assert expected == events_of("n2", END, 1000.0)


def test_an_observer_counts_from_the_report() -> None:
    """A node that is no end of the link is told by flooding when it opens its record."""
    expected = [Event(125.0, "n1", 1, "told by another node's flooding"), Event(127.0, "n1", 2, "routes changed")]
    assert expected == events_of("n1", OBSERVER, 1000.0)


def test_an_end_that_is_told_first() -> None:
    """An end that its peer tells starts with the telling; its own detection stands where it was, not before."""
    expected = [
        Event(121.0, "n3", 1, "told by n2's flooding"),
        Event(121.0, "n3", 2, "routes computed"),  # 120.5 by the whole milliseconds of its evidence
        Event(123.5, "n3", 3, "routes changed: moved 10.255.0.1/32"),
        Event(127.0, "n3", 6, "detected: 3 probes unanswered"),
        Event(130.5, "n3", 4, "verified"),
    ]
    assert expected == events_of("n3", TOLD, 1000.0)
    detail = TOLD["evidence"][0]["detail"]  # type: ignore[index]
    steps = [{"step": "detect", "since_fault_ms": 150.0, "detail": detail}, *TOLD["steps"][1:]]
    told_alone = events_of("n3", {**TOLD, "steps": steps}, 1000.0)
    words = ["told by n2's flooding", "routes computed", "routes changed: moved 10.255.0.1/32", "verified"]
    assert words == [event.what for event in told_alone]


def test_causes_before_effects_in_one_millisecond() -> None:
    """Of what has one time, the detection comes first, then the telling, then the routes, whatever the names."""
    told = {**TOLD, "opened_at_unix_ms": "1120"}
    told["evidence"] = [{"at_unix_ms": "1120", "kind": "peer_reported", "detail": "n9 reports the link down"}]
    lines = render(events_of("n1", told, 1000.0) + events_of("n9", END, 1000.0))
    assert [["n9", "detected:"], ["n1", "told"]] == [line.split()[2:4] for line in lines[:2]]


def test_find_the_incident() -> None:
    """The newest incident of the two nodes counts, unless it is older than the fault."""
    listed = {"incidents": [{**END, "link": "n1-n2.aaaa"}, END, {**END, "id": "older"}]}
    assert END == find_incident(listed, ("n3", "n2"), 1119.5)
    assert find_incident(listed, ("n3", "n2"), 1121.0) is None
    assert find_incident({}, ("n3", "n2"), 0.0) is None


def test_ends_of_steps() -> None:
    """Detection counts at the first node, the rest at the last."""
    events = events_of("n2", END, 1000.0) + events_of("n1", OBSERVER, 1000.0)
    assert (120.0, 127.0, None) == tuple(step_end_ms(events, step) for step in ("detect", "act", "verify"))


def test_lines_in_the_order_of_time() -> None:
    """Events are printed in the order of time, whatever node they come from."""
    lines = render([Event(2.0, "n1", 0, "later"), Event(0.0, "wire", 0, "cut")])
    assert ["    +0.0 ms  wire  cut", "    +2.0 ms  n1    later"] == lines
