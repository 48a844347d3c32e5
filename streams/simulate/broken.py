"""Records that a hostile or careless world sends, each with the fate that the contract gives it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from streams.simulate.rhythm import DAY_MS, MINUTE_MS, Ints
from streams.simulate.stage import Window
from streams.simulate.texts import variants
from streams.simulate.world import Port, Row, World

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Break:
    """One way to break a good record. `fate` is what the contract says becomes of the result: rejected, misclocked,
    duplicate, late or counted."""

    fate: str
    make: Callable[[Record], bytes]
    follows_original: bool = False  # the good record goes ahead of it


def _with(**changes: object) -> Callable[[Record], bytes]:
    return lambda record: orjson.dumps({**record, **changes})


def _without(name: str) -> Callable[[Record], bytes]:
    return lambda record: orjson.dumps({key: value for key, value in record.items() if key != name})


def _clock(shift: Callable[[int], int]) -> Callable[[Record], bytes]:
    return lambda record: orjson.dumps({**record, "event_time_ms": shift(record["event_time_ms"])})


def _spoilt_text(raw: bytes) -> Callable[[Record], bytes]:
    return lambda record: orjson.dumps({**record, "text": "@@"}).replace(b"@@", raw)


BREAKS = {
    "bad-json": Break("rejected", lambda record: orjson.dumps(record).replace(b":", b"=", 1)),
    "truncated": Break("rejected", lambda record: orjson.dumps(record)[:-40]),
    "not-an-object": Break("rejected", lambda record: orjson.dumps([record["event_id"], record["access_port"]])),
    "bad-utf8": Break("rejected", _spoilt_text("验证码".encode("gb18030"))),
    "lone-surrogate": Break("rejected", _spoilt_text(b"\\ud83d")),
    "oversized": Break("rejected", _with(padding="x" * 66_000)),
    "time-as-text": Break("rejected", _with(event_time_ms="2026-11-10 09:00:00")),
    "port-as-number": Break("rejected", lambda record: _with(access_port=int(record["access_port"]))(record)),
    "port-with-letter": Break("rejected", lambda record: _with(access_port=record["access_port"][:-1] + "O")(record)),
    "port-missing": Break("rejected", _without("access_port")),
    "seconds": Break("rejected", _clock(lambda at_ms: at_ms // 1000)),
    "year-1970": Break("rejected", _clock(lambda at_ms: at_ms % DAY_MS)),
    "day-ahead": Break("misclocked", _clock(lambda at_ms: at_ms + DAY_MS)),
    "duplicate": Break("duplicate", orjson.dumps, follows_original=True),
    "duplicate-changed": Break("duplicate", _with(recipient_count=7), follows_original=True),
    "late": Break("late", _clock(lambda at_ms: at_ms - 20 * MINUTE_MS)),
    "byte-order-mark": Break("counted", lambda record: b"\xef\xbb\xbf" + orjson.dumps(record)),
    "optional-of-wrong-type": Break("counted", _with(recipient_count="many", province=31)),
    "unknown-field": Break("counted", _with(vendor={"trace": [1, 2]})),
    "key-twice": Break("counted", lambda record: orjson.dumps(record)[:-1] + b',"protocol":"http"}'),
}


@dataclass(frozen=True, slots=True, eq=False)
class BrokenLines:
    """Lines to be mixed into the traffic, by arrival."""

    received_ms: Ints
    lines: list[bytes]
    key: bytes  # the port they come under; for those that name none, the one they would have had
    labels: list[Row]


def broken_lines(rng: np.random.Generator, world: World, port: Port, window: Window, each: int) -> BrokenLines:
    """`each` records of every kind, at random times of the window, as if sent by the port's first sender."""
    sender = next(sender for sender in world.senders if sender.port == port.number)
    text = variants(rng, sender.book, sender.signature, None, 1)[0]
    specimen: Record = {
        "event_id": "",
        "event_time_ms": 0,
        "received_ms": 0,
        "access_port": port.number,
        "extension": sender.extension,
        "account": sender.path.account,
        "gateway_id": sender.path.gateway_id,
        "protocol": sender.path.protocol,
        "carrier": port.carriers[0],
        "recipient_count": 1,
        "segment_count": text.segments,
        "submit_result": "accepted",
        "text": orjson.loads(b'"' + text.before + b"000000" + text.after + b'"'),
    }
    pairs: list[tuple[int, bytes]] = []
    labels: list[Row] = []
    for kind, broken in BREAKS.items():
        for at_ms in rng.integers(window.from_ms, window.to_ms, each).tolist():
            record = {**specimen, "event_id": f"broken{len(pairs):016x}", "event_time_ms": at_ms, "received_ms": at_ms}
            pairs += [(at_ms, orjson.dumps(record))] if broken.follows_original else []
            pairs.append((at_ms, broken.make(record)))
        labels.append(
            {
                "broken": kind,
                "fate": broken.fate,
                "count": each,
                "access_port": port.number,
                "from_ms": window.from_ms,
                "to_ms": window.to_ms,
            }
        )
    pairs.sort(key=lambda pair: pair[0])
    received = np.array([at_ms for at_ms, _ in pairs], np.int64)
    return BrokenLines(received, [line for _, line in pairs], port.number.encode(), labels)
