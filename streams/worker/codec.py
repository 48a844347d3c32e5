"""From raw record values to columns and rejects: the one place where hostile bytes become a `SubmitBatch`.

A record that keeps the contract costs one call of the typed decoder. Any other gets a second look, field by field with
the decoders of the same types, so both ways agree by construction. No input makes this raise.

What is ignored is not read, but all of a record must be UTF-8 and JSON.
"""

import re
import struct
from binascii import unhexlify
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, compress
from operator import not_
from types import MappingProxyType
from typing import Any, Final, NamedTuple, cast

import msgspec
import numpy as np

from detectors.batch import NO_TIME, Flags, Hashes, Ints, SubmitBatch
from streams.contract import (
    EARLIEST_MS,
    LATEST_MS,
    MAX_PORT_DIGITS,
    MAX_RECORD_BYTES,
    MAX_TEXT_CHARACTERS,
    JudgedFields,
    Reject,
    RejectReason,
    Submit,
)

NDJSON = b"application/x-ndjson"
ARROW_STREAM = b"application/vnd.apache.arrow.stream"

MAX_LINES = 1 << 17
"""Lines or rows of one block; and of what is decoded at once, blocks and records together. If all of them are bad, each
becomes a dead letter: some 60 MB and seconds of sending."""

LEAST_ROW_BYTES = 9
"""Of an Arrow row that can be a submit: two offsets of strings and a number."""

CHUNK = 512
"""Records that are taken apart together, so that their objects stay in the core's cache (docs/benchmarks.md)."""

MOST_KNOWN = 1 << 17
"""Names that are kept as one object each: 15 MB at most, of ports, extensions and accounts each."""

MOST_SKEW_MS = 60_000
"""A collector can't have received what Kafka logged earlier. Clocks that are kept by NTP differ by less than this; a
`received_ms` beyond it is not believed, or one row could push the event clock ahead and make all others late."""

_BOM = b"\xef\xbb\xbf"
_NO_BLOCKS: Final[Mapping[int, bytes]] = MappingProxyType({})
_CHARSETS: Final[Mapping[int | None, str]] = MappingProxyType({0: "ascii", 8: "utf-16-be", 15: "gb18030"})


class _Refusal(NamedTuple):
    reason: RejectReason
    detail: str


@dataclass(frozen=True, slots=True)
class Decoded:
    """What became of a batch of records: `len(batch) + len(rejects) == submits_in`."""

    batch: SubmitBatch
    rejects: list[Reject]  # in arrival order, as the rows of the batch
    submits_in: int  # records; of NDJSON blocks the lines that are not blank, of Arrow blocks the rows
    dropped: Counter[str]  # values of optional fields that are taken for absent, by field
    inconsistent: int  # submits whose recipient_count differs from the length of their list
    undecodable: int  # submits whose content_hex is not text in the charset of its message_format
    unknown_fields: int  # a lower bound: seen in the first record of each CHUNK and in each second look


def decode(
    values: Sequence[bytes | None],
    offsets: Ints,
    log_time_ms: Ints | None,
    content_types: Mapping[int, bytes] = _NO_BLOCKS,
) -> Decoded:
    """Rows and rejects of the raw values of one partition.

    Shapes: `offsets` and `log_time_ms` are int64[n] as `values`; a log time below 1 is unknown. `content_types` has the
    content-type header by index in `values`; a record without one, or with any other than the two of blocks, is JSON.
    """
    lines = _unfold(values, content_types) if content_types else _Lines(values, np.arange(len(values)))
    intake = _Intake()
    for start in range(0, len(lines.values), CHUNK):
        intake.take(lines.values[start : start + CHUNK], start)
    source = np.delete(lines.index, sorted(intake.refused)) if intake.refused else lines.index
    return Decoded(
        batch=intake.batch(offsets[source], None if log_time_ms is None else log_time_ms[source]),
        rejects=lines.rejects(intake.refused, offsets),
        submits_in=len(lines.values) + len(lines.refused_blocks),
        dropped=intake.dropped,
        inconsistent=intake.inconsistent,
        undecodable=intake.undecodable,
        unknown_fields=intake.unknown_fields,
    )


# --- blocks


def cuts(values: Sequence[bytes | None], content_types: Mapping[int, bytes]) -> list[int]:
    """Where to cut the records of a batch so that no piece has more than MAX_LINES lines: [0, ..., len(values)]."""
    if not content_types:
        return [0, *range(MAX_LINES, len(values), MAX_LINES), len(values)]
    found, lines = [0], 0
    for i, value in enumerate(values):
        most = _most_lines(value or b"", content_types.get(i, b""))
        if lines + most > MAX_LINES and lines:
            found.append(i)
            lines = 0
        lines += most
    return [*found, len(values)]


def _most_lines(value: bytes, content_type: bytes) -> int:
    """How many rows and rejects a record makes at most; what has more is rejected whole."""
    media_type = _media_type(content_type)
    if media_type == NDJSON:
        return min(value.count(b"\n") + 1, MAX_LINES)
    if media_type == ARROW_STREAM:
        return min(len(value) // LEAST_ROW_BYTES + 1, MAX_LINES)
    return 1


@dataclass(slots=True)
class _Lines:
    """Submits to decode, one by one, and which record each came from."""

    values: Sequence[bytes | None]
    index: Ints
    line: Sequence[int | None] = ()  # empty: every submit is a record of its own
    refused_blocks: list[tuple[int, bytes | None, _Refusal]] = field(default_factory=list)

    def rejects(self, refused: Mapping[int, _Refusal], offsets: Ints) -> list[Reject]:
        rejects = [
            Reject(index, int(offsets[index]), None, *why, value=value) for index, value, why in self.refused_blocks
        ]
        for position, why in refused.items():
            index = int(self.index[position])
            line = self.line[position] if self.line else None
            rejects.append(Reject(index, int(offsets[index]), line, *why, value=self.values[position]))
        return sorted(rejects, key=lambda reject: (reject.index, reject.line or 0))


def _unfold(values: Sequence[bytes | None], content_types: Mapping[int, bytes]) -> _Lines:
    lines: list[bytes | None] = []
    index: list[int] = []
    numbers: list[int | None] = []
    refused: list[tuple[int, bytes | None, _Refusal]] = []
    for i, value in enumerate(values):
        unfolded = _block(value, content_types.get(i, b""))
        if isinstance(unfolded, _Refusal):
            refused.append((i, value, unfolded))
            continue
        lines.extend(unfolded.values())
        numbers.extend(unfolded)
        index.extend([i] * len(unfolded))
    return _Lines(lines, np.array(index, np.int64), numbers, refused)


def _block(value: bytes | None, content_type: bytes) -> Mapping[int | None, bytes | None] | _Refusal:
    """The submits in a record by line number; the record itself under None if it is no block."""
    media_type = _media_type(content_type)
    if media_type not in (NDJSON, ARROW_STREAM):
        return {None: value}
    rows = _arrow_rows(value) if value and media_type == ARROW_STREAM else _ndjson_rows(value or b"")
    if isinstance(rows, _Refusal):
        return rows
    return {n: row for n, row in enumerate(rows, 1) if row and not row.isspace()} or _Refusal(
        RejectReason.EMPTY, "a block without a submit"
    )


def _media_type(content_type: bytes) -> bytes:
    return content_type.partition(b";")[0].strip().lower()


def _ndjson_rows(block: bytes) -> list[bytes] | _Refusal:
    if block.count(b"\n") >= MAX_LINES:
        return _Refusal(RejectReason.TOO_LARGE, f"more than {MAX_LINES} lines")
    return block.split(b"\n")


def _arrow_rows(block: bytes) -> list[bytes] | _Refusal:
    """Rows as JSON: what holds for a JSON submit then holds for a row, at the price of writing and reading it."""
    try:
        import pyarrow as pa  # noqa: PLC0415 - an optional extra, slow to import, and few topics have such blocks
    except ImportError:
        return _Refusal(RejectReason.ARROW_UNSUPPORTED, "Arrow blocks need the extra: pip install 'portwatch[arrow]'")
    try:
        if any(map(_is_compressed, pa.ipc.MessageReader.open_stream(block))):
            return _Refusal(RejectReason.BAD_ARROW, "compressed: let Kafka's producer compress")
        with pa.ipc.open_stream(block) as stream:
            columns = _arrow_columns(stream.schema)
            if isinstance(columns, _Refusal):
                return columns
            rows: list[bytes] = []
            for batch in stream:
                if len(rows) + batch.num_rows > MAX_LINES:
                    return _Refusal(RejectReason.BAD_ARROW, f"more than {MAX_LINES} rows")
                batch.validate(full=True)  # offsets of a hostile block may point anywhere
                for start in range(0, batch.num_rows, CHUNK):
                    rows.extend(map(msgspec.json.encode, batch.select(columns).slice(start, CHUNK).to_pylist()))
    except (pa.ArrowException, OSError, ValueError, struct.error) as error:
        return _Refusal(RejectReason.BAD_ARROW, f"not an Arrow IPC stream: {type(error).__name__}")
    return rows


def _arrow_columns(schema: Any) -> list[int] | _Refusal:  # noqa: ANN401 - pyarrow has no types
    """The columns to read. Of those with one name the last wins, as in JSON; nulls say nothing and take no bytes."""
    types = [(column.name, str(column.type)) for column in schema]
    known = {name: i for i, (name, kind) in enumerate(types) if name in _KNOWN and kind != "null"}
    for name, kind in map(types.__getitem__, known.values()):
        if not _PLAIN_ARROW.fullmatch(kind):
            return _Refusal(RejectReason.BAD_ARROW, f"{name}: not of integer, string or list of string")
    if missing := _REQUIRED.keys() - known.keys():
        return _Refusal(RejectReason.MISSING_FIELD, ", ".join(sorted(missing)))
    return list(known.values())


_COMPRESSION: Final[Mapping[str, tuple[int, ...]]] = MappingProxyType({"record batch": (2, 3), "dictionary": (2, 1, 3)})
"""The way through a message's tables by numbers of fields: header, (a dictionary's record batch,) BodyCompression. From
format/Message.fbs of Apache Arrow."""


def _is_compressed(message: Any) -> bool:  # noqa: ANN401 - as above
    """Whether reading the message would unpack more than it holds. pyarrow has verified its flatbuffer."""
    if message.type not in _COMPRESSION:
        return False
    buffer = memoryview(message.metadata)
    (table,) = struct.unpack_from("<I", buffer)
    for number in _COMPRESSION[message.type]:
        vtable = table - struct.unpack_from("<i", buffer, table)[0]
        slot = 4 + 2 * number
        offset = (
            struct.unpack_from("<H", buffer, vtable + slot)[0]
            if slot < struct.unpack_from("<H", buffer, vtable)[0]
            else 0
        )
        if not offset:
            return False
        table += offset + struct.unpack_from("<I", buffer, table + offset)[0]
    return True


_PLAIN_ARROW = re.compile(r"u?int\d+|(large_)?string|(large_)?list<\w+: (large_)?string( not null)?>")
"""Types whose values can't be larger than the bytes behind them; those of dictionaries, views and runs can."""


# --- one submit

_decode_judged = msgspec.json.Decoder(JudgedFields).decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_FIELDS = {f.name: msgspec.json.Decoder(f.type).decode for f in msgspec.structs.fields(JudgedFields)}
_KNOWN = frozenset(Submit.__struct_fields__)


class _Required(NamedTuple):
    kind: type
    bad_value: RejectReason
    allowed: str


_REQUIRED: Final[Mapping[str, _Required]] = {
    "event_id": _Required(str, RejectReason.BAD_EVENT_ID, "not 1 to 64 characters"),
    "event_time_ms": _Required(int, RejectReason.BAD_TIME, f"not in {EARLIEST_MS}..{LATEST_MS}"),
    "access_port": _Required(str, RejectReason.BAD_PORT, f"not 3 to {MAX_PORT_DIGITS} digits"),
}

_NOT_A_FULL_PORT = _Refusal(
    RejectReason.BAD_PORT, f"access_port and extension: not digits, or more than {MAX_PORT_DIGITS} together"
)

_LONE_SURROGATE = re.compile(
    rb"\\u(?:[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u)[dD][c-fC-F])"
)


class _Mended(NamedTuple):
    submit: JudgedFields
    dropped: list[str]
    unknown_fields: int


def _second_look(record: bytes | None) -> _Mended | _Refusal:
    """What is good of a record that the typed decoder refused?"""
    size = len(record or b"")
    if size > MAX_RECORD_BYTES:
        return _Refusal(RejectReason.TOO_LARGE, f"{size} bytes: more than {MAX_RECORD_BYTES}")
    line = (record or b"").removeprefix(_BOM)
    if not line or line.isspace():
        return _Refusal(RejectReason.EMPTY, "nothing in it")
    try:
        line.decode()
    except UnicodeDecodeError as not_text:
        return _Refusal(RejectReason.BAD_UTF8, f"{not_text.reason} at byte {not_text.start}")
    try:
        return _field_by_field(_decode_object(line))
    except msgspec.ValidationError as error:
        return _Refusal(RejectReason.NOT_AN_OBJECT, str(error))
    except _MALFORMED as error:
        return _malformed(line, error)


def _field_by_field(raw: dict[str, msgspec.Raw]) -> _Mended | _Refusal:
    good: dict[str, Any] = {}
    dropped = []
    for name in filter(raw.__contains__, _FIELDS):
        try:
            good[name] = _FIELDS[name](raw[name])
        except msgspec.ValidationError as error:
            if name in _REQUIRED:
                return _bad_required(name, bytes(raw[name]), error)
            dropped.append(name)
    if missing := _REQUIRED.keys() - good.keys():
        return _Refusal(RejectReason.MISSING_FIELD, ", ".join(sorted(missing)))
    return _Mended(JudgedFields(**good), dropped, len(raw.keys() - _KNOWN))


def _bad_required(name: str, value: bytes, error: msgspec.ValidationError) -> _Refusal:
    if value == b"null":
        return _Refusal(RejectReason.MISSING_FIELD, name)
    required = _REQUIRED[name]
    try:
        msgspec.json.decode(value, type=required.kind)
    except msgspec.ValidationError:
        return _Refusal(RejectReason.WRONG_TYPE, f"{name}: {error}")
    shown = f" {value[:24].decode()}" if required.kind is int else ""
    return _Refusal(required.bad_value, f"{name}{shown}: {required.allowed}")


def _malformed(line: bytes, error: Exception) -> _Refusal:
    if _LONE_SURROGATE.search(line.replace(rb"\\", b" ")):
        return _Refusal(RejectReason.BAD_UTF8, "lone surrogate")
    return _Refusal(RejectReason.NOT_JSON, str(error))


# --- columns


def _are_digits(texts: Iterable[str]) -> bool:
    """Is there nothing but ASCII digits in any of them? One look at all of them together."""
    joined = "".join(texts)
    return not joined or (joined.isascii() and joined.isdigit())


def _is_full_port(access_port: str, extension: str | None) -> bool:
    full_port = access_port + (extension or "")
    return len(full_port) <= MAX_PORT_DIGITS and _are_digits((full_port,))


class _Known(dict[str | None, str | None]):
    """The names that come again and again, one object for each: it is compared at a glance and kept once, where the
    decoder makes a new one for every record. Emptied when full."""

    def __missing__(self, name: str | None) -> str | None:
        if len(self) >= MOST_KNOWN:
            self.clear()
        self[name] = name
        return name


class _KnownNumbers(_Known):
    """The same for ports and extensions; "" for what is not a row of digits."""

    def __missing__(self, number: str | None) -> str | None:
        if number is not None and not _are_digits((number,)):
            return _NO_NUMBER
        return super().__missing__(number)


_NO_NUMBER = ""  # nothing else is empty: the decoder refuses it
_account, _number = _Known().__getitem__, _KnownNumbers().__getitem__


def _are_full_ports(access_ports: list[str | None], extensions: list[str | None]) -> bool:
    longest = sum(max(map(len, filter(None, column)), default=0) for column in (access_ports, extensions))
    return longest <= MAX_PORT_DIGITS and _NO_NUMBER not in access_ports and _NO_NUMBER not in extensions


def _readable(lines: Sequence[bytes | None]) -> Sequence[bytes | None]:
    """The lines, with None for what the decoder must not see: too large, or no UTF-8 where it would not look.

    One look at all of them joined is enough: a character that spans two lines belongs to none that is JSON.
    """
    try:
        if max(map(len, lines), default=0) <= MAX_RECORD_BYTES:  # type: ignore[arg-type]  # null is caught
            b"".join(lines).decode()  # type: ignore[arg-type]  # as above
            return lines
    except (TypeError, UnicodeDecodeError):
        pass
    return [line if line is not None and _is_readable(line) else None for line in lines]


def _is_readable(line: bytes) -> bool:
    if len(line) > MAX_RECORD_BYTES:
        return False
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _ints(column: list[int]) -> Ints:
    return np.fromiter(column, np.int64, len(column))


def _counts(column: list[int] | list[int | None], *, absent: int) -> Ints:
    """Counts with `absent` for None. Nearly all are 1, and that is told without looking at each."""
    ones = column.count(1)
    if ones == len(column) or (absent == 1 and ones + column.count(None) == len(column)):  # type: ignore[arg-type]
        return np.ones(len(column), np.int64)
    return _ints([absent if count is None else count for count in column])


def _unknown_fields(line: bytes | None) -> int:
    try:
        return len(_decode_object(line or b"{}").keys() - _KNOWN)
    except _MALFORMED:
        return 0


@dataclass(slots=True)
class _Intake:
    """Columns that grow chunk by chunk, and the books about what does not get into them."""

    refused: dict[int, _Refusal] = field(default_factory=dict)  # by position
    dropped: Counter[str] = field(default_factory=Counter)
    inconsistent: int = 0
    undecodable: int = 0
    unknown_fields: int = 0
    # Numbers become arrays while their chunk is in the cache; only names and texts stay Python objects for longer.
    event_id: list[Hashes] = field(default_factory=list)
    event_time_ms: list[Ints] = field(default_factory=list)
    received_ms: list[Ints] = field(default_factory=list)
    access_port: list[str | None] = field(default_factory=list)  # never None
    extension: list[str | None] = field(default_factory=list)
    account: list[str | None] = field(default_factory=list)
    carrier: list[str | None] = field(default_factory=list)
    text: list[str | None] = field(default_factory=list)
    recipient_count: list[Ints] = field(default_factory=list)  # 0 is 'not given'
    listed: list[Ints] = field(default_factory=list)  # recipients by list; 0 is 'no list'
    segments: list[Ints] = field(default_factory=list)
    is_retry: list[Flags] = field(default_factory=list)

    def take(self, lines: Sequence[bytes | None], start: int) -> None:
        """Add the rows of one chunk; `start` is the position of its first line."""
        submits, rows = self._parse(lines, start)
        if start not in self.refused:
            self.unknown_fields += _unknown_fields(lines[0])
        access_port = list(map(_number, [s.access_port for s in submits]))
        extension = list(map(_number, [s.extension for s in submits]))
        if not _are_full_ports(access_port, extension):
            good = [_is_full_port(s.access_port, s.extension) for s in submits]
            self.refused |= {start + row: _NOT_A_FULL_PORT for row in compress(rows, map(not_, good))}
            submits = list(compress(submits, good))
            access_port, extension = list(compress(access_port, good)), list(compress(extension, good))
        self.access_port += access_port
        self.extension += extension
        self.account += map(_account, [s.account for s in submits])
        self.carrier += [s.carrier for s in submits]
        self.text += [
            s.text if s.content_hex is None and s.udh_total is None and s.pk_total is None else self._text(s)
            for s in submits
        ]
        self.event_id.append(hash_event_ids([s.event_id for s in submits]))
        self.event_time_ms.append(_ints([s.event_time_ms for s in submits]))
        self.received_ms.append(_ints([s.received_ms or NO_TIME for s in submits]))
        self.recipient_count.append(_counts([s.recipient_count for s in submits], absent=0))
        self.listed.append(self._listed([s.recipients for s in submits]))
        self.segments.append(
            _counts(
                [
                    s.segment_count if s.udh_total is None and s.udh_ref is None and s.udh_seq is None else 1
                    for s in submits
                ],
                absent=1,
            )
        )
        retry_of = [s.retry_of for s in submits]
        self.is_retry.append(
            np.array([first is not None for first in retry_of], np.bool_)
            if any(retry_of)
            else np.zeros(len(submits), np.bool_)
        )

    def _parse(self, lines: Sequence[bytes | None], start: int) -> tuple[list[JudgedFields], Sequence[int]]:
        """The submits that can be read, and the rows of `lines` in which they stand."""
        submits: list[JudgedFields] = []
        skipped: list[int] = []
        rest = iter(_readable(lines))
        while True:
            try:
                # An error leaves in `submits` what came before it and `rest` behind the record that made it.
                submits.extend(map(_decode_judged, rest))  # type: ignore[arg-type]  # null is caught
                break
            except (*_MALFORMED, TypeError):  # TypeError: a null record
                at = len(submits) + len(skipped)
            look = _second_look(lines[at])
            if isinstance(look, _Refusal):
                self.refused[start + at] = look
                skipped.append(at)
            else:
                submits.append(look.submit)
                self.dropped.update(look.dropped)
                self.unknown_fields += look.unknown_fields
        rows = range(len(lines))
        return submits, [row for row in rows if start + row not in self.refused] if skipped else rows

    def _text(self, submit: JudgedFields) -> str | None:
        """What can be judged as a whole text; a part of a long message can't."""
        parts = submit.pk_total if submit.udh_total is None else submit.udh_total
        if parts is not None and parts > 1:
            return None
        if submit.text is not None or submit.content_hex is None:
            return submit.text
        charset = _CHARSETS.get(submit.message_format)
        if charset is None:
            return None
        try:
            text = unhexlify(submit.content_hex).decode(charset)
        except UnicodeDecodeError:
            self.undecodable += 1
            return None
        except ValueError:
            text = ""
        if 0 < len(text) <= MAX_TEXT_CHARACTERS:
            return text
        self.dropped["content_hex"] += 1
        return None

    def _listed(self, column: list[list[str] | None]) -> Ints:
        """How many numbers each list holds; 0 where there is none, or something else than numbers in it."""
        if column.count(None) == len(column):  # many gateways count, and tell no numbers
            return np.zeros(len(column), np.int64)
        lists: list[list[str]] = [numbers or [] for numbers in column]
        if not _are_digits(chain.from_iterable(lists)):
            good = list(map(_are_digits, lists))
            self.dropped["recipients"] += good.count(False)
            lists = [numbers if is_good else [] for numbers, is_good in zip(lists, good, strict=True)]
        return _counts(list(map(len, lists)), absent=0)

    def batch(self, offset: Ints, log_time_ms: Ints | None) -> SubmitBatch:
        """The rows that were taken, of records with these offsets and log times (int64[n])."""
        received_ms = _joined(self.received_ms)
        if log_time_ms is not None:
            is_incredible = (log_time_ms > NO_TIME) & (received_ms > log_time_ms + MOST_SKEW_MS)
            log_time_stands_in = (received_ms == NO_TIME) | is_incredible
            received_ms = np.where(log_time_stands_in, np.maximum(log_time_ms, NO_TIME), received_ms)
        given, listed = _joined(self.recipient_count), _joined(self.listed)
        self.inconsistent = int(((given != listed) & (given > 0) & (listed > 0)).sum())
        return SubmitBatch(
            offset=offset,
            event_time_ms=_joined(self.event_time_ms),
            received_ms=received_ms,
            event_id=np.concatenate([np.empty(0, np.uint64), *self.event_id]),
            access_port=cast("list[str]", self.access_port),
            extension=self.extension,
            account=self.account,
            carrier=self.carrier,
            text=self.text,
            recipients=np.where(given > 0, given, np.maximum(listed, 1)),
            segments=_joined(self.segments),
            is_retry=np.concatenate([np.empty(0, np.bool_), *self.is_retry]),
        )


def _joined(chunks: list[Ints]) -> Ints:
    return np.concatenate([np.empty(0, np.int64), *chunks])


# --- event ids

_LONGEST = 256
"""Bytes of the longest event id: 64 characters of 4 bytes."""


def hash_event_ids(event_ids: list[str]) -> Hashes:
    """A stable 64-bit hash of each id of 1 to 64 characters; never 0. Changing it forgets which ids were seen.

    An id is padded with NUL to words of 8 bytes; a NUL inside is written C0 80, which no UTF-8 contains, so padding is
    unambiguous. Each word times the odd constant of its place goes through the finaliser of SplitMix64 (Steele, Lea,
    Flood, "Fast splittable pseudorandom number generators", 2014): a bijection that maps 0 to 0, so padding adds
    nothing to the sum. The sum goes through it once more.
    """
    joined = "".join(event_ids)
    if joined.isascii() and "\0" not in joined:
        rows = np.array(event_ids, f"S{_padded(max(map(len, event_ids), default=0))}")
    else:
        encoded = [i.encode().replace(b"\0", b"\xc0\x80") for i in event_ids]
        rows = np.array(encoded, f"S{_padded(max(map(len, encoded)))}")
    words = rows.view("<u8").reshape(len(event_ids), rows.itemsize // 8)
    total = _splitmix64(words * _PLACES[: words.shape[1]]).sum(axis=1, dtype=np.uint64)
    return np.maximum(_splitmix64(total), np.uint64(1))


def _padded(size: int) -> int:
    """Whole words of 8 bytes, at least one."""
    return max(8, (size + 7) // 8 * 8)


def _splitmix64(x: Hashes) -> Hashes:
    x = x ^ (x >> np.uint64(30))
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


_PLACES = _splitmix64(np.arange(1, _LONGEST // 8 + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) | np.uint64(1)
"""The SplitMix64 sequence from seed 0, made odd: multiplication by it loses nothing."""
