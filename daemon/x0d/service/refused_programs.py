"""The alert of XDP programs that the kernel refuses: what is refused, and what is not enforced because of it."""

from collections.abc import Sequence
from typing import Final

from x0d.errors import errno_name
from x0d.ports import ProgramStatus
from x0d.service.alerts import Alerts

PROGRAMS_ALERT: Final = "programs_refused"
CONSEQUENCES: Final = {
    "deny": "the deny-list is not enforced",
    "limit": "limits are not enforced",
    "probe": "probes are not answered: links stay down",
    "syn": "SYNs to x0d's own ports are not limited",
}
"""By stage."""
REMEDY: Final = "x0ctl ebpf upgrade puts another object in force"


def judge_programs(alerts: Alerts, programs: Sequence[ProgramStatus]) -> None:
    """Raise the alert while a stage is refused, be it that programs of an earlier life stand in; clear it else."""
    told = [_former(reason) for reason in dict.fromkeys(each.reason for each in programs if each.is_former)]
    told += [_refused(each) for each in programs if each.kind == "stage" and each.state == "refused"]
    if told:
        alerts.raise_alert(PROGRAMS_ALERT, "; ".join((*told, REMEDY)))
    else:
        alerts.clear(PROGRAMS_ALERT)


def _former(reason: str) -> str:
    return f"the programs of before go on: those in force are {reason}"


def _refused(program: ProgramStatus) -> str:
    stage = program.name.removeprefix("x0d_").removesuffix("_frags")
    return f"{program.name} is refused: {errno_name(program.errno)}: {program.reason}: {CONSEQUENCES[stage]}"
