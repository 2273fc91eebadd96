"""What an operator should know now: raised once, shown until it is cleared."""

import structlog

from x0d import telemetry

log = structlog.get_logger()


class Alerts:
    """Alerts by name; a name is a fixed word, followed by what it is about where there may be several."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def raise_alert(self, name: str, text: str) -> None:
        """Raise, or replace the text of, an alert."""
        if self._texts.get(name) != text:
            self._texts[name] = text  # first: it stands even if the log cannot be written
            log.error(telemetry.ALERT_RAISED, alert=name, text=text)

    def clear(self, name: str) -> None:
        """End an alert; nothing happens if it is not raised."""
        if self._texts.pop(name, None) is not None:
            log.info(telemetry.ALERT_CLEARED, alert=name)

    def texts(self) -> tuple[str, ...]:
        """What holds now."""
        return tuple(f"{name}: {text}" for name, text in sorted(self._texts.items()))

    def names(self) -> tuple[str, ...]:
        """Names of what holds now."""
        return tuple(sorted(self._texts))
