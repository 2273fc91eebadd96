"""What x0d tells systemd: the words of sd_notify(3), and how often the watchdog wants to hear from us.

systemd passes a datagram socket in NOTIFY_SOCKET and, when the unit has WatchdogSec=, the interval
in WATCHDOG_USEC for the process in WATCHDOG_PID.  Where NOTIFY_SOCKET is not set nobody listens,
and every word goes nowhere: that is the protocol's own rule.  When to speak is the caller's
business: ``ready`` after the last start-up step, ``watchdog`` from the event loop after the checks
that matter, and after ``reloading`` always ``ready`` again, or ``systemctl reload`` waits for ever.
"""

import os
import time
from collections.abc import Mapping

import sdnotify

US_PER_S = 1_000_000
NS_PER_US = 1_000
PINGS_PER_WATCHDOG_INTERVAL = 2  # sd_watchdog_enabled(3) recommends half the interval
STATUS_CHARACTERS_MAX = 1024  # of one STATUS line; longer text is cut


class Notifier:
    """The daemon's end of NOTIFY_SOCKET; build it once, at start."""

    def __init__(self) -> None:
        """Read the environment that systemd set and connect.

        Raises:
            OSError: NOTIFY_SOCKET names a socket that nobody listens on.
        """
        # With debug, sdnotify raises what it otherwise swallows: a lost READY=1 is a start that hangs.
        self._notifier = sdnotify.SystemdNotifier(debug=True) if os.environ.get("NOTIFY_SOCKET") else None
        self.watchdog_interval_s = watchdog_interval_s(os.environ, os.getpid())
        """Seconds between two calls of ``watchdog``, half of WatchdogSec=; None: nobody waits for them."""

    def ready(self, status: str) -> None:
        """Say that start-up, or a reload, has ended; ``status`` is the line that systemctl shows."""
        self._send("READY=1", _status_line(status))

    def status(self, status: str) -> None:
        """Change the line that systemctl shows."""
        self._send(_status_line(status))

    def reloading(self) -> None:
        """Say that the configuration is being read again; ``ready`` must follow, also after a failure."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // NS_PER_US}")

    def stopping(self) -> None:
        """Say that the clean stop has begun."""
        self._send("STOPPING=1", _status_line("stopping"))

    def watchdog(self) -> None:
        """Say that the daemon is alive; due every ``watchdog_interval_s``."""
        self._send("WATCHDOG=1")

    def _send(self, *assignments: str) -> None:
        """Send one datagram; systemd takes all assignments in it at once.

        Raises:
            OSError: systemd no longer listens.
        """
        if self._notifier is not None:
            # sdnotify encodes as Latin-1, systemd expects UTF-8: hand over UTF-8 bytes as Latin-1 characters.
            self._notifier.notify("\n".join(assignments).encode().decode("latin-1"))


def watchdog_interval_s(environment: Mapping[str, str], pid: int) -> float | None:
    """Return how often process ``pid`` should ping, in seconds, or None when nobody expects it to.

    A WATCHDOG_PID of another process means that the variables were inherited and are not for us.
    """
    interval_us = environment.get("WATCHDOG_USEC", "")
    if not interval_us.isdecimal() or int(interval_us) == 0:
        return None
    if environment.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    return int(interval_us) / US_PER_S / PINGS_PER_WATCHDOG_INTERVAL


def _status_line(status: str) -> str:
    """Make one assignment of any text: a line break in it would start another assignment."""
    return f"STATUS={' '.join(status.split())[:STATUS_CHARACTERS_MAX]}"
