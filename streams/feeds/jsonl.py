"""A file of submits as the contract has them, one JSON object a line: to Kafka byte by byte as they stand.

Nothing is re-encoded, repaired or rejected here; of a line only the key is read. A line whose access port can't be read
goes out without a key, so that the dead letters account for it. Submits without `received_ms` are dated by Kafka's log
time, so that old ones count as misclocked: `portwatch replay` judges old files.
"""

from collections import Counter
from collections.abc import Sequence

import msgspec

from streams.feeds.record import Record

BLANK = "blank line"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
LONGEST_TIME = 15  # digits of a time in milliseconds that a calendar still has (year 33658)


class _Keyed(msgspec.Struct):
    """What is read of a line. A raw time: one of the wrong type must not cost the line its key."""

    access_port: str
    event_time_ms: msgspec.Raw = msgspec.Raw(b"")


class SubmitLines:
    """Adapter of a JSONL file of submits."""

    def __init__(self) -> None:
        self.skipped: Counter[str] = Counter()
        self._decode = msgspec.json.Decoder(_Keyed).decode

    def records(self, lines: Sequence[bytes], now_ms: int | None) -> list[Record]:  # noqa: ARG002 - not ours to set
        """One record a line; see Adapter."""
        found = [self._record(line) for line in lines if line and not line.isspace()]
        if len(found) < len(lines):
            self.skipped[BLANK] += len(lines) - len(found)
        return found

    def end(self) -> list[Record]:
        """Nothing: no line depends on the next."""
        return []

    def _record(self, line: bytes) -> Record:
        try:
            read = self._decode(line.removeprefix(BYTE_ORDER_MARK))
            return Record(read.access_port.encode(), line, _time_ms(bytes(read.event_time_ms)))
        except (msgspec.DecodeError, UnicodeError):
            return Record(None, line, None)


def _time_ms(raw: bytes) -> int | None:
    return int(raw) if raw.isdigit() and len(raw) <= LONGEST_TIME else None
