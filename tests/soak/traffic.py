"""Endless traffic for a soak: event time is wall time, and something is wrong somewhere at any moment.

Many ports at a steady rate; on top floods, unfiled names and foreign tenants that come and go, so that alerts open, are
updated and resolve throughout; and in every slice of time, for every partition, one submit of each kind that must not
count as now: a repeat, a late one, a misclocked one, a reject. Bodies are made once; a line gets its id and its times.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors.volume.ports import DAY_TICKS, TICK_MS
from streams.learn import learn_files
from streams.registry import load_folder
from streams.state_file import partition_of
from tests.bench.traffic import name, shares, texts, write_registry

PORTS = [f"1069{rank:06d}" for rank in range(2_000)]
EXTENSIONS = ("0000", "0001")
BODIES = 8
"""Of each full port, with different texts, carriers and numbers of recipients."""

SLICE_MS = 100
HISTORY_TICKS = DAY_TICKS + 12  # a little more than what a port needs to be judged by its volume
AHEAD_MS = 3 * 3_600_000
"""How far event time jumps at the end: further than any episode stays open without a finding."""

_CARRIERS = ("mobile", "unicom", "telecom")
_RETRIES = 50  # one body in so many is a retry
_REPEATED_AFTER = range(20, 600)  # slices; far less than the ids a partition remembers
_LATE_MS = (30_000, 120_000)
_MISCLOCKED_MS = 2 * 3_600_000

_INCIDENT_EVERY_MS = 10_000
_INCIDENT_MS = 60_000
_QUIET_RANKS = (200, len(PORTS))  # the busiest ports are spared: a flood there would be a flood of everything
_FLOOD = ((0, 20_000, 4.0), (20_000, _INCIDENT_MS, 30.0))  # from, to, how many times the usual on top of it
_UNFILED_PER_S = 5.0
_TENANTS, _TENANT_PER_S = 5, 2.0

_LINE = b'{"event_id":"s%015x","event_time_ms":%d,"received_ms":%d,%b'
_REJECTS = (b"no json at all", b'{"event_id":"r%d"}', b'{"event_id":"r%d","event_time_ms":1,"access_port":"106"}')

Record = tuple[bytes, bytes]  # key and value


@dataclass(frozen=True, slots=True)
class Guest:
    """Submits on top of the usual, for a while; of one partition."""

    partition: int
    bodies: Sequence[Record]
    per_s: float
    from_ms: int
    to_ms: int


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """What one partition usually sends: bodies, and how often each is drawn (`cumulative`, float64[bodies], to 1)."""

    bodies: Sequence[Record]
    cumulative: NDArray[np.float64]
    per_slice: float


def _body(port: str, extension: str, signature: str, text: str, variety: int) -> Record:
    fields = {
        "access_port": port,
        "extension": extension,
        "account": f"acc{port[-5:]}",
        "carrier": _CARRIERS[variety % len(_CARRIERS)],
        "recipient_count": 1 + variety % 3,
        **({"retry_of": "another"} if variety % _RETRIES == 0 else {}),
        "text": f"【{signature}】{text}",
    }
    return port.encode(), msgspec.json.encode(fields)[1:]


def write(folder: Path, rate: float, end_ms: int) -> None:
    """`registry/` that knows all ports and names, and `state`: what the ports sent in the day before `end_ms`."""
    names = [[_filed(rank, extension) for extension in EXTENSIONS] for rank in range(len(PORTS))]
    write_registry(folder / "registry", PORTS, list(EXTENSIONS), names)
    history = folder / "history.jsonl"
    with history.open("wb") as file:
        file.writelines(_history(rate, end_ms // TICK_MS * TICK_MS))
    learn_files([history], load_folder(folder / "registry"), folder / "state")


def _history(rate: float, end_ms: int) -> Iterator[bytes]:
    rng, per_tick = np.random.default_rng(0), rate * shares(len(PORTS)) * TICK_MS / 1_000
    for start_ms in range(end_ms - HISTORY_TICKS * TICK_MS, end_ms, TICK_MS):
        for port, submits in zip(PORTS, rng.poisson(per_tick).tolist(), strict=True):
            yield b'{"access_port":"%b","start_ms":%d,"submits":%d}\n' % (port.encode(), start_ms, submits)


def _filed(rank: int, extension: str) -> str:
    """The signature that is filed there."""
    return name(rank * len(EXTENSIONS) + EXTENSIONS.index(extension))


class Traffic:
    """The submits of one run: `rate` a second and what the incidents add, the same again for the same seed."""

    def __init__(self, seed: int, rate: float, partitions: int, start_ms: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._rate = rate
        self._next_incident_ms = start_ms
        self._texts = texts()
        self._share = shares(len(PORTS))
        self._home = [partition_of(port, partitions) for port in PORTS]
        self._pools = [self._pool(partition) for partition in range(partitions)]
        self._guests: list[Guest] = []
        self._sent: list[deque[Record]] = [deque(maxlen=_REPEATED_AFTER.stop) for _ in self._pools]
        self._serial = 0
        self._incidents = 0

    def slice(self, at_ms: int) -> Mapping[int, list[Record]]:
        """What arrives in [at_ms, at_ms + SLICE_MS), by partition, in order."""
        self._stage(at_ms)
        arriving = {
            partition: self._lines(self._drawn(pool), at_ms, at_ms + SLICE_MS)
            for partition, pool in enumerate(self._pools)
        }
        for guest in self._guests:
            drawn = self._rng.integers(len(guest.bodies), size=self._rng.poisson(guest.per_s * SLICE_MS / 1_000))
            bodies = [guest.bodies[index] for index in drawn.tolist()]
            arriving[guest.partition] += self._lines(bodies, at_ms, at_ms + SLICE_MS)
        for partition, lines in arriving.items():
            lines.extend(self._odd(partition, at_ms))
            self._sent[partition].append(lines[0])
        return arriving

    def farewell(self, at_ms: int) -> Mapping[int, list[Record]]:
        """One submit a partition, AHEAD_MS ahead of `at_ms`, so that all panes close and all alerts resolve.

        Only a log time that is as far ahead makes it credible.
        """
        ahead_ms = at_ms + AHEAD_MS
        return {
            partition: self._lines([pool.bodies[0]], ahead_ms, ahead_ms) for partition, pool in enumerate(self._pools)
        }

    def _text(self) -> str:
        return self._texts[int(self._rng.integers(len(self._texts)))]

    def _usual(self, rank: int) -> list[Record]:
        return [
            _body(PORTS[rank], extension, _filed(rank, extension), self._text(), rank + variety)
            for extension in EXTENSIONS
            for variety in range(BODIES)
        ]

    def _pool(self, partition: int) -> Pool:
        ranks = [rank for rank, home in enumerate(self._home) if home == partition]
        share = self._share[ranks]
        weights = np.repeat(share / share.sum(), len(EXTENSIONS) * BODIES)
        bodies = [body for rank in ranks for body in self._usual(rank)]
        return Pool(bodies, np.cumsum(weights) / weights.sum(), self._rate * float(share.sum()) * SLICE_MS / 1_000)

    def _drawn(self, pool: Pool) -> list[Record]:
        """Every body as often as its port's share wants; the count is as steady as chance allows."""
        count = int(pool.per_slice + self._rng.random())
        return [pool.bodies[index] for index in np.searchsorted(pool.cumulative, self._rng.random(count)).tolist()]

    def _lines(self, bodies: Sequence[Record], from_ms: int, received_ms: int) -> list[Record]:
        first, self._serial = self._serial, self._serial + len(bodies)
        times = (from_ms + self._rng.integers(0, SLICE_MS, len(bodies))).tolist()
        return [
            (key, _LINE % (first + n, at_ms, received_ms, body))
            for n, ((key, body), at_ms) in enumerate(zip(bodies, times, strict=True))
        ]

    def _odd(self, partition: int, at_ms: int) -> Iterator[Record]:
        """One of each kind; the reject last."""
        pool, sent, received_ms = self._pools[partition], self._sent[partition], at_ms + SLICE_MS
        one = [pool.bodies[int(self._rng.integers(len(pool.bodies)))]]
        yield from self._lines(one, at_ms - int(self._rng.integers(*_LATE_MS)), received_ms)
        yield from self._lines(one, at_ms + _MISCLOCKED_MS, received_ms)
        ago = int(self._rng.integers(_REPEATED_AFTER.start, _REPEATED_AFTER.stop))
        if ago <= len(sent):
            yield sent[-ago]
        reject = _REJECTS[self._serial % len(_REJECTS)]
        yield one[0][0], reject % self._serial if b"%d" in reject else reject

    # ---- incidents

    def _stage(self, at_ms: int) -> None:
        """Let the guests go whose time is over, and new ones come when it is time for an incident."""
        self._guests = [guest for guest in self._guests if at_ms < guest.to_ms]
        if at_ms >= self._next_incident_ms:
            kind = (self._flood, self._unfiled, self._tenants)[self._incidents % 3]
            self._next_incident_ms = at_ms + _INCIDENT_EVERY_MS
            self._incidents += 1
            self._guests += kind(int(self._rng.integers(*_QUIET_RANKS)), at_ms)

    def _flood(self, rank: int, at_ms: int) -> Iterator[Guest]:
        bodies, per_s = self._usual(rank), self._rate * float(self._share[rank])
        for begin_ms, end_ms, times in _FLOOD:
            yield Guest(self._home[rank], bodies, times * per_s, at_ms + begin_ms, at_ms + end_ms)

    def _unfiled(self, rank: int, at_ms: int) -> Iterator[Guest]:
        signature = name(len(PORTS) * len(EXTENSIONS) + self._incidents)
        body = _body(PORTS[rank], EXTENSIONS[0], signature, self._text(), 1)
        yield Guest(self._home[rank], [body], _UNFILED_PER_S, at_ms, at_ms + _INCIDENT_MS)

    def _tenants(self, rank: int, at_ms: int) -> Iterator[Guest]:
        owners = self._rng.choice(len(PORTS), _TENANTS, replace=False).tolist()
        bodies = [
            _body(PORTS[rank], f"7{number:03d}", _filed(owner, EXTENSIONS[0]), self._text(), 1)
            for number, owner in enumerate(owners)
        ]
        yield Guest(self._home[rank], bodies, _TENANTS * _TENANT_PER_S, at_ms, at_ms + _INCIDENT_MS)
