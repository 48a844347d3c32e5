"""What the volume detector costs: CPU per port and pane, bytes of state per port. Run: python -m tests.bench.volume."""

import argparse
import pickle
import time

import numpy as np

from detectors.contract import PANE_MS, Pane
from detectors.groups import Groups
from detectors.registry import PortLease, Registry
from detectors.volume.detector import VolumeDetector
from detectors.volume.ports import DAY_TICKS, TICK_PANES, learn
from tests.rows import Row, batch

START_MS = 1_789_956_000_000  # 2026-09-21 10:00 in Shanghai


def _groups(ports: list[str]) -> Groups:
    groups = Groups()
    groups.intern(batch([Row(id=place, port=port, text=None) for place, port in enumerate(ports)]), Registry())
    return groups


def _pane(groups: Groups, start_ms: int, submits: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Pane:
    sent = np.flatnonzero(submits)
    counts, none = submits[sent], np.zeros(len(sent), np.int64)
    code = (sent + 1).astype(np.int32)
    return Pane(start_ms, start_ms + PANE_MS, code, counts, none, counts, counts, none, groups)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ports", type=int, default=100_000)
    parser.add_argument("--panes", type=int, default=4 * TICK_PANES)
    args = parser.parse_args()
    rng = np.random.default_rng(1)
    rates = rng.lognormal(1.5, 2.0, args.ports).clip(0.01, 5_000)  # submits per 5 min
    ports = [str(10_690_000_000 + k) for k in range(args.ports)]
    leases = tuple(PortLease(access_port=port, purposes=("code",)) for port in ports)
    registry = Registry(ports=leases, version="1")

    starts = START_MS - DAY_TICKS * 300_000 + np.arange(DAY_TICKS) * 300_000
    few = min(args.ports, 1_000)
    counts = rng.poisson(rates[:few], (DAY_TICKS, few))
    names = [ports[k] for _ in starts for k in range(few)]
    before = time.process_time()
    baselines = learn(names, np.repeat(starts, few), counts.ravel(), registry)
    print(f"learn: {(time.process_time() - before) / counts.size * 1e9:,.0f} ns per port and 5 min, {few:,} ports")

    groups, detector = _groups(ports), VolumeDetector()
    state = detector.start()
    detector.seed(state, groups, baselines)
    panes = [
        _pane(groups, START_MS + k * PANE_MS, rng.poisson(rates / TICK_PANES)) for k in range(args.panes + TICK_PANES)
    ]
    findings = 0
    for pane in panes[:TICK_PANES]:
        findings += len(detector.step(state, pane, registry))
    spent = []
    for pane in panes[TICK_PANES:]:
        before = time.process_time()
        findings += len(detector.step(state, pane, registry))
        spent.append((time.process_time() - before) / args.ports * 1e9)
    mean, median, worst = np.mean(spent), np.median(spent), max(spent)
    print(f"step: mean {mean:.0f}, median {median:.0f}, at a tick {worst:.0f} ns per port and pane")
    state.seeds, state.seed_of = None, {}
    print(f"state: {len(pickle.dumps(state)) / len(state.met):.0f} bytes per port, {findings} findings")


if __name__ == "__main__":
    main()
