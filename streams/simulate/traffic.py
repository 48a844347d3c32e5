"""From rates to lines: draws the submits of one minute after the other and writes them as JSON in order of arrival."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import orjson

from streams.simulate.broken import BrokenLines
from streams.simulate.rhythm import MINUTE_MS, Ints
from streams.simulate.stage import Stage
from streams.simulate.texts import variants
from streams.simulate.world import Sender

_VARIANTS = 16
_ROUTES = 64
_LATEST_MS = 3_000
_THROTTLED = 0.002
_BURST_PER_SECOND = 70.0
_TIMED = 0.6  # share of bursts that a timed job sends, at the first seconds of a minute
_DELAYED = 0.02  # share of submits that arrive anywhere within the three seconds: out of order

_CARRIERS = {"mobile": 0.58, "unicom": 0.2, "telecom": 0.22}
_NUMBER_PREFIX = {"mobile": "1390000", "unicom": "1860000", "telecom": "1330000"}
_SUBSCRIBERS = 10_000
_NUMBER_BYTES = 14  # eleven digits, two quotes, a comma
_MOST_RECIPIENTS = 99

_ROW = np.dtype(
    [
        ("received_ms", np.int64),
        ("event_ms", np.int64),
        ("serial", np.int64),
        ("retried", np.int64),  # serial of the submit that this one repeats, -1 for none
        ("sender", np.int32),
        ("variant", np.int32),
        ("live", np.int32),
        ("route", np.int32),
        ("recipients", np.int32),
        ("subscriber", np.int32),
        ("throttled", np.bool_),
    ]
)
_Rows = np.ndarray[tuple[int], np.dtype[np.void]]

_LINE = (
    b'{"event_id":"%b%016x","event_time_ms":%d,"received_ms":%d,%b"recipient_count":%d,"recipients":[%b],'
    b'"segment_count":%d,%b"text":"%b%06d%b"}'
)
_ACCEPTED = b'"submit_result":"accepted",'
_REFUSED = b'"submit_result":"throttled","submit_code":"8",'


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Lines in order of arrival, without line feeds. `keys` are the access ports (Kafka keys), one per line."""

    received_ms: Ints
    keys: list[bytes]
    lines: list[bytes]

    def __len__(self) -> int:
        return len(self.lines)


class Traffic:
    """The submits of a scenario. Iterating again draws the same again."""

    def __init__(self, seed: np.random.SeedSequence, stage: Stage, broken: BrokenLines | None) -> None:
        self._seed = seed
        self._stage = stage
        self._broken = broken
        self._senders = [*stage.world.senders, *(guest.sender for guest in stage.guests)]
        self._ports = np.array([sender.port for sender in stage.world.senders])
        self._is_bulk = np.array([sender.is_bulk for sender in self._senders])
        self._script = _Script(np.random.default_rng(seed.spawn(1)[0]), self._senders)

    def blocks(self) -> Iterator[Block]:
        """One block per minute of arrival, the last one with the stragglers."""
        rng = np.random.default_rng(self._seed)
        waiting: _Rows = np.empty(0, _ROW)
        serial = 0
        span = self._stage.span
        for minute_ms in range(span.from_ms, span.to_ms, MINUTE_MS):
            fresh = _with_retries(rng, self._decorated(rng, *self._drawn(rng, minute_ms)), serial)
            serial += len(fresh)
            waiting = np.concatenate([waiting, fresh])
            waiting = waiting[np.argsort(waiting["received_ms"], kind="stable")]
            is_last = minute_ms + MINUTE_MS >= span.to_ms
            due = len(waiting) if is_last else np.searchsorted(waiting["received_ms"], minute_ms + MINUTE_MS)
            yield self._mixed(waiting[:due], minute_ms)
            waiting = waiting[due:]

    def _drawn(self, rng: np.random.Generator, minute_ms: int) -> tuple[Ints, Ints]:
        """Event times and senders of what is sent first in one minute; bursts may run on beyond it."""
        rates, guests = self._stage.rates, self._stage.guests
        expected = rates.at(minute_ms)
        for lift in self._stage.lifts:
            expected[self._ports == lift.port] *= lift.at(minute_ms)
        staged = [guest.per_minute if guest.window.holds(minute_ms) else 0.0 for guest in guests]
        single = rng.poisson(np.concatenate([expected * (1 - rates.burst_share), staged]))
        senders = np.repeat(np.arange(len(single)), single)
        times = minute_ms + rng.integers(0, MINUTE_MS, len(senders))
        burst_senders, sizes = rates.bursts(rng, expected)
        burst_times = _burst_times(rng, sizes, minute_ms, self._stage.span.to_ms)
        return np.concatenate([times, burst_times]), np.concatenate([senders, np.repeat(burst_senders, sizes)])

    def _decorated(self, rng: np.random.Generator, times: Ints, senders: Ints) -> _Rows:
        rows: _Rows = np.empty(len(times), _ROW)
        rows["event_ms"] = times
        rows["received_ms"] = times + _jitter(rng, len(times))
        rows["retried"] = -1
        rows["sender"] = senders
        rows["variant"] = rng.integers(0, _VARIANTS, len(times))
        rows["live"] = rng.integers(0, 1_000_000, len(times))
        rows["route"] = rng.integers(0, _ROUTES, len(times))
        bulk = rng.integers(20, _MOST_RECIPIENTS + 1, len(times))
        rows["recipients"] = np.where(self._is_bulk[senders], bulk, 1)
        rows["subscriber"] = rng.integers(0, _SUBSCRIBERS, len(times))
        return rows

    def _mixed(self, rows: _Rows, minute_ms: int) -> Block:
        keys, lines = self._script.written(rows)
        received = rows["received_ms"].astype(np.int64)
        if self._broken is None:
            return Block(received, keys, lines)
        first = int(np.searchsorted(self._broken.received_ms, minute_ms))
        stop = int(np.searchsorted(self._broken.received_ms, minute_ms + MINUTE_MS))
        received = np.concatenate([received, self._broken.received_ms[first:stop]])
        keys += self._broken.keys[first:stop]
        lines += self._broken.lines[first:stop]
        order = np.argsort(received, kind="stable")
        places = order.tolist()
        return Block(received[order], [keys[place] for place in places], [lines[place] for place in places])


class _Script:
    """The parts of a line that do not change from submit to submit, encoded once."""

    def __init__(self, rng: np.random.Generator, senders: list[Sender]) -> None:
        self._prefix = b"%06x" % int(rng.integers(1 << 24))
        self._keys = [sender.port.encode() for sender in senders]
        self._routes = [route for sender in senders for route in _routes(sender)]
        self._texts = [text for sender in senders for text in variants(rng, sender.book, *sender.ends, _VARIANTS)]
        self._directory = {carrier: _directory(rng, prefix) for carrier, prefix in _NUMBER_PREFIX.items()}

    def written(self, rows: _Rows) -> tuple[list[bytes], list[bytes]]:
        """Keys and lines of rows."""
        prefix = self._prefix
        senders = rows["sender"]
        routes = [self._routes[place] for place in (senders * _ROUTES + rows["route"]).tolist()]
        texts = [self._texts[place] for place in (senders * _VARIANTS + rows["variant"]).tolist()]
        starts = rows["subscriber"].astype(np.int64) * _NUMBER_BYTES
        ends = starts + rows["recipients"].astype(np.int64) * _NUMBER_BYTES - 1
        columns = zip(
            _event_numbers(rows["serial"]),
            rows["event_ms"].tolist(),
            rows["received_ms"].tolist(),
            routes,
            rows["recipients"].tolist(),
            starts.tolist(),
            ends.tolist(),
            self._results(rows),
            texts,
            rows["live"].tolist(),
            strict=True,
        )
        lines = [
            _LINE
            % (
                prefix,
                number,
                event_ms,
                received_ms,
                route[0],
                recipients,
                self._directory[route[1]][start:end],
                text.segments,
                result,
                text.before,
                live,
                text.after,
            )
            for number, event_ms, received_ms, route, recipients, start, end, result, text, live in columns
        ]
        return [self._keys[sender] for sender in senders.tolist()], lines

    def _results(self, rows: _Rows) -> list[bytes]:
        results = [_ACCEPTED] * len(rows)
        for place in np.flatnonzero(rows["throttled"]).tolist():
            results[place] = _REFUSED
        again = np.flatnonzero(rows["retried"] >= 0)
        for place, number in zip(again.tolist(), _event_numbers(rows["retried"][again]), strict=True):
            results[place] = b'%b"retry_of":"%b%016x",' % (_ACCEPTED, self._prefix, number)
        return results


def _event_numbers(serials: Ints) -> list[int]:
    """Distinct numbers that look random: multiplying by an odd number is a bijection of 64 bits (Knuth, 6.4)."""
    numbers: list[int] = (serials.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)).tolist()
    return numbers


def _with_retries(rng: np.random.Generator, rows: _Rows, serial: int) -> _Rows:
    """Number the rows from `serial` on; a few are throttled, and sent again one to five seconds later."""
    rows["serial"] = serial + np.arange(len(rows))
    rows["throttled"] = rng.random(len(rows)) < _THROTTLED
    again = rows[rows["throttled"]]
    delays = rng.integers(1_000, 5_000, len(again))
    again["retried"] = again["serial"]
    again["serial"] = serial + len(rows) + np.arange(len(again))
    again["throttled"] = False
    again["event_ms"] = again["received_ms"] + delays
    again["received_ms"] = again["event_ms"] + _jitter(rng, len(again))
    return np.concatenate([rows, again])


def _burst_times(rng: np.random.Generator, sizes: Ints, minute_ms: int, end_ms: int) -> Ints:
    """Event times of bursts that begin within the minute, timed jobs at its first seconds."""
    is_timed = rng.random(len(sizes)) < _TIMED
    begins = minute_ms + np.where(is_timed, rng.integers(0, 2_000, len(sizes)), rng.integers(0, MINUTE_MS, len(sizes)))
    speeds = _BURST_PER_SECOND * rng.uniform(0.3, 1.6, len(sizes))
    within = rng.random(int(sizes.sum())) * np.repeat(sizes / speeds * 1000, sizes)
    times: Ints = np.repeat(begins, sizes) + within.astype(np.int64)
    return np.minimum(times, end_ms - 1)


def _jitter(rng: np.random.Generator, size: int) -> Ints:
    usual = np.minimum(20 + rng.exponential(150, size), _LATEST_MS)
    return np.where(rng.random(size) < _DELAYED, rng.uniform(0, _LATEST_MS, size), usual).astype(np.int64)


def _routes(sender: Sender) -> list[tuple[bytes, str]]:
    """The submit path as JSON and the carrier, in as many entries as make up the carriers' shares."""
    weights = np.array([_CARRIERS[carrier] for carrier in sender.carriers])
    bounds = np.round(np.cumsum(weights / weights.sum()) * _ROUTES)
    chosen = [sender.carriers[int(np.searchsorted(bounds, place, side="right"))] for place in range(_ROUTES)]
    encoded = {carrier: _route(sender, carrier) for carrier in sender.carriers}
    return [(encoded[carrier], carrier) for carrier in chosen]


def _route(sender: Sender, carrier: str) -> bytes:
    fields = {
        "access_port": sender.port,
        "extension": sender.extension,
        "sp_id": sender.path.sp_id,
        "account": sender.path.account,
        "gateway_id": sender.path.gateway_id,
        "protocol": sender.path.protocol,
        "carrier": carrier,
        "province": sender.path.province,
    }
    return orjson.dumps(fields)[1:-1] + b","


def _directory(rng: np.random.Generator, prefix: str) -> bytes:
    """All subscribers of one carrier as a JSON list without brackets, shuffled; its start once more at the end."""
    numbers = [f'"{prefix}{number:04d}",' for number in rng.permutation(_SUBSCRIBERS)]
    return "".join(numbers + numbers[:_MOST_RECIPIENTS]).encode()
