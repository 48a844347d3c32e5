"""What a soak found out: the line that it ends with, what the line has no room for, and what was promised otherwise."""

import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.soak.judge import Verdict
from tests.soak.workers import Fleet, Trouble

FAILOVER_S, RESTART_S = 10.0, 5.0
"""From the trouble until every partition was answered for again."""

LEAST_RATE = 0.99
DRIFT_RATIO = 0.05
WARM_UP_S = 300.0
"""Until the tables of ids have their size; memory is judged in what comes after."""

VETERAN = "worker-0"
_SHOWN = 5


class Sample(NamedTuple):
    """Resident megabytes of a worker at a moment (monotonic), and how many partitions it owned then."""

    at_s: float
    rss_mb: float
    owned: int


@dataclass(slots=True)
class Memory:
    """Samples of each worker over time."""

    samples: dict[str, list[Sample]] = field(default_factory=lambda: defaultdict(list))

    def sample(self, fleet: Fleet) -> str:
        """Take one of every worker, and show it."""
        now_s = time.monotonic()
        for member in fleet.members:
            self.samples[member.name].append(Sample(now_s, member.rss_mb, member.owned))
        return ", ".join(
            f"{member.name} {last.rss_mb:.0f} ({last.owned})"
            for member in fleet.members
            for last in self.samples[member.name][-1:]
        )

    @property
    def drift(self) -> float | None:
        """Of the veteran: how much more it held in the last third than in the first, as a part of the first.

        Only moments with equally many partitions are compared, for each holds its share: troubles that happened
        to leave more of them to it are no drift. None: there is nothing to compare, so the run was too short to say.
        """
        samples = self.samples[VETERAN]
        steady = [sample for sample in samples if sample.at_s > samples[0].at_s + WARM_UP_S]
        third = len(steady) // 3
        first, last = _by_owned(steady[:third]), _by_owned(steady[-third:])
        began_mb = ended_mb = 0.0
        for owned in first.keys() & last.keys():
            weight = min(len(first[owned]), len(last[owned]))
            began_mb += weight * statistics.mean(first[owned])
            ended_mb += weight * statistics.mean(last[owned])
        return ended_mb / began_mb - 1 if began_mb else None


def _by_owned(samples: Iterable[Sample]) -> dict[int, list[float]]:
    found = defaultdict[int, list[float]](list)
    for sample in samples:
        found[sample.owned].append(sample.rss_mb)
    return found


@dataclass(frozen=True, slots=True)
class Account:
    """One run. `rate` is of submits sent a second, `wrong` what the workers should not have done."""

    sent: int
    asked_rate: float
    rate: float
    longest_wait_ms: int
    trouble: Trouble
    memory: Memory
    wrong: list[str]
    verdict: Verdict

    @property
    def line(self) -> str:
        verdict, kills = self.verdict, self.trouble.took_s["kill"]
        return (
            f"submits {verdict.submits} lost {verdict.lost} double {verdict.double} alerts {len(verdict.alerts)} "
            f"missing {len(verdict.alerts - verdict.heard_alerts)} extra {len(verdict.heard_alerts - verdict.alerts)} "
            f"kills {len(kills)} worst_failover_s {max(kills, default=0.0):.1f}"
        )

    def details(self) -> Iterator[str]:
        yield f"{self.rate:,.0f} submits a second; {len(self.verdict.commands)} commands"
        yield f"longest that a submit waited for its answer: {self.longest_wait_ms / 1_000:.1f} s"
        drift = self.memory.drift
        yield f"memory of {VETERAN}: {'too short a run to judge it' if drift is None else f'{drift:+.1%}'}"
        for kind, took_s in sorted((kind, took_s) for kind, took_s in self.trouble.took_s.items() if took_s):
            yield (
                f"{kind}: {len(took_s)} times, every partition answered for after {statistics.median(took_s):.1f} s "
                f"(median), {max(took_s):.1f} s (worst)"
            )

    def complaints(self) -> Iterator[str]:
        """Everything that is not as it must be."""
        yield from self.wrong[:_SHOWN]
        if len(self.wrong) > _SHOWN:
            yield f"and {len(self.wrong) - _SHOWN} times more the like"
        yield from self._about_what_was_said()
        yield from self._about_the_run()

    def _about_what_was_said(self) -> Iterator[str]:
        verdict = self.verdict
        if verdict.submits != self.sent:
            yield f"{self.sent} submits were sent, {verdict.submits} are on the topic"
        if verdict.left_open:
            yield f"{verdict.left_open} panes and alerts were still open at the end: they are not judged"
        if verdict.lost or verdict.double:
            yield f"{verdict.lost} submits lost, {verdict.double} double: " + "; ".join(verdict.examples)
        for what, alerts in (
            ("missing", verdict.alerts - verdict.heard_alerts),
            ("extra", verdict.heard_alerts - verdict.alerts),
        ):
            if alerts:
                yield f"{len(alerts)} alerts {what}, as {'; '.join(alert.decode() for alert in sorted(alerts)[:2])}"
        if verdict.commands != verdict.heard_commands:
            yield (
                f"{len(verdict.commands - verdict.heard_commands)} commands missing, "
                f"{len(verdict.heard_commands - verdict.commands)} extra"
            )

    def _about_the_run(self) -> Iterator[str]:
        if self.rate < LEAST_RATE * self.asked_rate:
            yield f"{self.rate:,.0f} submits a second were sent, not {self.asked_rate:,.0f}"
        for kind, most_s in (("kill", FAILOVER_S), ("restart", RESTART_S)):
            if (worst_s := max(self.trouble.took_s[kind], default=0.0)) > most_s:
                yield f"{worst_s:.1f} s after a {kind} until every partition was answered for: more than {most_s:g}"
        if (self.memory.drift or 0.0) > DRIFT_RATIO:
            yield f"the memory of {VETERAN} grew by {self.memory.drift:.1%} from the first third to the last"
