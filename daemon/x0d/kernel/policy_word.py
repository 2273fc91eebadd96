"""The word of ``x0d_policy``, which deny-list and limits share: its only writer.

A packet reads the word once.  Whether the kernel's copy of 8 bytes is one store depends on the
processor, so no single write changes more than one field in a way that matters: before the index
flips, the bits of the old and of the new lists are set together, which costs a packet at most a
lookup in an empty list.
"""

from dataclasses import replace

from x0d.kernel import bpf
from x0d.kernel.layout_policy import POLICY, Policy, decode_policy, encode_policy

_KEY = bytes(4)


class PolicyWord:
    """The word, read once when it is made."""

    def __init__(self, map_fd: int) -> None:
        self._map_fd = map_fd
        value = bpf.lookup(map_fd, _KEY, POLICY.size)
        self._policy = decode_policy(value) if value else Policy()

    @property
    def policy(self) -> Policy:
        """What XDP reads."""
        return self._policy

    def flip_deny(self, index: int, kinds: int) -> None:
        """Put the lists of the other element in force."""
        self.set_deny_kinds(self._policy.deny_kinds | kinds)
        self._write(replace(self._policy, deny_index=index))
        self.set_deny_kinds(kinds)

    def set_deny_kinds(self, kinds: int) -> None:
        """Tell which of the lists in force are not empty."""
        self._write(replace(self._policy, deny_kinds=kinds))

    def set_limit_generation(self, generation: int) -> None:
        """Make XDP ask for every source's limit again; 0: there is none."""
        self._write(replace(self._policy, limit_generation=generation))

    def _write(self, policy: Policy) -> None:
        if policy != self._policy:
            bpf.update(self._map_fd, _KEY, encode_policy(policy))
            self._policy = policy
