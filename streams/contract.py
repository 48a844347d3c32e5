"""The wire types: what comes in (`Submit`) and what is turned away (`RejectReason`, `Reject`, `DeadLetter`).

The constraints are those of the contract. The decoder enforces them all except the patterns, which would cost a regular
expression per value and are checked by the codec for whole batches; JSON Schema is generated from these types.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

from detectors.registry import Carrier

MAX_RECORD_BYTES = 64 * 1024
"""Size limit of one JSON submit: a record, or a line of a block. A block may be larger."""

EARLIEST_MS = 946_684_800_000
"""2000-01-01T00:00:00Z: an earlier time is one in seconds, by mistake."""

LATEST_MS = 4_102_444_800_000
"""2100-01-01T00:00:00Z: a later time is one in microseconds, by mistake."""

MAX_PORT_DIGITS = 20
"""Of access port and extension together: the protocols carry 21 octets, the last of them NUL (CMPP 3.0 Src_Id)."""

MAX_TEXT_CHARACTERS = 4000

Protocol = Literal["cmpp", "sgip", "smgp", "smpp", "http", "log"]
SubmitResult = Literal["accepted", "throttled", "rejected", "unknown"]

_DIGITS = "^[0-9]+$"


def _pattern(pattern: str, **more: object) -> dict[str, Any]:
    return {"pattern": pattern, **more}


_Name = Annotated[str, Meta(min_length=1, max_length=256)]  # names end up in keys of tables: bounded by our choice
_EventId = Annotated[str, Meta(min_length=1, max_length=64)]
_EpochMs = Annotated[int, Meta(ge=EARLIEST_MS, le=LATEST_MS)]
_Octet = Annotated[int, Meta(ge=0, le=255)]


class JudgedFields(Struct, gc=False, kw_only=True):
    """The fields of a submit that the pipeline reads: the hot path decodes these alone (docs/benchmarks.md)."""

    event_id: Annotated[
        _EventId,
        Meta(
            description="Unique per submit; the same id again is a redelivery: the first wins, even with other content."
        ),
    ]
    event_time_ms: Annotated[_EpochMs, Meta(description="When the gateway took the submit: UTC epoch milliseconds.")]
    access_port: Annotated[
        str,
        Meta(
            min_length=3,
            max_length=MAX_PORT_DIGITS,
            extra_json_schema=_pattern(_DIGITS),
            description="Main port; also the Kafka key.",
        ),
    ]
    extension: Annotated[
        # An extension that is too long rejects the submit, so its length is the codec's to judge.
        Annotated[str, Meta(min_length=1, extra_json_schema=_pattern(_DIGITS, maxLength=MAX_PORT_DIGITS - 3))] | None,
        Meta(description="Sub-port; access_port and extension together have at most 20 digits."),
    ] = None
    received_ms: Annotated[
        _EpochMs | None,
        Meta(description="When the event reached the collector: guards event time. Default: the Kafka log time."),
    ] = None
    account: Annotated[_Name | None, Meta(description="Submit path: the account that logged in.")] = None
    carrier: Annotated[Carrier | None, Meta(description="The carrier whose port layer saw it.")] = None
    recipient_count: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)] | None,
        Meta(description="Recipients of this submit; wins over the list. Default: its length, or 1."),
    ] = None
    recipients: Annotated[
        list[Annotated[str, Meta(min_length=1, extra_json_schema=_pattern(_DIGITS))]] | None,
        Meta(description="Recipient numbers. They are counted and go no further."),
    ] = None
    segment_count: Annotated[
        Annotated[int, Meta(ge=1, le=255)] | None,
        Meta(description="Segments per recipient; 1 when udh_* is set."),
    ] = 1
    text: Annotated[
        Annotated[str, Meta(min_length=1, max_length=MAX_TEXT_CHARACTERS)] | None,
        Meta(description="Decoded content; one part when udh_total > 1. Null: not text, not judged as text."),
    ] = None
    content_hex: Annotated[
        Annotated[str, Meta(min_length=1, extra_json_schema=_pattern("^([0-9A-Fa-f]{2})+$"))] | None,
        Meta(description="Raw content instead of text, decoded by message_format."),
    ] = None
    message_format: Annotated[
        _Octet | None,
        Meta(description="CMPP Msg_Fmt for all protocols: 0 ASCII, 8 UCS2, 15 GB 18030; others are not text."),
    ] = None
    udh_ref: Annotated[
        Annotated[int, Meta(ge=0, le=65535)] | None,
        Meta(description="Concatenation by user data header: reference, of 8 or 16 bits. It wins over pk_*."),
    ] = None
    udh_total: Annotated[_Octet | None, Meta(description="Concatenation by user data header: parts.")] = None
    udh_seq: Annotated[_Octet | None, Meta(description="Concatenation by user data header: this part.")] = None
    pk_total: Annotated[_Octet | None, Meta(description="Concatenation by CMPP Pk_total.")] = None
    retry_of: Annotated[
        _EventId | None,
        Meta(description="event_id of a submit that was not accepted and that this one repeats."),
    ] = None


class Submit(JudgedFields, gc=False, kw_only=True):
    """One SMS submit as a gateway saw it (topic sms.submit.v1, or a line of a JSONL file). Null means absent."""

    sp_id: Annotated[_Name | None, Meta(description="Submit path: the service provider's id.")] = None
    gateway_id: Annotated[_Name | None, Meta(description="Submit path: the gateway.")] = None
    link_id: Annotated[_Name | None, Meta(description="Submit path: the link or connection.")] = None
    source_ip: Annotated[_Name | None, Meta(description="Submit path: the client's address.")] = None
    protocol: Annotated[Protocol | None, Meta(description="Where the submit was read.")] = None
    province: Annotated[_Name | None, Meta(description="Province of the access gateway.")] = None
    pk_number: Annotated[_Octet | None, Meta(description="Concatenation by CMPP Pk_number.")] = None
    submit_result: Annotated[
        SubmitResult | None,
        Meta(description="What the gateway answered, normalised by the adapter."),
    ] = "accepted"
    submit_code: Annotated[_Name | int | None, Meta(description="What the gateway answered, raw.")] = None
    template_id: Annotated[_Name | None, Meta(description="The gateway's template, if it knows.")] = None
    purpose_hint: Annotated[_Name | None, Meta(description="The gateway's idea of the purpose, if it has one.")] = None


class RejectReason(StrEnum):
    """Why a submit can't be counted. Closed: a metric label and a header value."""

    EMPTY = "empty"  # null, no bytes, blank, or a block without a line
    TOO_LARGE = "too-large"
    BAD_UTF8 = "bad-utf8"  # or a lone surrogate
    NOT_JSON = "not-json"
    NOT_AN_OBJECT = "not-an-object"
    MISSING_FIELD = "missing-field"
    WRONG_TYPE = "wrong-type"  # of a required field
    BAD_EVENT_ID = "bad-event-id"  # not 1-64 characters
    BAD_TIME = "bad-time"  # before 2000 or after 2100
    BAD_PORT = "bad-port"  # port or extension not digits, too short or too long
    BAD_ARROW = "bad-arrow"  # not an Arrow IPC stream, or one with too many rows
    CORRUPT_BATCH = "corrupt-batch"  # records of a Kafka batch that can't be read: one letter, without their bytes
    ARROW_UNSUPPORTED = "arrow-unsupported"  # the `arrow` extra is not installed


REPLAYED_HEADER = "dlq.replayed"
"""How often the record has been sent again from the dead letters; it comes back with what is rejected once more."""
CUT_HEADER = "dlq.original.bytes"
"""Size of the original value; only on a letter that holds less of it."""


@dataclass(frozen=True, slots=True)
class Reject:
    """One submit that was turned away, as a value. `detail` names fields and limits, never content."""

    index: int  # of the record in the batch: it has the key, and the headers if the whole record is rejected
    offset: int  # of that record
    line: int | None  # 1-based line (row) in a block; None is the whole record
    reason: RejectReason
    detail: str
    value: bytes | None = field(repr=False)  # the line or the whole record; of an Arrow row its known fields as JSON


class DeadLetter(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A reject with its origin: a line of `--dlq rejected.jsonl`, or a record of sms.submit.v1.dlq.

    On Kafka the record has the original key and value, and the rest is in `headers`. A rejected line of a block is a
    record of its own; a block that is rejected whole keeps its content-type. What is too large for the topic is cut,
    and says how large it was.
    """

    reason: Annotated[RejectReason, Meta(description="Why, from a closed list.")]
    error: Annotated[str, Meta(description="Details; never content.")]
    topic: Annotated[str, Meta(description="Original topic, or the name of the file.")]
    partition: Annotated[int, Meta(ge=0, description="Original partition; 0 for a file.")]
    offset: Annotated[int, Meta(ge=0, description="Original offset; the line number in a file.")]
    timestamp_ms: Annotated[int | None, Meta(description="Original Kafka timestamp.")] = None
    line: Annotated[int | None, Meta(description="1-based line in the block at that offset.")] = None
    replayed: Annotated[int | None, Meta(description="How often it had been sent again before.")] = None
    size_bytes: Annotated[int | None, Meta(description="Of the original value, where this one is cut.")] = None
    sha256: Annotated[str | None, Meta(description="Of the original value, where this one is cut.")] = None
    value: Annotated[str | None, Meta(description="The rejected bytes, if they are UTF-8.")] = None
    value_base64: Annotated[bytes | None, Meta(description="The rejected bytes, if they are not.")] = None

    @classmethod
    def of(
        cls,
        reject: Reject,
        topic: str,
        partition: int,
        timestamp_ms: int | None = None,
        replayed: int | None = None,
    ) -> "DeadLetter":
        text, binary = text_or_bytes(reject.value)
        return cls(
            reason=reject.reason,
            error=reject.detail,
            topic=topic,
            partition=partition,
            offset=reject.offset,
            timestamp_ms=timestamp_ms,
            line=reject.line,
            replayed=replayed,
            value=text,
            value_base64=binary,
        )

    def cut(self, size: int) -> "DeadLetter":
        """The same with the first `size` bytes of its value; it says what the whole was."""
        whole = self.original or b""
        text, binary = text_or_bytes(whole[:size])
        return replace(
            self, value=text, value_base64=binary, size_bytes=len(whole), sha256=hashlib.sha256(whole).hexdigest()
        )

    @property
    def original(self) -> bytes | None:
        """The rejected bytes, as far as they were kept; None for a null record."""
        return self.value_base64 if self.value is None else self.value.encode()

    @property
    def headers(self) -> Mapping[str, bytes]:
        """The Kafka headers; what is unknown has none."""
        known = {
            "dlq.reason": self.reason.value,
            "dlq.error": self.error,
            "dlq.original.topic": self.topic,
            "dlq.original.partition": self.partition,
            "dlq.original.offset": self.offset,
            "dlq.original.timestamp": self.timestamp_ms,
            "dlq.original.line": self.line,
            CUT_HEADER: self.size_bytes,
            "dlq.original.sha256": self.sha256,
            REPLAYED_HEADER: self.replayed,
        }
        return {name: str(value).encode() for name, value in known.items() if value is not None}


def text_or_bytes(value: bytes | None) -> tuple[str | None, bytes | None]:
    """The value as JSON can hold it: as text if it is UTF-8, else as it is."""
    if value is None:
        return None, None
    try:
        return value.decode(), None
    except UnicodeDecodeError:
        return None, value
