"""What the ports sent in the three weeks before a scenario: counts from the same rates, for warm baselines."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from streams.simulate.rhythm import MINUTE_MS, SLICE_MS, Ints, Rates
from streams.simulate.world import Sender

_LINE = b'{"access_port":"%b","start_ms":%d,"duration_ms":%d,"submits":%d}'


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """Submits per port and five minutes. Shapes: `start_ms` [slices], `submits` [slices, ports]."""

    ports: list[str]
    start_ms: Ints
    submits: Ints

    def lines(self) -> Iterator[bytes]:
        """One JSON line per port and slice with traffic, in order of time."""
        keys = [port.encode() for port in self.ports]
        for start_ms, counts in zip(self.start_ms.tolist(), self.submits, strict=True):
            rows = zip(keys, counts.tolist(), strict=True)
            yield from (_LINE % (key, start_ms, SLICE_MS, submits) for key, submits in rows if submits)


def draw_history(rng: np.random.Generator, senders: list[Sender], rates: Rates, end_ms: int) -> History:
    """Counts from the start of the rates to `end_ms`."""
    slices = rates.slice_of(end_ms)
    start_ms = rates.start_ms + np.arange(slices) * SLICE_MS
    first_minute = start_ms // MINUTE_MS % 60
    of_slice = np.array([rates.minutes[:, minute : minute + 5].sum(axis=1) for minute in first_minute]).T
    expected = rates.per_minute[:, :slices] * of_slice
    counts = rng.poisson(expected * (1 - rates.burst_share[:, None]))
    cells, sizes = rates.bursts(rng, expected)
    counts += np.bincount(cells, weights=sizes, minlength=counts.size).astype(np.int64).reshape(counts.shape)
    ports = list(dict.fromkeys(sender.port for sender in senders))
    submits = np.zeros((slices, len(ports)), np.int64)
    places = {port: place for place, port in enumerate(ports)}
    for row, sender in enumerate(senders):
        submits[:, places[sender.port]] += counts[row]
    return History(ports, start_ms, submits)
