"""Files into records: lines of a file that grows, Kannel's access log, JSONL, and playing at a speed. No Kafka here."""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.contract import Submit
from streams.feeds.jsonl import SubmitLines
from streams.feeds.kannel import AccessLog, Entry, gsm7_segments, parse
from streams.feeds.lines import LONGEST_LINE_BYTES, Lines, Piece, pieces
from streams.feeds.playback import Playback

KANNEL = Path(__file__).parent.parent / "data" / "kannel"
PORTS = ("1069", "10690010")
START = b"2026-11-24 19:20:05 Sent SMS [SMSC:gw] [SVC:acme] "


def sent(  # one line as bearerbox 1.4.5 writes it, but for its escaping of unprintable bytes
    content: bytes = b"hi",
    *,
    time: bytes = b"2026-11-24 19:20:05",
    event: bytes = b"Sent SMS",
    account: bytes = b"acme",
    meta: bytes = b"",
    sender: bytes = b"10690010103909",
    recipient: bytes = b"13800138000",
    coding: int = 0,
    udh: bytes = b"",
) -> bytes:
    body = content.hex().upper().encode() if coding in {1, 2} else content
    return (
        b"%s %s [SMSC:gw] [SVC:%s] [ACT:] [BINF:] [FID:] [META:%s] [from:%s] [to:%s] [flags:-1:%d:-1:-1:-1] "
        b"[msg:%d:%s] [udh:%d:%s]"
    ) % (
        time,
        event,
        account,
        meta,
        sender,
        recipient,
        coding,
        len(content),
        body,
        len(udh),
        udh.hex().upper().encode(),
    )


def submits(log: AccessLog, *lines: bytes, now_ms: int | None = None) -> list[dict[str, Any]]:
    records = map(json.loads, (record.value for record in log.records(lines, now_ms)))
    return [{name: told for name, told in record.items() if told is not None} for record in records]


def one(line: bytes, **options: Any) -> dict[str, Any]:
    (submit,) = submits(AccessLog(ports=PORTS, **options), line)
    return submit


# --- Kannel ---


def test_a_log_that_kannel_wrote_becomes_exactly_these_submits() -> None:
    log = AccessLog(ports=PORTS, gateway_id="gz-1")
    records = log.records((KANNEL / "access.log").read_bytes().splitlines(), None)
    log.end()
    assert [record.value for record in records] == (KANNEL / "expected.jsonl").read_bytes().splitlines()
    assert log.skipped == {"Log begins": 1, "DISCARDED SMS": 1, "Receive DLR": 2}


def test_what_is_expected_of_that_log_is_what_the_contract_takes() -> None:
    lines = (KANNEL / "expected.jsonl").read_bytes().splitlines()
    decoded = [msgspec.json.decode(line, type=Submit) for line in lines]
    named = {name for line in lines for name in json.loads(line)}
    assert named <= {field.name for field in msgspec.structs.fields(Submit)}
    assert len({submit.event_id for submit in decoded}) == len(decoded)


def test_a_submit_says_when_on_which_link_for_whom() -> None:
    log = AccessLog(ports=PORTS)
    (record,) = log.records([sent(b"code 1234")], None)
    time_ms = int(datetime(2026, 11, 24, 11, 20, 5, tzinfo=UTC).timestamp()) * 1000
    assert (record.key, record.event_time_ms) == (b"10690010", time_ms)
    (submit,) = submits(AccessLog(ports=PORTS), sent(b"code 1234"))
    assert len(submit.pop("event_id")) == 32
    assert submit == {
        "event_time_ms": time_ms,
        "received_ms": time_ms,
        "access_port": "10690010",
        "extension": "103909",
        "account": "acme",
        "gateway_id": "gw",
        "link_id": "gw",
        "protocol": "log",
        "recipients": ["13800138000"],
        "submit_result": "accepted",
        "message_format": 0,
        "text": "code 1234",
        "segment_count": 1,
    }


@pytest.mark.parametrize(
    ("timezone", "local", "utc"),
    [
        ("Asia/Shanghai", b"2026-11-24 00:00:00", "2026-11-23T16:00:00"),
        ("UTC", b"2026-11-24 00:00:00", "2026-11-24T00:00:00"),
        ("Europe/Berlin", b"2026-10-25 02:30:00", "2026-10-25T00:30:00"),  # twice that night: the first is taken
        ("Europe/Berlin", b"2026-10-25 03:30:00", "2026-10-25T02:30:00"),
    ],
)
def test_local_time_is_read_in_the_gateways_zone(timezone: str, local: bytes, utc: str) -> None:
    expected = int(datetime.fromisoformat(utc).replace(tzinfo=UTC).timestamp()) * 1000
    assert one(sent(time=local), timezone=timezone)["event_time_ms"] == expected


@pytest.mark.parametrize("name", ["Asia/Peking", "Asia", "", "../etc/passwd"])
def test_an_unknown_zone_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"timezone: '{name}': allowed is an IANA name"):
        AccessLog(timezone=name)


def test_a_line_read_as_it_is_written_is_dated_by_us_and_an_old_one_by_itself() -> None:
    assert submits(AccessLog(), sent(), now_ms=1_800_000_000_000)[0]["received_ms"] == 1_800_000_000_000
    old = submits(AccessLog(), sent())[0]
    assert old["received_ms"] == old["event_time_ms"]


@pytest.mark.parametrize(
    ("sender", "port", "extension"),
    [
        (b"10690010103909", "10690010", "103909"),
        (b"10690010", "10690010", None),
        (b"1069001", "1069", "001"),
        (b"+10690010", "10690010", None),
        (b"95599", "95599", None),  # of no lease: the whole number
        (b"Acme", "Acme", None),  # no number at all: the dead letters will hold it
    ],
)
def test_the_longest_main_port_that_a_number_begins_with_is_its_access_port(
    sender: bytes, port: str, extension: str | None
) -> None:
    submit = one(sent(sender=sender))
    assert (submit["access_port"], submit.get("extension")) == (port, extension)


@pytest.mark.parametrize(
    ("event", "result"),
    [(b"Sent SMS", "accepted"), (b"FAILED Send SMS", "rejected"), (b"REJECTED Send SMS", "rejected")],
)
def test_a_refused_submit_is_a_submit(event: bytes, result: str) -> None:
    assert one(sent(event=event))["submit_result"] == result


def test_what_is_no_submit_is_counted_by_its_kind() -> None:
    log = AccessLog()
    lines = [
        b"2026-11-24 19:20:05 Log begins",
        *(sent(event=event) for event in (b"DISCARDED SMS", b"Receive SMS", b"Receive SMS", b"Receive DLR")),
        sent(event=b"Of another Kannel"),
        sent(event=b"Not \xff UTF-8"),
    ]
    assert submits(log, *lines) == []
    counted = {"Log begins": 1, "DISCARDED SMS": 1, "Receive SMS": 2, "Receive DLR": 1, "unknown event": 2}
    assert log.skipped == counted


@pytest.mark.parametrize(
    ("content", "coding", "told"),
    [
        ("【某某】码".encode("utf-16-be"), 2, {"message_format": 8, "text": "【某某】码"}),
        (b"\xde\x00\x30\x10", 2, {"message_format": 8, "content_hex": "de003010"}),  # begins inside a character
        (b"odd", 2, {"message_format": 8, "content_hex": "6f6464"}),
        (b"\x00\xff", 1, {"message_format": 4, "content_hex": "00ff"}),
        (b"plain", 0, {"message_format": 0, "text": "plain"}),
        (b"plain", -1, {"message_format": 0, "text": "plain"}),
        (b"latin \xe9", 0, {"message_format": 0, "text": "latin �"}),
        (b"", 0, {"message_format": 0}),
    ],
)
def test_the_content_is_text_where_it_is_text(content: bytes, coding: int, told: dict[str, Any]) -> None:
    submit = one(sent(content, coding=coding))
    assert {name: submit[name] for name in ("message_format", "text", "content_hex") if name in submit} == told


@pytest.mark.parametrize(
    ("content", "coding", "segments"),
    [
        (b"x" * 160, 0, 1),
        (b"x" * 161, 0, 2),
        (b"x" * 306, 0, 2),
        (b"x" * 307, 0, 3),
        (b"[" * 80, 0, 1),
        (b"[" * 81, 0, 2),
        (b"[" * 153, 0, 3),  # 76 to a part: an escape is not cut from its character
        (("长" * 70).encode("utf-16-be"), 2, 1),
        (("长" * 71).encode("utf-16-be"), 2, 2),
        (("长" * 134).encode("utf-16-be"), 2, 2),
        (("长" * 135).encode("utf-16-be"), 2, 3),
        (b"\0" * 140, 1, 1),
        (b"\0" * 141, 1, 2),
    ],
)
def test_segments_are_counted_since_the_log_has_one_line_for_all(content: bytes, coding: int, segments: int) -> None:
    assert one(sent(content, coding=coding))["segment_count"] == segments


@pytest.mark.parametrize(
    ("udh", "told"),
    [
        ("0500031e0201", {"udh_ref": 0x1E, "udh_total": 2, "udh_seq": 1}),
        ("060804012c0302", {"udh_ref": 0x12C, "udh_total": 3, "udh_seq": 2}),
        # From the tests of SMSGate: the concatenation stands among other elements.
        ("0b0003870301050401020304", {"udh_ref": 0x87, "udh_total": 3, "udh_seq": 1}),
        ("0c080400870301050401020304", {"udh_ref": 0x87, "udh_total": 3, "udh_seq": 1}),
        ("06050415811581", {}),  # a port address only
        ("05000302", {}),  # cut short
        ("", {}),
    ],
)
def test_a_part_says_which_it_is(udh: str, told: dict[str, int]) -> None:
    submit = one(sent(b"x" * 200, coding=1, udh=bytes.fromhex(udh)))
    assert {name: value for name, value in submit.items() if name.startswith("udh_")} == told
    assert submit["segment_count"] == (1 if told else 2)


def test_the_same_log_again_has_the_same_ids_and_a_repeated_line_its_own() -> None:
    lines = [sent(), sent(), sent(time=b"2026-11-24 19:20:06"), sent(), sent(b"other")]
    first, again = (submits(AccessLog(gateway_id="a"), *lines) for _ in range(2))
    elsewhere = submits(AccessLog(gateway_id="b"), *lines)
    ids = [submit["event_id"] for submit in first]
    assert [submit["event_id"] for submit in again] == ids
    assert len(set(ids)) == len(ids)
    assert not set(ids) & {submit["event_id"] for submit in elsewhere}


def test_ids_do_not_hang_on_how_the_log_was_cut() -> None:
    lines = (KANNEL / "access.log").read_bytes().splitlines()
    log = AccessLog(ports=PORTS, gateway_id="gz-1")
    cut = [record.value for line in lines for record in log.records([line], None)]
    assert cut == (KANNEL / "expected.jsonl").read_bytes().splitlines()


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"\xff\xfe",
        b"no time at all",
        START,
        sent()[:-1],
        sent() + b"x",
        sent(b"text").replace(b"[msg:4:", b"[msg:3:"),
        sent(b"text").replace(b"[msg:4:", b"[msg:99999:"),
        sent(time=b"2026-13-01 00:00:00"),
        sent(time=b"0000-00-00 00:00:00"),
        sent(b"ab", coding=2).replace(b"6162", b"61 z"),
        sent().replace(b"[from:", b"[form:"),
    ],
)
def test_a_broken_line_costs_itself_only(broken: bytes) -> None:
    log = AccessLog()
    records = [*log.records([sent(b"before"), broken, sent(b"after")], None), *log.end()]
    assert [json.loads(record.value)["text"] for record in records] == ["before", "after"]
    assert log.skipped == {"broken line": 1}


def test_a_log_that_ends_inside_a_record_counts_it_as_broken() -> None:
    log = AccessLog()
    assert submits(log, START) == []
    log.end()
    assert log.skipped == {"broken line": 1}


@pytest.mark.parametrize(
    "line",
    [
        sent(b"] [udh:0:] [msg:5:hello] [udh:0:]"),
        sent(sender=b"1] [to:2] [flags:-1:0:-1:-1:-1] [msg:9:"),
        sent(meta=b"] [from:1] [to:2] [flags:-1:0:-1:-1:-1] [msg:3:"),
        sent(meta=b"[from:[to:[flags:[msg:[udh:" * 1000),
    ],
)
def test_fields_full_of_brackets_can_not_hide_a_submit(line: bytes) -> None:
    assert one(line)["account"] == "acme"


def test_a_record_that_a_sender_broke_with_line_ends_is_put_together() -> None:
    broken = sent(b"text", sender=b"1069\n\n0010")
    log = AccessLog()
    texts = [submit["text"] for submit in submits(log, *broken.split(b"\n"), sent(b"next"))]
    assert texts == ["text", "next"]
    assert not log.skipped


HOSTILE = st.one_of(
    st.binary(max_size=60),
    st.lists(
        st.sampled_from(
            [b"\n", b"]", b" [", b"[from:1] [to:2] ", b"] [flags:-1:0:-1:-1:-1] [msg:3:", b"] [udh:0:]", b"x", sent()]
        ),
        max_size=6,
    ).map(b"".join),
)


@given(st.lists(st.one_of(st.binary(max_size=80), HOSTILE, st.just(START), HOSTILE.map(sent))))
def test_no_bytes_make_it_fall_over_and_every_record_is_json(lines: list[bytes]) -> None:
    log = AccessLog(ports=PORTS)
    for line in lines:
        for record in log.records([line], None):
            assert json.loads(record.value)["event_id"]
    log.end()
    assert all(count > 0 for count in log.skipped.values())


@given(content=HOSTILE, coding=st.sampled_from([0, 1, 2]), udh=st.binary(max_size=12))
def test_what_kannel_formats_is_what_we_read(content: bytes, coding: int, udh: bytes) -> None:
    line = sent(content, coding=coding, udh=udh)
    body = content.hex().upper().encode() if coding else content
    assert parse(line) == Entry(
        b"2026-11-24 19:20:05",
        b"Sent SMS",
        b"gw",
        b"acme",
        b"10690010103909",
        b"13800138000",
        coding,
        body,
        udh.hex().upper().encode(),
    )


# A text may be anything but a line that is a record as a whole: such a one is taken at its word.
@given(st.lists(HOSTILE.filter(lambda text: b"]\n" not in text and text.count(b"\n") < 16), min_size=1, max_size=5))
def test_texts_of_several_lines_come_back_whole_whatever_they_look_like(contents: list[bytes]) -> None:
    log = AccessLog()
    file = b"\n".join(sent(content) for content in contents)
    texts = [submit.get("text", "") for submit in submits(log, *file.split(b"\n"))]
    assert texts == [content.decode(errors="replace") for content in contents]
    assert not log.skipped


@given(st.text(alphabet="x[€", max_size=700))
def test_segments_of_gsm7_are_the_fewest_that_hold_the_text(text: str) -> None:
    parts = gsm7_segments(text)
    septets = len(text) + text.count("[")
    assert parts == 1 if septets <= 160 else 153 * parts >= septets > 152 * (parts - 1)


# --- JSONL ---


@pytest.mark.parametrize(
    ("line", "key", "time_ms"),
    [
        (b'{"access_port":"10690010","event_time_ms":1795519205000}', b"10690010", 1_795_519_205_000),
        (b' { "event_time_ms" : 5 , "access_port" : "1069" } \r', b"1069", 5),
        (b'\xef\xbb\xbf{"access_port":"1069"}', b"1069", None),
        (b'{"text":"\\"access_port\\":\\"999\\"","x":{"access_port":"9"},"access_port":"1069"}', b"1069", None),
        (b'{"access_port":"1","access_port":"1069"}', b"1069", None),
        (b'{"access_port":"1069","event_time_ms":"soon"}', b"1069", None),
        (b'{"access_port":"1069","event_time_ms":1e400}', b"1069", None),
        (b'{"access_port":"1069","event_time_ms":' + b"9" * 5000 + b"}", b"1069", None),
        (b'{"access_port":"no port"}', b"no port", None),
        (b'{"access_port":1069}', None, None),
        (b'{"event_time_ms":5}', None, None),
        (b'{"access_port":"\\ud800"}', None, None),
        (b'{"access_port":"1069"', None, None),
        (b"[]", None, None),
        (b"\xff", None, None),
    ],
)
def test_a_line_goes_out_as_it_stands_under_its_port(line: bytes, key: bytes | None, time_ms: int | None) -> None:
    assert SubmitLines().records([line], None) == [(key, line, time_ms)]


def test_blank_lines_are_counted_and_left_out() -> None:
    adapter = SubmitLines()
    assert [record.value for record in adapter.records([b"", b" \r", b"{}"], None)] == [b"{}"]
    assert adapter.skipped == {"blank line": 2}


@given(st.binary())
def test_any_bytes_go_out_as_they_are(line: bytes) -> None:
    assert [record.value for record in SubmitLines().records([line], None)] == ([] if line.strip() == b"" else [line])


# --- lines of a file ---


@given(st.lists(st.binary(max_size=20)), st.lists(st.integers(0, 200)))
def test_lines_do_not_hang_on_how_the_bytes_were_cut(parts: list[bytes], cuts: list[int]) -> None:
    data = b"\n".join(parts)
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    lines = Lines()
    cut = [line for start, end in pairwise(places) for line in lines.cut(data[start:end])]
    expected = data.split(b"\n")
    assert [*cut, *lines.end()] == (expected if expected[-1] else expected[:-1])


def test_a_line_that_kafka_can_not_take_is_left_out_in_bounded_memory() -> None:
    lines = Lines()
    piece = b"x" * 700_000
    assert [lines.cut(data) for data in (b"a\n" + piece, piece, piece, b"\nb\n")] == [[b"a"], [], [], [b"b"]]
    assert lines.overlong == 1
    longest = b"y" * LONGEST_LINE_BYTES
    assert lines.cut(longest + b"\n" + longest + b"y\nc\n") == [longest, b"c"]
    assert lines.overlong == 2


class Follower:
    """Follows a file while a test changes it."""

    def __init__(self, path: Path) -> None:
        self.stop = asyncio.Event()
        self.said: list[str] = []
        self.has_said = asyncio.Event()
        self.read: list[Piece] = []
        self._pieces = pieces(path, follow=True, stop=self.stop, say=self._say)

    def _say(self, line: str) -> None:
        self.said.append(line)
        self.has_said.set()

    @property
    def lines(self) -> list[bytes]:
        return [line for piece in self.read for line in piece.lines]

    async def until(self, has_happened: Callable[[], bool]) -> None:
        async def read() -> None:
            async for piece in self._pieces:
                self.read.append(piece)
                if has_happened():
                    return

        if not has_happened():
            await asyncio.wait_for(read(), 10)


@pytest.fixture
async def grown(tmp_path: Path) -> AsyncIterator[tuple[Path, Follower]]:
    path = tmp_path / "log"
    path.write_bytes(b"old 1\nold 2\nha")
    follower = Follower(path)
    await follower.until(lambda: len(follower.lines) == 2)
    yield path, follower
    follower.stop.set()
    await follower._pieces.aclose()


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


async def test_following_waits_for_the_rest_of_a_line_and_knows_what_is_live(grown: tuple[Path, Follower]) -> None:
    path, follower = grown
    assert not any(piece.is_live for piece in follower.read)
    append(path, b"lf\nnew\n")
    await follower.until(lambda: len(follower.lines) == 4)
    assert follower.lines == [b"old 1", b"old 2", b"half", b"new"]
    assert follower.read[-1].is_live


async def test_following_goes_on_in_the_file_that_rotation_brought(grown: tuple[Path, Follower]) -> None:
    path, follower = grown
    old = path.rename(path.with_suffix(".1"))
    append(old, b"lf\nlate\ncut off")  # its writer has not been told yet
    path.write_bytes(b"first\n")
    await follower.until(lambda: b"first" in follower.lines)
    assert follower.lines[2:] == [b"half", b"late", b"cut off", b"first"]
    assert follower.read[-1].is_live


async def test_following_starts_over_in_a_truncated_file(grown: tuple[Path, Follower]) -> None:
    path, follower = grown
    shutil.copy(path, path.with_suffix(".1"))
    os.truncate(path, 0)
    append(path, b"new\n")
    await follower.until(lambda: b"new" in follower.lines)
    assert follower.lines[2:] == [b"ha", b"new"]


async def test_following_waits_for_a_file_to_appear(tmp_path: Path) -> None:
    path = tmp_path / "later"
    follower = Follower(path)
    reading = asyncio.create_task(follower.until(lambda: bool(follower.lines)))
    await follower.has_said.wait()
    path.write_bytes(b"here\n")
    await reading
    assert (follower.said, follower.lines) == ([f"waiting for {path} to appear"], [b"here"])


async def test_a_file_read_once_gives_its_last_line_without_a_line_end(tmp_path: Path) -> None:
    path = tmp_path / "once"
    path.write_bytes(b"1\n2")
    read = [piece async for piece in pieces(path, follow=False, stop=asyncio.Event(), say=print)]
    assert [line for piece in read for line in piece.lines] == [b"1", b"2"]
    assert (read[-1].position, read[-1].size) == (3, 3)
    assert not any(piece.is_live for piece in read)


# --- playing ---


def test_event_time_passes_at_the_speed_that_was_asked_for() -> None:
    playback = Playback(10.0)
    assert playback.wait_s(1_000_000, 50.0) == 0
    assert playback.wait_s(1_020_000, 50.0) == pytest.approx(2.0)
    assert playback.wait_s(1_020_000, 51.5) == pytest.approx(0.5)
    assert playback.wait_s(1_010_000, 52.0) < 0  # late ones are due at once
    assert playback.wait_s(None, 52.0) == 0


def test_a_wrong_clock_does_not_stop_the_playback() -> None:
    playback = Playback(1.0)
    day_ms = 86_400_000
    assert playback.wait_s(100 * day_ms, 0.0) == 0
    assert playback.wait_s(900 * day_ms, 1.0) == 0
    assert playback.wait_s(100 * day_ms + 2_000, 1.0) == 0
    assert playback.wait_s(100 * day_ms + 3_000, 1.0) == pytest.approx(1.0)


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan")])
def test_a_speed_that_is_none_is_refused(speed: float) -> None:
    with pytest.raises(ValueError, match=r"speed: .*: allowed is a number above 0"):
        Playback(speed)
