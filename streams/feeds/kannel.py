"""Kannel's access log (Debian's 1.4.5, the default format) as submits: `Sent SMS` left, or was refused, on one link.

What such a log can't say: Kannel writes every byte outside printable ASCII of a text that is not UCS2 or binary as `.`
(line ends too), one line for a long message however many segments left, one line for each recipient, and whole seconds
of local time. Its fields are the sender's own words, unescaped: whoever may put a line end into `from` or `meta-data`
of sendsms can break a line in two (we put it together again) or write a whole one of his own (that can't be seen).
"""

import math
import re
from binascii import unhexlify
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from hashlib import blake2b
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import orjson

from streams.feeds.record import Record

SUBMITS = {b"Sent SMS": "accepted", b"FAILED Send SMS": "rejected", b"REJECTED Send SMS": "rejected"}
"""Events that are submits, and the contract's `submit_result` of each."""
OTHER_EVENTS = frozenset(
    {
        "DISCARDED SMS",  # no route: it never left
        "DISCARDED DLR",
        "FAILED Receive DLR",
        "FAILED Send DLR",
        "Log begins",
        "Log ends",
        "Receive DLR",
        "Receive SMS",
        "REJECTED Receive SMS - black-listed SMS",
        "REJECTED Receive SMS - black-regex-listed SMS",
        "REJECTED Receive SMS - not white-listed SMS",
        "REJECTED Receive SMS - not white-regex-listed SMS",
        "REJECTED Send DLR",
        "Sent DLR",
    }
)
"""All other events of bearerbox 1.4.5; counted under their own names."""
UNKNOWN = "unknown event"
BROKEN = "broken line"

GSM7, BINARY, UCS2 = 0, 1, 2
HEX_CODINGS = {b"1", b"2"}
"""Binary and UCS2 as the log writes them: their content is in hex digits."""
MESSAGE_FORMAT = {GSM7: 0, BINARY: 4, UCS2: 8}
"""Kannel's coding -> CMPP Msg_Fmt."""

SINGLE_SEPTETS, PART_SEPTETS = 160, 153
SINGLE_OCTETS, PART_OCTETS = 140, 134
"""A segment's 140 octets less the 6 of a concatenation header (UCS2: 70 and 67 characters), 3GPP TS 23.040."""
GSM7_EXTENSION = "[]{}\\^|~"
"""The printable ASCII of the extension table, 3GPP TS 23.038 6.2.1.1."""

MOST_LINES, MOST_BYTES = 16, 1 << 17
"""What one broken record is put together from; Debian's Kannel breaks lines only at the sender's bidding."""
SECONDS_REMEMBERED, LINES_REMEMBERED = 4, 1 << 18
"""To tell equal lines apart: threads of bearerbox write lines of one second among those of the next."""

# Atomic groups: a sender who fills his fields with these very words must not make us search for long.
_START = re.compile(rb"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) ")
_HEAD = re.compile(_START.pattern + rb"([A-Za-z][^\[\n]*) \[SMSC:(?>(.*?)\] \[SVC:)(?>(.*?)\] \[ACT:)", re.DOTALL)
_MESSAGE = re.compile(rb"\] \[flags:-?\d{1,4}:(-?\d{1,4}):-?\d{1,4}:-?\d{1,4}:-?\d{1,4}\] \[msg:(\d{1,6}):")
_TAIL = re.compile(rb"\] \[udh:\d{1,4}:((?:[0-9A-F]{2})*)\]")
_EXTENSION = re.compile(f"[{re.escape(GSM7_EXTENSION)}]")
_MARK = re.compile(_START.pattern + rb"(Log begins|Log ends)")


class Entry(NamedTuple):
    """One record of the log. `content` is as logged: text for GSM7 (and undefined coding), hex digits otherwise."""

    time: bytes
    event: bytes
    smsc: bytes
    service: bytes
    sender: bytes
    recipient: bytes
    coding: int
    content: bytes
    udh: bytes  # hex digits


def parse(raw: bytes, message_before: int | None = None) -> Entry | None:
    """One record, or None where `raw` is not exactly one.

    Fields are not escaped, so the length of the message decides where it ends: `[msg:LEN:` with LEN bytes up to the
    `[udh:` that closes the record. `message_before`: only look for the message that starts before this place.
    """
    if not (head := _HEAD.match(raw)):
        mark = _MARK.fullmatch(raw)
        return Entry(mark[1], mark[2], b"", b"", b"", b"", GSM7, b"", b"") if mark else None
    for message in _MESSAGE.finditer(raw, head.end(), len(raw) if message_before is None else message_before):
        end = _message_end(message)
        if tail := _TAIL.fullmatch(raw, end):
            before, has_recipient, recipient = raw[head.end() : message.start()].rpartition(b"] [to:")
            _, has_sender, sender = before.rpartition(b"[from:")
            if has_recipient and has_sender:
                time, event, smsc, service = head.groups()
                content = raw[message.end() : end]
                return Entry(time, event, smsc, service, sender, recipient, int(message[1]), content, tail[1])
    return None


def _message_end(message: re.Match[bytes]) -> int:
    coding, length = message.groups()
    return message.end() + (2 * int(length) if coding in HEX_CODINGS else int(length))


class AccessLog:
    """Adapter of one Kannel's access log.

    `ports`: the registry's main ports; Kannel knows full numbers only, and the longest main port that a number begins
    with is its access port, the rest its extension. A number of no known port is an access port as a whole.
    `timezone`: the zone of the gateway's clock, an IANA name. Where it repeats an hour in autumn, the log does not say
    which one it means: the first is taken, so the second comes out an hour early; China's does not.
    `gateway_id`: name of this gateway; the SMSC connection (also `link_id`) stands in where it is None.

    `received_ms` is the time of reading for lines that are written while we follow, so that the gateway's clock is
    checked against ours. Older lines carry their own time: nobody else has dated them, and dated now, a log of last
    week would count as misclocked.

    An event id is made of the gateway's name and the whole line, with a count where a second has that line several
    times. So the same log, fed again from its beginning, repeats its ids and the repeats are dropped downstream.
    """

    def __init__(
        self, *, ports: Iterable[str] = (), timezone: str = "Asia/Shanghai", gateway_id: str | None = None
    ) -> None:
        """Raises ValueError for an unknown timezone."""
        try:
            self._zone = ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(f"timezone: {timezone!r}: allowed is an IANA name such as Asia/Shanghai or UTC") from error
        self.skipped: Counter[str] = Counter()
        self._ports = frozenset(ports)
        self._port_lengths = sorted({len(port) for port in self._ports}, reverse=True)
        self._gateway_id = gateway_id
        self._salt = (gateway_id or "").encode() + b"\0"
        self._held: list[bytes] = []  # lines of a record that is not whole yet
        self._held_needs = 0  # bytes that the text in them asks for by its length
        self._times: dict[bytes, int | None] = {}
        self._lines_of: dict[bytes, dict[str, int]] = {}

    def records(self, lines: Sequence[bytes], now_ms: int | None) -> list[Record]:
        """See Adapter."""
        found = [self._record(raw, entry, now_ms) for line in lines for raw, entry in self._whole(line)]
        return [record for record in found if record]

    def end(self) -> list[Record]:
        """See Adapter."""
        whole = []
        while self._held:
            whole += self._give_up()
        found = [self._record(raw, entry, None) for raw, entry in whole]
        return [record for record in found if record]

    def _whole(self, line: bytes) -> list[tuple[bytes, Entry]]:
        """The records, most often one, that are whole with this line."""
        if self._held:
            return self._put_together(line)
        if entry := parse(line):
            return [(line, entry)]
        if _START.match(line):
            self._held = [line]
            self._held_needs = max((_message_end(message) for message in _MESSAGE.finditer(line)), default=0)
        else:
            self.skipped[BROKEN] += 1
        return []

    def _put_together(self, line: bytes) -> list[tuple[bytes, Entry]]:
        """A line that looks like a new record is the rest of an old one only inside a text that is not over yet."""
        held = b"\n".join(self._held)
        joined = held + b"\n" + line
        is_new = _START.match(line) is not None
        if entry := parse(joined, len(held) if is_new else None):
            self._held.clear()
            return [(joined, entry)]
        fits = len(self._held) < MOST_LINES and len(joined) < MOST_BYTES
        if fits and (not is_new or len(joined) < self._held_needs):
            self._held.append(line)
            return []
        return [*self._give_up(), *self._whole(line)]

    def _give_up(self) -> list[tuple[bytes, Entry]]:
        """The first held line begins no record; the others may."""
        self.skipped[BROKEN] += 1
        _, *others = self._held
        self._held.clear()
        return [whole for line in others for whole in self._whole(line)]

    def _record(self, raw: bytes, entry: Entry, now_ms: int | None) -> Record | None:
        result = SUBMITS.get(entry.event)
        if result is None:
            event = entry.event.decode(errors="replace")
            self.skipped[event if event in OTHER_EVENTS else UNKNOWN] += 1
            return None
        time_ms = self._time_ms(entry.time)
        content = _content(entry)
        if time_ms is None or content is None:
            self.skipped[BROKEN] += 1
            return None
        access_port, extension = self._split(_number(entry.sender))
        recipient = _number(entry.recipient)
        smsc = entry.smsc.decode(errors="replace")
        submit = {
            "event_id": self._event_id(raw, entry.time),
            "event_time_ms": time_ms,
            "received_ms": time_ms if now_ms is None else now_ms,
            "access_port": access_port,
            "extension": extension or None,
            "account": entry.service.decode(errors="replace") or None,
            "gateway_id": self._gateway_id or smsc or None,
            "link_id": smsc or None,
            "protocol": "log",
            "recipients": [recipient] if recipient.isascii() and recipient.isdigit() else None,
            "submit_result": result,
            **content,
        }
        return Record(access_port.encode(), orjson.dumps(submit), time_ms)

    def _event_id(self, raw: bytes, second: bytes) -> str:
        digest = blake2b(self._salt + raw, digest_size=16).hexdigest()
        lines = self._lines_of.get(second)
        if lines is None or len(lines) >= LINES_REMEMBERED:
            lines = self._lines_of[second] = {}
            if len(self._lines_of) > SECONDS_REMEMBERED:
                del self._lines_of[next(iter(self._lines_of))]
        count = lines[digest] = lines.get(digest, 0) + 1
        return digest if count == 1 else f"{digest}-{count}"

    def _time_ms(self, text: bytes) -> int | None:
        if text not in self._times:
            self._times.clear()
            try:
                local = datetime.fromisoformat(text.decode()).replace(tzinfo=self._zone)
                self._times[text] = int(local.timestamp()) * 1000
            except (ValueError, OverflowError):
                self._times[text] = None
        return self._times[text]

    def _split(self, number: str) -> tuple[str, str]:
        for length in self._port_lengths:
            if number[:length] in self._ports:
                return number[:length], number[length:]
        return number, ""


def _number(text: bytes) -> str:
    return text.decode(errors="replace").removeprefix("+")


def _content(entry: Entry) -> dict[str, str | int | None] | None:
    """What the contract says about the message itself; None where the hex digits are none."""
    coding = entry.coding if entry.coding in MESSAGE_FORMAT else GSM7
    text, raw = None, None
    if coding == GSM7:
        text = entry.content.decode(errors="replace")
        segments = gsm7_segments(text)
    else:
        try:
            octets = unhexlify(entry.content)
        except ValueError:
            return None
        segments = _segments(len(octets), SINGLE_OCTETS, PART_OCTETS)
        text = _ucs2(octets) if coding == UCS2 else None
        raw = octets.hex() if text is None else None
    said: dict[str, str | int | None] = {
        "message_format": MESSAGE_FORMAT[coding],
        "text": text or None,
        "content_hex": raw or None,
        "segment_count": segments,
    }
    if entry.udh and (part := _concatenation(unhexlify(entry.udh))):
        said |= {**part, "segment_count": 1}
    return said


def _ucs2(octets: bytes) -> str | None:
    try:
        return octets.decode("utf-16-be")
    except UnicodeDecodeError:  # not UTF-16 after all, or a part that begins inside a character
        return None


def gsm7_segments(text: str) -> int:
    """Segments that Kannel cuts a GSM 7-bit text into (tried): 160 septets alone, else 153 a part; a character of the
    extension table takes two and is not cut apart. A `.` counts as one septet whatever it stands for.
    """
    septets = len(text) + len(_EXTENSION.findall(text))
    if septets <= SINGLE_SEPTETS or septets == len(text):
        return _segments(septets, SINGLE_SEPTETS, PART_SEPTETS)
    parts, room = 1, PART_SEPTETS
    for character in text:
        width = 2 if character in GSM7_EXTENSION else 1
        if width > room:
            parts, room = parts + 1, PART_SEPTETS
        room -= width
    return parts


def _segments(size: int, single: int, part: int) -> int:
    return 1 if size <= single else math.ceil(size / part)


def _concatenation(udh: bytes) -> dict[str, str | int] | None:
    """3GPP TS 23.040, 9.2.3.24: after the header's length, elements of an identifier, a length and data; 0 concatenates
    with an 8-bit reference, 8 with a 16-bit one.
    """
    place = 1
    while place + 2 <= len(udh):
        element, length = udh[place], udh[place + 1]
        data = udh[place + 2 : place + 2 + length]
        if (element, length, len(data)) in {(0, 3, 3), (8, 4, 4)}:
            return {"udh_ref": int.from_bytes(data[:-2]), "udh_total": data[-2], "udh_seq": data[-1]}
        place += 2 + length
    return None
