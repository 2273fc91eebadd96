"""The alert of refused XDP programs: what is refused, and what that means."""

import errno

import pytest

from x0d.ports import ProgramStatus
from x0d.service.alerts import Alerts
from x0d.service.refused_programs import judge_programs

LOADED = ProgramStatus("x0d_root_frags", "xdp", "root", "loaded", program_id=5)
OFF = ProgramStatus("x0d_deny", "xdp", "stage", "off", "the variant with multi-buffer frames serves")


def refused(name: str) -> ProgramStatus:
    """A stage that the verifier does not take."""
    return ProgramStatus(name, "xdp", "stage", "refused", "the verifier refuses it: R1", errno.EACCES)


@pytest.mark.parametrize(
    ("stage", "meaning"),
    [
        ("deny", "the deny-list is not enforced"),
        ("limit", "limits are not enforced"),
        ("probe", "probes are not answered: links stay down"),
    ],
)
def test_refused_stage_is_told_until_it_is_loaded(stage: str, meaning: str) -> None:
    """Each refused stage is named with what is not done because of it; once it is loaded, nothing is told."""
    alerts = Alerts()
    judge_programs(alerts, [LOADED, refused(f"x0d_{stage}_frags"), OFF])
    words = f"x0d_{stage}_frags is refused: EACCES: the verifier refuses it: R1: {meaning}"
    assert (f"programs_refused: {words}; x0ctl ebpf upgrade puts another object in force",) == alerts.texts()
    judge_programs(alerts, [LOADED, OFF])
    assert () == alerts.texts()


def test_programs_of_before_are_told_once() -> None:
    """However many programs of an earlier life go on, the reason is told once; no program at all is no refusal."""
    reason = "of an earlier life, because x0d_deny_frags is refused: EACCES"
    rows = [
        ProgramStatus(f"x0d_{part}", "xdp", "stage", "loaded", reason, is_former=True) for part in ("deny", "limit")
    ]
    alerts = Alerts()
    judge_programs(alerts, rows)
    assert (1, 1) == (len(alerts.texts()), alerts.texts()[0].count("the programs of before go on"))
    judge_programs(alerts, [])
    assert () == alerts.texts()
