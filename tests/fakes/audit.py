"""An auditor that holds its records in memory; it does not model a disk that is slow."""

from dataclasses import dataclass, field

from x0d.errors import StorageFailed
from x0d.ports.audit import Change


@dataclass
class Record:
    """One call, as the gate has told it."""

    who: str
    address: str
    method: str
    what: str
    change: Change = field(default_factory=Change)
    outcome: str = "begun"
    detail: str = ""


class FakeAuditor:
    """Satisfies ``ports.audit.Auditor``; while ``is_full`` nothing can be written."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.is_full = False

    async def begin(self, who: str, address: str, method: str, what: str) -> int:
        if self.is_full:
            raise StorageFailed("disk full")
        self.records.append(Record(who, address, method, what))
        return len(self.records)

    async def end(self, number: int, change: Change, outcome: str, detail: str) -> None:
        record = self.records[number - 1]
        record.change, record.outcome, record.detail = change, outcome, detail
