"""Brings the kernel's lists to what is held, touching only what differs."""

from collections.abc import Mapping

from x0d.policy.model import Limit, PackedPrefix, PrefixKey, Terms
from x0d.ports import LimitRate, PolicyPlane
from x0d.service.policy_held import Held, aside
from x0d.service.policy_limits import limit_rates


async def enforce_deny(plane: PolicyPlane, held: Held[Terms], in_kernel: Mapping[PrefixKey, int]) -> int:
    """Put the deny-list in force; answers how many entries differed.

    Where entries both come and go, the whole list is replaced at once: no packet sees half of each.
    Raises as ``PolicyPlane.replace_deny``.
    """
    wanted, changed, surplus = await aside(len(held.entries) + len(in_kernel), _differences, held, in_kernel)
    if changed and surplus:
        await plane.replace_deny(wanted)
    elif changed:
        await plane.put_deny(changed)
    elif surplus:
        await plane.delete_deny(surplus)
    return len(changed) + len(surplus)


async def enforce_limits(plane: PolicyPlane, held: Held[Limit], in_kernel: Mapping[PackedPrefix, LimitRate]) -> int:
    """Put the limits in force; answers how many differed.  Raises as ``PolicyPlane.replace_limits``."""
    wanted = limit_rates(held)
    differing = sum(in_kernel.get(prefix) != wanted.get(prefix) for prefix in in_kernel.keys() | wanted.keys())
    if differing:
        await plane.replace_limits(wanted)
    return differing


def _differences(
    held: Held[Terms], in_kernel: Mapping[PrefixKey, int]
) -> tuple[dict[PrefixKey, int], dict[PrefixKey, int], list[PrefixKey]]:
    wanted = held.instants()
    changed = {prefix: due_ns for prefix, due_ns in wanted.items() if in_kernel.get(prefix, -1) != due_ns}
    surplus = [prefix for prefix in in_kernel if prefix not in wanted]
    return wanted, changed, surplus
