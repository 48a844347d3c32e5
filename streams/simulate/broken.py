"""Records that a hostile or careless world sends, each with the fate that the contract gives it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from streams.simulate.rhythm import DAY_MS, MINUTE_MS, Ints
from streams.simulate.stage import Window
from streams.simulate.texts import variants
from streams.simulate.world import Row, Sender

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
    """Lines to be mixed into the traffic, by arrival. `keys`: the ports that they have, or would have had."""

    received_ms: Ints
    keys: list[bytes]
    lines: list[bytes]
    labels: list[Row]


def broken_lines(rng: np.random.Generator, senders: Sequence[Sender], window: Window, each: int) -> BrokenLines:
    """`each` records of every kind, at random times of the window, from senders by their share of the traffic."""
    shares = np.array([sender.daily for sender in senders])
    found: list[tuple[int, bytes, bytes]] = []
    for broken in BREAKS.values():
        times = rng.integers(window.from_ms, window.to_ms, each).tolist()
        chosen = rng.choice(len(senders), each, p=shares / shares.sum()).tolist()
        for at_ms, place in zip(times, chosen, strict=True):
            record = _specimen(rng, senders[place], f"broken{len(found):016x}", at_ms)
            lines = [orjson.dumps(record)] if broken.follows_original else []
            found += [(at_ms, senders[place].port.encode(), line) for line in (*lines, broken.make(record))]
    found.sort(key=lambda entry: entry[0])
    received = np.array([at_ms for at_ms, _, _ in found], np.int64)
    labels = [_label(kind, broken.fate, each, window) for kind, broken in BREAKS.items()]
    return BrokenLines(received, [key for _, key, _ in found], [line for _, _, line in found], labels)


def _label(kind: str, fate: str, count: int, window: Window) -> Row:
    return {"broken": kind, "fate": fate, "count": count, "from_ms": window.from_ms, "to_ms": window.to_ms}


def _specimen(rng: np.random.Generator, sender: Sender, event_id: str, at_ms: int) -> Record:
    """A good record."""
    text = variants(rng, sender.book, *sender.ends, 1)[0]
    return {
        "event_id": event_id,
        "event_time_ms": at_ms,
        "received_ms": at_ms,
        "access_port": sender.port,
        "extension": sender.extension,
        "account": sender.path.account,
        "gateway_id": sender.path.gateway_id,
        "protocol": sender.path.protocol,
        "carrier": sender.carriers[0],
        "recipient_count": 1,
        "segment_count": text.segments,
        "submit_result": "accepted",
        "text": text.with_number(0),
    }
