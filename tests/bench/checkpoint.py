"""What a checkpoint of 100,000 active ports costs and weighs. Run: python -m tests.bench.checkpoint."""

import argparse
import time
from dataclasses import fields, replace

import numpy as np

from detectors.batch import SubmitBatch
from detectors.pipeline import PartitionState, Pipeline
from detectors.registry import Filing, PortLease, Registry
from detectors.volume.detector import VolumeDetector
from detectors.volume.ports import CLASSES, DAY_TICKS, GRID, TICK_MS, TICK_PANES, Baselines
from detectors.volume.scan import Scan, watch
from streams.worker.checkpoint import Chain, Segment
from streams.worker.image import unpack
from tests.bench.measured import peak_mb

START_MS = 1_789_747_200_000  # 2026-09-19 00:00 in Shanghai, a Saturday: the two days before have both kinds of day
GROUPS_PER_PORT = 3
INTERVAL_S = 5
SUBMITS_PER_S = 30_000


def lived_in(rng: np.random.Generator, ports: list[str], registry: Registry, pipeline: Pipeline) -> PartitionState:
    """A state whose ports have two days of history, each of its own, and whose groups have all been seen."""
    state = pipeline.start("sms.submit.v1", 0)
    rates = rng.lognormal(1.5, 2.0, len(ports)).clip(0.01, 5_000)  # submits per 5 min
    learner, scan = watch(len(ports), len(CLASSES), GRID), Scan()
    usual = learner.baseline
    for tick in range(-2 * DAY_TICKS, 0):
        usual.move_to(START_MS + tick * TICK_MS)
        usual.expect(slice(None))
        scan.tick(learner, rng.poisson(rates).astype(np.float32), np.ones(len(ports), np.bool_))
    for window in range(GRID.tick):  # the finer scales as the stream would have found them
        for f in fields(usual.history.strays):
            sums = getattr(usual.history.strays, f.name)
            sums[window] = sums[GRID.tick] * rng.lognormal(0, 0.3, len(ports))
    VolumeDetector().seed(state.detectors["volume"], state.groups, Baselines(ports, usual.history, usual.classes))
    pipeline.step(state, submits(np.arange(len(ports) * GROUPS_PER_PORT), ports, 0), registry)
    return state


def lawful(ports: list[str]) -> Registry:
    """Every name is filed where it is used: no finding, so that the ports and not their alerts are weighed."""
    return Registry(
        ports=tuple(PortLease(access_port=port, lessee_id=port, purposes=("code",)) for port in ports),
        filings=tuple(
            Filing(access_port=port, extension=f"{k:04d}", signature=_name(n * GROUPS_PER_PORT + k), enterprise_id=port)
            for n, port in enumerate(ports)
            for k in range(GROUPS_PER_PORT)
        ),
        version="1",
    )


def _name(group: int) -> str:
    return f"第{group}号科技"


def submits(groups: np.ndarray[tuple[int], np.dtype[np.int64]], ports: list[str], from_ms: int) -> SubmitBatch:
    """A submit of each of these groups (three to a port), spread over the time that they take at SUBMITS_PER_S."""
    n, which = len(groups), groups.tolist()
    event_ms = START_MS + from_ms + np.arange(n, dtype=np.int64) * 1_000 // SUBMITS_PER_S
    ones = np.ones(n, np.int64)
    return SubmitBatch(
        offset=event_ms,
        event_time_ms=event_ms,
        received_ms=event_ms,
        event_id=np.random.default_rng(from_ms).integers(1, 2**63, n).astype(np.uint64),
        access_port=[ports[g // GROUPS_PER_PORT] for g in which],
        extension=[f"{g % GROUPS_PER_PORT:04d}" for g in which],
        account=[f"acc{g // GROUPS_PER_PORT}" for g in which],
        carrier=[("mobile", "unicom", "telecom")[g % 3] for g in which],
        text=[f"【{_name(g)}】您的验证码是482913，{g % 977}分钟内有效，请勿告诉他人。" for g in which],
        recipients=ones,
        segments=ones,
        is_retry=np.zeros(n, np.bool_),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ports", type=int, default=100_000)
    args = parser.parse_args()
    rng = np.random.default_rng(1)
    ports = [str(10_690_000_000 + k) for k in range(args.ports)]
    registry = lawful(ports)
    pipeline = Pipeline()
    state = lived_in(rng, ports, registry, pipeline)
    chain, segments = Chain(), list[bytes]()
    print(f"{'after':24}{'loop ms':>10}{'thread ms':>10}{'bytes/port':>12}{'% of 5 s':>10}")

    def checkpoint(after: str) -> None:
        began = time.perf_counter()
        look = chain.look(state)
        looked, cpu = time.perf_counter(), time.thread_time()
        content = look.packed()
        blocked_s, packed_s = looked - began, time.thread_time() - cpu
        if not chain.segments:
            segments.clear()
        segments.append(content)
        chain.extend(Segment("", 0, 0, 1, 0), len(content), look.digests)
        share = 100 * (blocked_s + packed_s) / INTERVAL_S
        per_port = len(content) / args.ports
        print(f"{after:24}{1e3 * blocked_s:>10.0f}{1e3 * packed_s:>10.0f}{per_port:>12.1f}{share:>10.1f}")

    checkpoint("start: a whole one")
    from_ms = args.ports * GROUPS_PER_PORT * 1_000 // SUBMITS_PER_S
    for _ in range(4):
        groups = rng.integers(0, args.ports * GROUPS_PER_PORT, INTERVAL_S * SUBMITS_PER_S)
        pipeline.step(state, submits(groups, ports, from_ms), registry)
        from_ms += INTERVAL_S * 1_000
        checkpoint(f"{INTERVAL_S} s, {SUBMITS_PER_S:,}/s")
    for _ in range(TICK_PANES):
        groups = rng.integers(0, args.ports * GROUPS_PER_PORT, SUBMITS_PER_S)
        rows = submits(groups, ports, from_ms)
        pipeline.step(state, replace(rows, floor_ms=START_MS + from_ms + 10_000), registry)
        from_ms += 10_000
    checkpoint("5 min in one go")
    chain.segments, chain.pages.held = (), {}
    checkpoint("a whole one again")
    began = time.perf_counter()
    unpack(segments, pipeline)
    seconds = time.perf_counter() - began
    ids = sum(ids.count for ids in state.seen.generations)
    print(
        f"\nunpacked in {seconds:.2f} s: {args.ports:,} ports, {len(state.groups.keys) - 1:,} groups, {ids:,} event ids"
    )
    print(f"{len(state.episodes.open)} alerts; peak {peak_mb():,.0f} MB")


if __name__ == "__main__":
    main()
