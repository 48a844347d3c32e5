"""What the codec does with good, bad and hostile records, rule by rule, and the laws that hold for all of them."""

import json
import sys
from collections import Counter
from dataclasses import fields
from itertools import pairwise
from typing import Any

import jsonschema
import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from detectors.batch import NO_TIME, SubmitBatch
from streams.contract import (
    EARLIEST_MS,
    LATEST_MS,
    MAX_RECORD_BYTES,
    DeadLetter,
    JudgedFields,
    Reject,
    RejectReason,
    Submit,
)
from streams.worker import codec
from streams.worker.codec import ARROW_STREAM, CHUNK, NDJSON, Decoded, cuts, decode, hash_event_ids

NOW_MS = 1_795_478_400_000
BOM = b"\xef\xbb\xbf"


def submit(**changes: Any) -> dict[str, Any]:
    """A submit with all common fields; a field changed to `...` is left out."""
    record = {
        "event_id": "gw01-20261124-000000000001",
        "event_time_ms": NOW_MS,
        "access_port": "10690010",
        "extension": "1039",
        "received_ms": NOW_MS + 40,
        "account": "acct7",
        "gateway_id": "gw1",
        "protocol": "cmpp",
        "carrier": "mobile",
        "province": "广东",
        "recipient_count": 1,
        "recipients": ["13800138000"],
        "segment_count": 1,
        "text": "【某某银行】您的验证码是123456",
        "submit_result": "accepted",
    }
    return {name: value for name, value in (record | changes).items() if value is not ...}


def line(**changes: Any) -> bytes:
    return json.dumps(submit(**changes), ensure_ascii=False).encode()


def decoded(
    *values: bytes | None, log_time_ms: int | None = None, content_types: dict[int, bytes] | None = None
) -> Decoded:
    """Decode records at offsets 100, 101, ..."""
    log_times = None if log_time_ms is None else np.full(len(values), log_time_ms)
    return decode(values, np.arange(100, 100 + len(values)), log_times, content_types or {})


def only_row(batch: SubmitBatch) -> dict[str, Any]:
    assert len(batch) == 1
    columns = {f.name: getattr(batch, f.name) for f in fields(batch) if f.name != "floor_ms"}
    return {name: column[0].item() if isinstance(column, np.ndarray) else column[0] for name, column in columns.items()}


def only_reject(result: Decoded) -> Reject:
    assert len(result.batch) == 0
    [reject] = result.rejects
    return reject


def same(one: SubmitBatch, other: SubmitBatch) -> bool:
    return all(
        list(getattr(one, f.name)) == list(getattr(other, f.name)) for f in fields(SubmitBatch) if f.name != "floor_ms"
    )


def test_a_submit_becomes_a_row() -> None:
    result = decoded(line())
    assert only_row(result.batch) == {
        "offset": 100,
        "event_time_ms": NOW_MS,
        "received_ms": NOW_MS + 40,
        "event_id": hash_event_ids(["gw01-20261124-000000000001"]).item(),
        "access_port": "10690010",
        "extension": "1039",
        "account": "acct7",
        "carrier": "mobile",
        "text": "【某某银行】您的验证码是123456",
        "recipients": 1,
        "segments": 1,
        "is_retry": False,
    }
    assert result.rejects == []
    assert result.submits_in == 1
    assert (result.dropped, result.inconsistent, result.undecodable, result.unknown_fields) == (Counter(), 0, 0, 0)


def test_only_three_fields_are_required() -> None:
    row = only_row(decoded(b'{"event_id":"a","event_time_ms":1795478400000,"access_port":"106"}').batch)
    assert {name: value for name, value in row.items() if name not in {"event_id", "offset"}} == {
        "event_time_ms": NOW_MS,
        "received_ms": NO_TIME,
        "access_port": "106",
        "extension": None,
        "account": None,
        "carrier": None,
        "text": None,
        "recipients": 1,
        "segments": 1,
        "is_retry": False,
    }


def test_null_is_absent_for_every_optional_field() -> None:
    optional = {f.name: None for f in msgspec.structs.fields(Submit) if not f.required}
    result = decoded(line(**optional))
    assert only_row(result.batch)["recipients"] == 1
    assert only_row(result.batch)["segments"] == 1
    assert result.dropped == Counter()


# --- rejects

NESTED = b'{"event_id":"a","event_time_ms":1795478400000,"access_port":"106","x":' + b"[" * 30_000
REJECTED: list[tuple[str, bytes | None, RejectReason]] = [
    ("tombstone", None, RejectReason.EMPTY),
    ("no bytes", b"", RejectReason.EMPTY),
    ("blank", b" \t\r\n", RejectReason.EMPTY),
    ("BOM alone", BOM, RejectReason.EMPTY),
    ("too large", line(padding="x" * MAX_RECORD_BYTES), RejectReason.TOO_LARGE),
    ("too large, not JSON", b"x" * (MAX_RECORD_BYTES + 1), RejectReason.TOO_LARGE),
    ("invalid UTF-8 in a value", line(account="A").replace(b'"A"', b'"\xff"'), RejectReason.BAD_UTF8),
    ("invalid UTF-8 outside of strings", b"\xff\xfe{\x00}\x00", RejectReason.BAD_UTF8),
    ("surrogate in UTF-8", line(text="T").replace(b'"T"', b'"\xed\xa0\x80"'), RejectReason.BAD_UTF8),
    ("lone high surrogate", line(text="T").replace(b'"T"', rb'"\ud800"'), RejectReason.BAD_UTF8),
    ("lone low surrogate", line(text="T").replace(b'"T"', rb'"\udc00 and more"'), RejectReason.BAD_UTF8),
    ("surrogates in the wrong order", line(text="T").replace(b'"T"', rb'"\uDE00\uD83D"'), RejectReason.BAD_UTF8),
    ("lone surrogate in an unknown field", line(x="X").replace(b'"X"', rb'"\ud800"'), RejectReason.BAD_UTF8),
    ("GB 18030", line().decode().encode("gb18030"), RejectReason.BAD_UTF8),
    ("not JSON", b"hello", RejectReason.NOT_JSON),
    ("cut short", line()[:-1], RejectReason.NOT_JSON),
    ("NaN", line(event_time_ms=float("nan")), RejectReason.NOT_JSON),
    ("Infinity in an unknown field", line(x=float("inf")), RejectReason.NOT_JSON),
    ("two objects on two lines", line() + b"\n" + line(), RejectReason.NOT_JSON),
    ("two objects on one line", line() + line(), RejectReason.NOT_JSON),
    ("trailing comma", line()[:-1] + b",}", RejectReason.NOT_JSON),
    ("raw newline in a string", line(text="T").replace(b'"T"', b'"a\nb"'), RejectReason.NOT_JSON),
    ("NUL byte", line(text="T").replace(b'"T"', b'"a\x00b"'), RejectReason.NOT_JSON),
    ("surrogates around a backslash", line(text="T").replace(b'"T"', rb'"\ud83d\\\ude00"'), RejectReason.BAD_UTF8),
    ("escaped backslash before ud800, cut short", rb'{"text":"\\ud800"', RejectReason.NOT_JSON),
    ("nesting bomb", NESTED, RejectReason.NOT_JSON),
    (
        "too large by its BOM",
        BOM + line(padding="x" * (MAX_RECORD_BYTES - len(line(padding="")))),
        RejectReason.TOO_LARGE,
    ),
    ("two BOMs", BOM + BOM + line(), RejectReason.NOT_JSON),
    ("array", b"[]", RejectReason.NOT_AN_OBJECT),
    ("array of submits", b"[" + line() + b"]", RejectReason.NOT_AN_OBJECT),
    ("string", b'"hello"', RejectReason.NOT_AN_OBJECT),
    ("null", b"null", RejectReason.NOT_AN_OBJECT),
    ("no event_id", line(event_id=...), RejectReason.MISSING_FIELD),
    ("no event_time_ms", line(event_time_ms=...), RejectReason.MISSING_FIELD),
    ("no access_port", line(access_port=...), RejectReason.MISSING_FIELD),
    ("null event_id", line(event_id=None), RejectReason.MISSING_FIELD),
    ("empty object", b"{}", RejectReason.MISSING_FIELD),
    ("event_id a number", line(event_id=1), RejectReason.WRONG_TYPE),
    ("event_time_ms a string", line(event_time_ms=str(NOW_MS)), RejectReason.WRONG_TYPE),
    ("event_time_ms a float", line(event_time_ms=float(NOW_MS)), RejectReason.WRONG_TYPE),
    ("event_time_ms a bool", line(event_time_ms=True), RejectReason.WRONG_TYPE),
    ("access_port a number", line(access_port=10690010), RejectReason.WRONG_TYPE),
    ("access_port a list", line(access_port=["10690010"]), RejectReason.WRONG_TYPE),
    ("event_id empty", line(event_id=""), RejectReason.BAD_EVENT_ID),
    ("event_id of 65 characters", line(event_id="号" * 65), RejectReason.BAD_EVENT_ID),
    ("seconds by mistake", line(event_time_ms=NOW_MS // 1000), RejectReason.BAD_TIME),
    ("microseconds by mistake", line(event_time_ms=NOW_MS * 1000), RejectReason.BAD_TIME),
    ("a millisecond before 2000", line(event_time_ms=EARLIEST_MS - 1), RejectReason.BAD_TIME),
    ("a millisecond after 2100", line(event_time_ms=LATEST_MS + 1), RejectReason.BAD_TIME),
    ("beyond 64 bits", line(event_time_ms=10**30), RejectReason.BAD_TIME),
    ("port of two digits", line(access_port="10"), RejectReason.BAD_PORT),
    ("port of 21 digits", line(access_port="1" * 21, extension=...), RejectReason.BAD_PORT),
    ("port with a letter", line(access_port="1069001O"), RejectReason.BAD_PORT),
    ("port with a sign", line(access_port="+8610690010"), RejectReason.BAD_PORT),
    ("port in full-width digits", line(access_port="１０６９００１０"), RejectReason.BAD_PORT),
    ("port in superscript digits", line(access_port="10690010²"), RejectReason.BAD_PORT),
    ("port with a newline", line(access_port="10690010\n"), RejectReason.BAD_PORT),
    ("port empty", line(access_port=""), RejectReason.BAD_PORT),
    ("extension not digits", line(extension="10a9"), RejectReason.BAD_PORT),
    ("extension with a space", line(extension="1039 "), RejectReason.BAD_PORT),
    ("together 21 digits", line(access_port="1069001012", extension="12345678901"), RejectReason.BAD_PORT),
]


@pytest.mark.parametrize(("value", "reason"), [r[1:] for r in REJECTED], ids=[r[0] for r in REJECTED])
def test_what_is_rejected_and_why(value: bytes | None, reason: RejectReason) -> None:
    result = decoded(line(event_id="before"), value, line(event_id="after"))
    [reject] = result.rejects
    assert (reject.reason, reject.index, reject.offset, reject.line) == (reason, 1, 101, None)
    assert reject.value is value
    assert result.batch.event_id.tolist() == hash_event_ids(["before", "after"]).tolist()
    assert result.batch.offset.tolist() == [100, 102]
    assert result.submits_in == 3
    assert result.dropped == Counter()


def test_every_reason_has_an_example() -> None:
    assert {reason for _, _, reason in REJECTED} == set(RejectReason) - {
        RejectReason.BAD_ARROW,
        RejectReason.ARROW_UNSUPPORTED,
        RejectReason.CORRUPT_BATCH,  # no record reaches the codec
    }


@pytest.mark.parametrize(
    "value",
    [
        line(event_id=EARLIEST_MS, text="secret"),
        line(access_port="secret", recipients=["13800138000"]),
        line(event_id="secret" * 20),
        line(text="secret")[:-1],
        b'["secret"]',
        b'{"text":"secret\xff"}',
        rb'{"text":"secret\ud800"}',
    ],
)
def test_details_and_reprs_keep_content_to_themselves(value: bytes) -> None:
    reject = only_reject(decoded(value))
    assert "secret" not in repr(reject)
    assert "13800138000" not in repr(reject)


def test_of_several_faults_the_first_in_the_order_of_the_contract_is_named() -> None:
    reject = only_reject(decoded(line(access_port=5, event_time_ms="x", event_id=...)))
    assert (reject.reason, reject.detail) == (
        RejectReason.WRONG_TYPE,
        "event_time_ms: Expected `int`, got `str`",
    )


def test_a_detail_says_value_and_range_of_a_time() -> None:
    assert only_reject(decoded(line(event_time_ms=1_795_478_400))).detail == (
        "event_time_ms 1795478400: not in 946684800000..4102444800000"
    )


@pytest.mark.parametrize("event_time_ms", [EARLIEST_MS, LATEST_MS])
def test_the_ends_of_the_range_of_times_are_in_it(event_time_ms: int) -> None:
    assert only_row(decoded(line(event_time_ms=event_time_ms)).batch)["event_time_ms"] == event_time_ms


@pytest.mark.parametrize(("access_port", "extension"), [("106", "1" * 17), ("1" * 20, None), ("1" * 19, "1")])
def test_full_ports_have_up_to_twenty_digits(access_port: str, extension: str | None) -> None:
    row = only_row(decoded(line(access_port=access_port, extension=extension)).batch)
    assert (row["access_port"], row["extension"]) == (access_port, extension)


def test_a_long_port_and_a_long_extension_of_different_rows_are_fine() -> None:
    result = decoded(line(access_port="1" * 20, extension=None), line(access_port="106", extension="1" * 17))
    assert len(result.batch) == 2


def test_a_record_of_exactly_64_kb_is_taken() -> None:
    room = MAX_RECORD_BYTES - len(line(padding=""))
    value = line(padding="x" * room)
    assert len(value) == MAX_RECORD_BYTES
    assert len(decoded(value).batch) == 1
    assert len(decoded(value + b" ").rejects) == 1


# --- optional fields

DROPPED: list[tuple[str, Any]] = [
    ("extension", 1039),
    ("extension", ""),
    ("received_ms", str(NOW_MS)),
    ("received_ms", NOW_MS // 1000),
    ("received_ms", float(NOW_MS)),
    ("account", 7),
    ("account", ""),
    ("account", {"name": "acct7"}),
    ("account", "a" * 257),
    ("carrier", "vodafone"),
    ("carrier", ""),
    ("recipient_count", 0),
    ("recipient_count", -1),
    ("recipient_count", 1_000_001),
    ("recipient_count", "1"),
    ("recipient_count", True),
    ("recipient_count", 10**30),
    ("recipients", "13800138000"),
    ("recipients", [13800138000]),
    ("recipients", ["13800138000", None]),
    ("recipients", ["13800138000", ""]),
    ("recipients", ["13800138000", "+8613800138000"]),
    ("recipients", ["１３８"]),
    ("segment_count", 0),
    ("segment_count", 256),
    ("segment_count", 1.5),
    ("text", ""),
    ("text", 5),
    ("text", "字" * 4001),
    ("content_hex", ""),
    ("content_hex", 41),
    ("message_format", 256),
    ("message_format", "8"),
    ("udh_ref", 65536),
    ("udh_total", 256),
    ("udh_seq", -1),
    ("pk_total", "2"),
    ("retry_of", ""),
    ("retry_of", 5),
    ("retry_of", "x" * 65),
]


@pytest.mark.parametrize(("name", "value"), DROPPED)
def test_a_bad_optional_value_is_dropped_and_counted_and_the_submit_stays(name: str, value: Any) -> None:
    result = decoded(line(event_id="before"), line(**{name: value}), line(event_id="after"))
    assert result.dropped == Counter([name])
    assert result.rejects == []
    assert same(result.batch, decoded(line(event_id="before"), line(**{name: ...}), line(event_id="after")).batch)


def test_every_optional_field_that_is_read_has_an_example() -> None:
    assert {name for name, _ in DROPPED} == {f.name for f in msgspec.structs.fields(JudgedFields) if not f.required}


def test_several_bad_values_of_one_submit_are_all_counted() -> None:
    result = decoded(line(account="", text=5, recipients=["x"]))
    assert result.dropped == Counter(["account", "text", "recipients"])
    assert len(result.batch) == 1


def test_fields_that_the_pipeline_does_not_use_are_not_judged() -> None:
    result = decoded(line(province=5, sp_id="", protocol="x25", submit_result="lost", template_id=[]))
    assert same(result.batch, decoded(line()).batch)
    assert result.dropped == Counter()


def test_unknown_fields_are_ignored_and_counted_in_samples() -> None:
    result = decoded(line(later="x", x={"y": [1]}), line(later="x"), line(later="x", account=""))
    assert same(result.batch, decoded(line(), line(), line(account=...)).batch)
    assert result.unknown_fields == 3  # two of the first, none of the second, one of the third


def test_what_is_no_utf_8_is_refused_in_fields_that_nobody_reads_too() -> None:
    for hostile in (line(later="L").replace(b'"L"', b'"\xff"'), line(L=1).replace(b'"L"', b'"\xff"')):
        result = decoded(line(), hostile, line(event_id="another"))
        assert [reject.reason for reject in result.rejects] == [RejectReason.BAD_UTF8]
        assert len(result.batch) == 2


def test_of_duplicate_keys_the_last_wins() -> None:
    good_last = line(access_port="bad", account=5)[:-1] + b',"access_port":"10690011","account":"b"}'
    assert only_row(decoded(good_last).batch)["access_port"] == "10690011"
    assert only_row(decoded(good_last).batch)["account"] == "b"
    bad_last = decoded(line()[:-1] + b',"account":5}')
    assert only_row(bad_last.batch)["account"] is None
    assert bad_last.dropped == Counter(["account"])
    null_last = decoded(line()[:-1] + b',"event_id":null}')
    assert only_reject(null_last).reason == RejectReason.MISSING_FIELD


def test_escaped_keys_are_keys() -> None:
    assert only_row(decoded(line().replace(b'"account"', rb'"\u0061ccount"')).batch)["account"] == "acct7"


def test_a_bom_before_a_line_is_skipped() -> None:
    result = decoded(BOM + line(), BOM + line(account=""))
    assert same(result.batch, decoded(line(), line(account=...)).batch)
    assert result.dropped == Counter(["account"])


def test_pretty_printed_records_are_fine() -> None:
    assert same(decoded(json.dumps(submit(), indent=2).encode() + b"\r\n").batch, decoded(line()).batch)


# --- times, counts, texts


@pytest.mark.parametrize(
    ("received_ms", "log_time_ms", "expected"),
    [
        (NOW_MS + 40, NOW_MS + 99, NOW_MS + 40),
        (None, NOW_MS + 99, NOW_MS + 99),
        (NOW_MS // 1000, NOW_MS + 99, NOW_MS + 99),
        (NOW_MS + 60_000, NOW_MS, NOW_MS + 60_000),
        (NOW_MS + 60_001, NOW_MS, NOW_MS),  # nobody receives what was logged before
        (NOW_MS + 60_001, -1, NOW_MS + 60_001),
        (None, None, NO_TIME),
        (None, -1, NO_TIME),
    ],
)
def test_received_is_the_field_or_the_log_time_or_nothing(
    received_ms: int | None, log_time_ms: int | None, expected: int
) -> None:
    result = decoded(line(received_ms=received_ms), log_time_ms=log_time_ms)
    assert only_row(result.batch)["received_ms"] == expected


def test_log_times_stay_with_their_records() -> None:
    values = [line(received_ms=None), b"bad", line(received_ms=None)]
    batch = decode(values, np.array([7, 8, 9]), np.array([NOW_MS + 1, NOW_MS + 2, NOW_MS + 3])).batch
    assert batch.offset.tolist() == [7, 9]
    assert batch.received_ms.tolist() == [NOW_MS + 1, NOW_MS + 3]


@pytest.mark.parametrize(
    ("count", "numbers", "recipients", "inconsistent"),
    [
        (3, ["1", "2", "3"], 3, 0),
        (5, ["1", "2"], 5, 1),
        (1, ["1", "2"], 1, 1),
        (None, ["1", "2"], 2, 0),
        (None, None, 1, 0),
        (None, [], 1, 0),
        (7, [], 7, 0),
        (7, None, 7, 0),
        (1_000_000, None, 1_000_000, 0),
    ],
)
def test_recipients_are_counted(
    count: int | None, numbers: list[str] | None, recipients: int, inconsistent: int
) -> None:
    result = decoded(line(recipient_count=count, recipients=numbers))
    assert only_row(result.batch)["recipients"] == recipients
    assert result.inconsistent == inconsistent


@pytest.mark.parametrize(
    ("changes", "segments"),
    [
        ({"segment_count": 3}, 3),
        ({"segment_count": None}, 1),
        ({"segment_count": ...}, 1),
        ({"segment_count": 3, "udh_ref": 7}, 1),
        ({"segment_count": 3, "udh_total": 3}, 1),
        ({"segment_count": 3, "udh_seq": 1}, 1),
        ({"segment_count": 3, "pk_total": 3}, 3),
    ],
)
def test_segments(changes: dict[str, Any], segments: int) -> None:
    assert only_row(decoded(line(**changes)).batch)["segments"] == segments


@pytest.mark.parametrize(
    ("changes", "is_part"),
    [
        ({"udh_total": 2}, True),
        ({"udh_total": 1}, False),
        ({"pk_total": 2}, True),
        ({"pk_total": 1}, False),
        ({"pk_total": 0}, False),
        ({"udh_total": 3, "pk_total": 1}, True),
        ({"udh_total": 1, "pk_total": 3}, False),
        ({"udh_ref": 9, "udh_seq": 1}, False),
    ],
)
def test_a_part_of_a_long_message_has_no_text(changes: dict[str, Any], is_part: bool) -> None:
    whole = submit()["text"]
    assert only_row(decoded(line(**changes)).batch)["text"] == (None if is_part else whole)
    raw = {"text": ..., "content_hex": "41", "message_format": 0}
    assert only_row(decoded(line(**changes, **raw)).batch)["text"] == (None if is_part else "A")


@pytest.mark.parametrize(
    ("content_hex", "message_format", "text", "counted"),
    [
        ("48656c6C6F", 0, "Hello", None),
        ("e9", 0, None, "undecodable"),
        ("3010963f91cc3011d83dde00", 8, "【阿里】😀", None),
        ("3010d83d", 8, None, "undecodable"),
        ("301096", 8, None, "undecodable"),
        ("【工行】".encode("gb18030").hex(), 15, "【工行】", None),
        ("ffff", 15, None, "undecodable"),
        ("0102", 4, None, None),
        ("0102", 246, None, None),
        ("0102", None, None, None),
        ("4", 0, None, "dropped"),
        ("zz", 0, None, "dropped"),
        ("41 42", 0, None, "dropped"),
        ("４１", 0, None, "dropped"),
        ("41" * 4000, 0, "A" * 4000, None),
        ("41" * 4001, 0, None, "dropped"),
    ],
)
def test_raw_content_is_decoded_by_its_format(
    content_hex: str, message_format: int | None, text: str | None, counted: str | None
) -> None:
    result = decoded(line(text=..., content_hex=content_hex, message_format=message_format))
    assert only_row(result.batch)["text"] == text
    assert result.undecodable == (counted == "undecodable")
    assert result.dropped == Counter(["content_hex"] if counted == "dropped" else [])


def test_text_wins_over_raw_content() -> None:
    row = only_row(decoded(line(text="given", content_hex="41", message_format=0)).batch)
    assert row["text"] == "given"


def test_a_text_of_4000_characters_is_kept() -> None:
    assert only_row(decoded(line(text="字" * 4000)).batch)["text"] == "字" * 4000


@pytest.mark.parametrize(("retry_of", "is_retry"), [("gw01-0", True), (None, False)])
def test_retries(retry_of: str | None, is_retry: bool) -> None:
    assert only_row(decoded(line(retry_of=retry_of)).batch)["is_retry"] is is_retry


# --- blocks


def test_a_block_of_lines_shares_its_offset_and_log_time() -> None:
    block = b"\n".join(
        [line(event_id="a", received_ms=None), b"", line(event_id="b"), b" \r", b"bad\r", BOM + line(event_id="c"), b""]
    )
    values = [line(event_id="first"), block, line(event_id="last")]
    result = decode(values, np.array([7, 8, 9]), np.array([NOW_MS, NOW_MS + 1, NOW_MS + 2]), {1: NDJSON})
    assert result.batch.offset.tolist() == [7, 8, 8, 8, 9]
    assert result.batch.event_id.tolist() == hash_event_ids(["first", "a", "b", "c", "last"]).tolist()
    assert result.batch.received_ms[1] == NOW_MS + 1
    [reject] = result.rejects
    assert (reject.index, reject.offset, reject.line, reject.value) == (1, 8, 5, b"bad\r")
    assert result.submits_in == 6


@pytest.mark.parametrize("content_type", [NDJSON, b"Application/X-NDJSON; charset=utf-8", b" application/x-ndjson ;"])
def test_content_types_are_media_types(content_type: bytes) -> None:
    assert len(decoded(line() + b"\n" + line(), content_types={0: content_type}).batch) == 2


@pytest.mark.parametrize(
    "content_type", [b"application/json", b"application/json; charset=utf-8", b"text/plain", b"\xff"]
)
def test_any_other_content_type_is_json(content_type: bytes) -> None:
    result = decoded(line(), line() + b"\n" + line(), content_types={0: content_type, 1: content_type})
    assert len(result.batch) == 1
    assert [r.reason for r in result.rejects] == [RejectReason.NOT_JSON]


@pytest.mark.parametrize("block", [None, b"", b"\n \n"])
@pytest.mark.parametrize("content_type", [NDJSON, ARROW_STREAM])
def test_a_block_without_a_line_is_one_reject(block: bytes | None, content_type: bytes) -> None:
    if block and content_type == ARROW_STREAM:
        block = arrow([], names=["event_id", "event_time_ms", "access_port"])
    result = decoded(line(), block, line(), content_types={1: content_type})
    assert result.submits_in == 3
    [reject] = result.rejects
    assert (reject.index, reject.line, reject.reason, reject.value) == (1, None, RejectReason.EMPTY, block)


def test_a_block_may_be_larger_than_a_record_but_its_lines_may_not() -> None:
    block = b"\n".join([*[line()] * 300, line(padding="x" * MAX_RECORD_BYTES), line()])
    assert len(block) > 2 * MAX_RECORD_BYTES
    result = decoded(block, content_types={0: NDJSON})
    assert len(result.batch) == 301
    assert [(r.line, r.reason) for r in result.rejects] == [(301, RejectReason.TOO_LARGE)]


def test_rejects_of_lines_and_blocks_are_in_arrival_order() -> None:
    result = decoded(b"bad", b"bad\nbad", b"", b"bad", content_types={1: NDJSON, 2: NDJSON})
    assert [(r.index, r.line) for r in result.rejects] == [(0, None), (1, 1), (1, 2), (2, None), (3, None)]


def arrow(
    rows: list[dict[str, Any]],
    names: list[str] | None = None,
    schema: pa.Schema | None = None,
    compression: str | None = None,
) -> bytes:
    table = (
        pa.Table.from_pylist(rows, schema=schema)
        if rows
        else pa.table({name: pa.array([], pa.string()) for name in names or []})
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table, max_chunksize=2)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def coded(compression: str | None = None) -> bytes:
    """A block with a column of nobody's that has a dictionary."""
    schema = pa.schema([*pa.Table.from_pylist([submit()]).schema, ("later", pa.dictionary(pa.int8(), pa.string()))])
    return arrow([submit() | {"later": "x" * 200}], schema=schema, compression=compression)


CODED_BLOCK = coded("zstd")


def test_rows_of_an_arrow_block_are_submits_like_lines_of_json() -> None:
    rows = [
        submit(event_id="a"),
        submit(event_id="b", text=None),
        submit(event_id="c", access_port="x"),
        submit(event_id="d", account=""),
    ]
    result = decoded(arrow([row | {"later": 1.5} for row in rows]), content_types={0: ARROW_STREAM})
    expected = decoded(b"\n".join(map(msgspec.json.encode, rows)), content_types={0: NDJSON})
    assert same(result.batch, expected.batch)
    assert result.dropped == expected.dropped == Counter(["account"])
    assert result.rejects == expected.rejects
    assert [(r.line, r.reason) for r in result.rejects] == [(3, RejectReason.BAD_PORT)]
    assert result.submits_in == 4


def test_arrow_types_of_polars_and_pandas_are_understood() -> None:
    schema = pa.schema(
        [
            ("event_id", pa.large_string()),
            ("event_time_ms", pa.uint64()),
            ("access_port", pa.string()),
            ("recipients", pa.large_list(pa.large_string())),
            ("recipient_count", pa.int8()),
            ("account", pa.null()),
        ]
    )
    row = {
        "event_id": "a",
        "event_time_ms": NOW_MS,
        "access_port": "106",
        "recipients": ["1", "2"],
        "recipient_count": 2,
    }
    result = decoded(arrow([row], schema=schema), content_types={0: ARROW_STREAM})
    assert only_row(result.batch)["recipients"] == 2
    assert result.inconsistent == 0


@pytest.mark.parametrize(
    "block",
    [
        b"hello",
        line(),
        arrow([submit()])[:-200],
        arrow([submit(event_time_ms=1.5)]),
        arrow([{"text": "x"}], schema=pa.schema([("text", pa.dictionary(pa.int8(), pa.string()))])),
        arrow([{"text": "x"}], schema=pa.schema([("text", pa.string_view())])),
        arrow([submit()] * (codec.MAX_LINES + 1)),
        arrow([submit()], compression="zstd"),
        arrow([submit()], compression="lz4"),
        CODED_BLOCK,
    ],
    ids=[
        "text",
        "JSON",
        "cut short",
        "float",
        "dictionary",
        "view",
        "too many rows",
        "zstd",
        "lz4",
        "packed dictionary",
    ],
)
def test_a_bad_arrow_block_is_one_reject(block: bytes) -> None:
    result = decoded(line(), block, line(), content_types={1: ARROW_STREAM})
    assert len(result.batch) == 2
    [reject] = result.rejects
    assert (reject.index, reject.reason, reject.value) == (1, RejectReason.BAD_ARROW, block)


def test_a_dictionary_in_an_unknown_column_is_nobodys_business() -> None:
    assert len(decoded(coded(), content_types={0: ARROW_STREAM}).batch) == 1


@pytest.mark.parametrize("columns", [{"text": pa.nulls(9)}, {"event_id": pa.nulls(9), "text": pa.array(["x"] * 9)}])
def test_an_arrow_block_whose_rows_can_only_be_bad_is_one_reject(columns: dict[str, pa.Array]) -> None:
    table, sink = pa.table(columns), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    reject = only_reject(decoded(sink.getvalue().to_pybytes(), content_types={0: ARROW_STREAM}))
    assert (reject.line, reject.reason) == (None, RejectReason.MISSING_FIELD)
    assert reject.detail == "access_port, event_id, event_time_ms"


def test_a_block_of_too_many_lines_is_one_reject(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "MAX_LINES", 3)
    most, more = (b"\n".join([line()] * lines) for lines in (3, 4))
    result = decoded(most, more, content_types={0: NDJSON, 1: NDJSON})
    assert len(result.batch) == 3
    assert [(r.index, r.line, r.reason) for r in result.rejects] == [(1, None, RejectReason.TOO_LARGE)]


def test_of_duplicate_arrow_columns_the_last_wins() -> None:
    columns = {"event_id": ["a"], "event_time_ms": [NOW_MS], "access_port": ["106"]}
    table = pa.Table.from_arrays(
        [*map(pa.array, columns.values()), pa.array(["b"])], names=[*columns.keys(), "event_id"]
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    result = decoded(sink.getvalue().to_pybytes(), content_types={0: ARROW_STREAM})
    assert result.batch.event_id.tolist() == hash_event_ids(["b"]).tolist()


def test_arrow_strings_that_are_not_utf8_are_a_bad_block() -> None:
    text = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")])
    required = {name: pa.array([submit()[name]]) for name in ("event_id", "event_time_ms", "access_port")}
    batch = pa.record_batch({**required, "text": text})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    reject = only_reject(decoded(sink.getvalue().to_pybytes(), content_types={0: ARROW_STREAM}))
    assert reject.reason == RejectReason.BAD_ARROW


def test_without_the_arrow_extra_such_blocks_are_rejected_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = decoded(arrow([submit()]), line(), content_types={0: ARROW_STREAM})
    assert [(r.index, r.reason) for r in result.rejects] == [(0, RejectReason.ARROW_UNSUPPORTED)]
    assert len(result.batch) == 1


# --- event ids


def test_hashes_are_the_same_for_ever() -> None:
    known = {
        "a": 0x17443F5EC8CE2E43,
        "gw01-20261124-000000000001": 0x7AB9DF77BDB3819D,
        "x" * 64: 0xEB5B6A17C8AEB90F,
        "号" * 64: 0xD1AB1AB443DE7820,
        "a\0": 0xD3A4FE26606C88E6,
    }
    assert hash_event_ids(list(known)).tolist() == list(known.values())


def test_a_hash_does_not_depend_on_its_neighbours() -> None:
    ids = ["a", "abcdefgh", "abcdefghi", "x" * 64, "号" * 64, "a\0", "\0", "\0" * 9]
    assert hash_event_ids(ids).tolist() == [hash_event_ids([one]).item() for one in ids]
    assert len(set(hash_event_ids(ids).tolist())) == len(ids)


def test_a_hash_is_never_zero() -> None:
    assert hash_event_ids([""]).tolist() == [1]
    assert hash_event_ids([]).tolist() == []


@pytest.mark.parametrize(
    "shape",
    [
        "gw01-20261124-{i:012d}",
        "{a:04d}xxxx{b:04d}",  # both vary in the last bytes of a word, the weak place of multiplication
        "{b:04d}gggg{a:04d}{b:04d}",
    ],
)
def test_two_million_structured_ids_have_two_million_hashes(shape: str) -> None:
    ids = [shape.format(i=i, a=i // 1500, b=i % 1500) for i in range(2_000_000)]
    assert len(np.unique(hash_event_ids(ids))) == 2_000_000


@pytest.mark.parametrize("place", [0, 7, 8, 19, 31])
def test_every_bit_of_an_id_moves_every_bit_of_its_hash_half_of_the_time(place: int) -> None:
    ids = [f"{i:032x}" for i in range(4000)]
    for bit in range(4):
        changed = [i[:place] + chr(ord(i[place]) ^ 1 << bit) + i[place + 1 :] for i in ids]
        flips = hash_event_ids(ids) ^ hash_event_ids(changed)
        rates = np.unpackbits(flips.view(np.uint8).reshape(-1, 8), axis=1).mean(axis=0)
        # 64 rates of 4,000 fair coins: 5 standard deviations are 0.0395
        assert np.abs(rates - 0.5).max() < 0.0395


# --- laws

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=70)  # lone surrogates too
VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | ANY_TEXT
    | st.lists(st.text(alphabet="0123456789", min_size=1, max_size=12) | st.integers(), max_size=4)
    | st.sampled_from(["", "1039", "mobile", "41", "zz", 8, 2, NOW_MS, "10690010", "１", "a" * 300, "1" * 15])
)


def submits(names: list[str], values: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    """Submits of which a few fields have been changed; each name once."""
    changes = st.dictionaries(st.sampled_from(names), values, max_size=4)
    return st.builds(
        lambda changed, ascii_only: json.dumps(submit() | changed, ensure_ascii=ascii_only).encode(
            "utf-8", "surrogatepass"
        ),
        changes,
        st.booleans(),
    )


SUBMITS = submits([*Submit.__struct_fields__, "later"], VALUES | st.floats())


ARROW_BLOCKS = st.sampled_from([arrow([submit(event_id=name) for name in "abc"]), coded(), CODED_BLOCK])


@st.composite
def mutated(draw: st.DrawFn, records: st.SearchStrategy[bytes]) -> bytes:
    """A record with a few bytes replaced, inserted or cut."""
    record = bytearray(draw(records))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(record)))
        record[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(record)


RECORDS = st.lists(
    st.none()
    | st.binary(max_size=40)
    | SUBMITS
    | mutated(SUBMITS)
    | mutated(ARROW_BLOCKS)
    | st.sampled_from([b"\n" * 9, b"bad\n" * 9]),
    max_size=12,
)
CONTENT_TYPES = st.dictionaries(
    st.integers(0, 11), st.sampled_from([NDJSON, ARROW_STREAM, b"application/json"]), max_size=4
)


@given(values=RECORDS, content_types=CONTENT_TYPES)
@example(values=[line(), None, b"bad", line()], content_types={})
@settings(max_examples=500, deadline=None)
def test_decode_never_raises_and_loses_nothing(values: list[bytes | None], content_types: dict[int, bytes]) -> None:
    result = decoded(*values, content_types=content_types)
    assert len(result.batch) + len(result.rejects) == result.submits_in
    assert result.submits_in >= len(values)
    for f in fields(SubmitBatch):
        if f.name != "floor_ms":
            assert len(getattr(result.batch, f.name)) == len(result.batch)
    assert (result.batch.recipients >= 1).all()
    assert (result.batch.segments >= 1).all()
    assert "\ud800" not in "".join(t or "" for t in result.batch.text)


@given(values=RECORDS, content_types=CONTENT_TYPES)
@settings(max_examples=300, deadline=None)
def test_a_batch_is_the_sum_of_its_records(values: list[bytes | None], content_types: dict[int, bytes]) -> None:
    together = decoded(*values, content_types=content_types)
    alone = [
        decode([value], np.array([100 + i]), None, {0: content_types[i]} if i in content_types else {})
        for i, value in enumerate(values)
    ]
    for f in fields(SubmitBatch):
        if f.name != "floor_ms":
            assert list(getattr(together.batch, f.name)) == [x for one in alone for x in getattr(one.batch, f.name)]
    assert [(r.offset, r.line, r.reason, r.detail, r.value) for r in together.rejects] == [
        (r.offset, r.line, r.reason, r.detail, r.value) for one in alone for r in one.rejects
    ]
    assert together.dropped == sum((one.dropped for one in alone), Counter())
    assert together.inconsistent == sum(one.inconsistent for one in alone)
    assert together.undecodable == sum(one.undecodable for one in alone)


@given(values=RECORDS, content_types=CONTENT_TYPES, most=st.integers(1, 12))
@settings(max_examples=300, deadline=None)
def test_pieces_are_the_whole_and_none_is_too_large(
    values: list[bytes | None], content_types: dict[int, bytes], most: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec, "MAX_LINES", most)
        ends = cuts(values, content_types)
        pieces = [
            decoded(*values[a:b], content_types={i - a: name for i, name in content_types.items() if a <= i < b})
            for a, b in pairwise(ends)
        ]
        whole = decoded(*values, content_types=content_types)
    assert (ends[0], ends[-1]) == (0, len(values))
    assert all(a < b for a, b in pairwise(ends)) or ends == [0, 0]
    assert sum(piece.submits_in for piece in pieces) == whole.submits_in
    assert [r.reason for piece in pieces for r in piece.rejects] == [r.reason for r in whole.rejects]
    assert max(piece.submits_in for piece in pieces) <= most


@given(record=SUBMITS)
@settings(max_examples=500, deadline=None)
def test_the_second_look_sees_what_the_first_does(record: bytes) -> None:
    """What the typed decoder takes is the same field by field; what it refuses is refused or has something dropped."""
    look = codec._second_look(record)
    try:
        first = msgspec.json.decode(record, type=JudgedFields)
    except ValueError:
        assert isinstance(look, codec._Refusal) or look.dropped
    else:
        assert not isinstance(look, codec._Refusal)
        assert (look.submit, look.dropped) == (first, [])


SCHEMA = jsonschema.Draft202012Validator(msgspec.json.schema(Submit))


@given(record=submits([n for n in JudgedFields.__struct_fields__ if n != "content_hex"], VALUES))
@settings(max_examples=500, deadline=None)
def test_the_codec_takes_whole_what_the_schema_allows(record: bytes) -> None:
    """But for the sum of two lengths, which JSON Schema has no word for."""
    try:
        value = json.loads(record.decode())
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeError:
        return
    result = decoded(record)
    too_long = isinstance(value["extension"], str) and len(str(value["access_port"]) + value["extension"]) > 20
    ends_in_newline = any(isinstance(v, str) and v.endswith("\n") for v in value.values())  # `$` is laxer in Python
    assert (len(result.batch) == 1 and not result.dropped) == SCHEMA.is_valid(value) or too_long or ends_in_newline


@pytest.mark.parametrize("n", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 3])
def test_chunks_leave_no_seam(n: int) -> None:
    values = [line(event_id=str(i)) if i % 7 else b"bad" for i in range(n)]
    result = decoded(*values)
    good = [i for i in range(n) if i % 7]
    assert result.batch.offset.tolist() == [100 + i for i in good]
    assert result.batch.event_id.tolist() == hash_event_ids([str(i) for i in good]).tolist()
    assert [r.index for r in result.rejects] == [i for i in range(n) if not i % 7]


# --- the types around it


def test_a_dead_letter_says_where_it_comes_from() -> None:
    result = decoded(line(), line() + b"\nbad", content_types={1: NDJSON})
    letter = DeadLetter.of(result.rejects[0], topic="sms.submit.v1", partition=3, timestamp_ms=NOW_MS)
    assert letter.headers == {
        "dlq.reason": b"not-json",
        "dlq.error": b"JSON is malformed: invalid character (byte 0)",
        "dlq.original.topic": b"sms.submit.v1",
        "dlq.original.partition": b"3",
        "dlq.original.offset": b"101",
        "dlq.original.timestamp": str(NOW_MS).encode(),
        "dlq.original.line": b"2",
    }
    assert json.loads(msgspec.json.encode(letter)) == {
        "reason": "not-json",
        "error": "JSON is malformed: invalid character (byte 0)",
        "topic": "sms.submit.v1",
        "partition": 3,
        "offset": 101,
        "timestamp_ms": NOW_MS,
        "line": 2,
        "value": "bad",
    }


@pytest.mark.parametrize("value", [None, b"", b"bad", "坏".encode(), b"\xff\x00", BOM + b"x"])
def test_the_bytes_of_a_dead_letter_survive_its_line(value: bytes | None) -> None:
    letter = DeadLetter.of(only_reject(decoded(value)), topic="submits.jsonl", partition=0)
    assert letter.original == value
    assert msgspec.json.decode(msgspec.json.encode(letter), type=DeadLetter) == letter
    assert letter.headers.keys() == {
        "dlq.reason",
        "dlq.error",
        "dlq.original.topic",
        "dlq.original.partition",
        "dlq.original.offset",
    }


def test_every_field_on_the_wire_is_described() -> None:
    for kind in (Submit, DeadLetter):
        properties = msgspec.json.schema(kind)["$defs"][kind.__name__]["properties"]
        assert [name for name, schema in properties.items() if not schema.get("description")] == []
