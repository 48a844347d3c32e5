"""Ports as series of counts: how their time is cut, their classes, and baselines from old counts.

What is learnt from is played through the same scan that serves the stream.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detectors.batch import Ints
from detectors.contract import PANE_MS
from detectors.registry import Registry
from detectors.volume.baseline import ClassHistory, Grid, History, class_history, history
from detectors.volume.scan import Scan, watch

TICK_MS = 300_000
TICK_PANES = TICK_MS // PANE_MS
SCALES = (1, 6, TICK_PANES)
"""Panes that are summed up and tested as they close: 10 s, 1 min, and the tick so far."""
GRID = Grid(TICK_MS, tuple(panes / TICK_PANES for panes in SCALES[:-1]))
DAY_TICKS = int(GRID.day_ticks)
CLASSES = ("unknown", "code", "notification", "marketing", "public")
_HOUR_TICKS = 12


def class_of(access_port: str, registry: Registry, at_ms: int) -> int:
    """Index into CLASSES: the first purpose of the lease in effect."""
    lease = registry.lease(access_port, at_ms)
    return CLASSES.index(lease.purposes[0]) if lease and lease.purposes else 0


@dataclass(slots=True, eq=False)
class Baselines:
    """Learnt histories of ports, whatever their partition, and of the classes."""

    ports: list[str]
    history: History  # last axis as `ports`
    classes: ClassHistory


def learn(access_port: Sequence[str], start_ms: Ints, submits: Ints, registry: Registry) -> Baselines:
    """Baselines from old counts: rows in any order, each a port's submits in the five minutes from start_ms.

    A port's missing rows after its first are zeros; a tick without any row is a gap. Raises ValueError for a start
    that is no multiple of five minutes.

    Finer counts than 5 min are not in there. Until the stream has shown better (an hour's worth), all that is beyond
    Poisson is taken as batches shorter than a pane: that is the widest the finer scales can be.
    """
    if len(start_ms) and (odd := start_ms[start_ms % TICK_MS != 0]).size:
        raise ValueError(f"start_ms {odd[0]} is not a multiple of {TICK_MS}")
    ports = list(dict.fromkeys(access_port))
    if not ports:
        return Baselines(ports, history(0, GRID), class_history(len(CLASSES), GRID))
    code_of = {port: code for code, port in enumerate(ports)}
    codes = np.fromiter(map(code_of.__getitem__, access_port), np.int64, len(access_port))
    order = np.argsort(start_ms, kind="stable")
    codes, submits = codes[order], submits[order]
    ticks, begins = np.unique(start_ms[order], return_index=True)
    learner, scan = watch(len(ports), len(CLASSES), GRID), Scan()
    baseline = learner.baseline
    baseline.class_of[:] = [class_of(port, registry, int(ticks[-1])) for port in ports]
    born = np.zeros(len(ports), np.bool_)
    for tick_ms, rows in zip(ticks.tolist(), np.split(np.arange(len(codes)), begins[1:]), strict=True):
        born[codes[rows]] = True
        counts = np.bincount(codes[rows], submits[rows], len(ports)).astype(np.float32)
        baseline.move_to(tick_ms)
        baseline.expect(slice(None))
        scan.tick(learner, counts, born)
    baseline.move_to(int(ticks[-1]) + 24 * 3_600_000)
    _guess_fine_scales(baseline.history)
    baseline.pool_classes()
    return Baselines(ports, baseline.history, baseline.classes)


def _guess_fine_scales(learnt: History) -> None:
    strays, tick = learnt.strays, GRID.tick
    share = np.minimum(1, _HOUR_TICKS / np.maximum(learnt.ticks, 1)).astype(np.float32)
    fine = share * learnt.told_whole
    mean = strays.mean[tick] / np.maximum(learnt.told_whole, 1)
    learnt.told_parts[:] = fine
    for window, part in enumerate(map(np.float32, GRID.parts)):
        strays.mean[window] = share * strays.mean[tick]
        strays.square[window] = share * part * strays.square[tick]
        strays.inverse[window] = fine / part / (1 + part * mean)
        strays.strayed[window] = share * strays.strayed[tick]
        strays.leaning[window] = strays.strayed[window] / (1 + part * mean)
        strays.skewed[window] = share * strays.skewed[tick]
