"""What a finding about a cap says: how much was carried, how much may be, since when, and where the day will end."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from detectors.contract import Wording
from detectors.event_time import DAY_MS, HOUR_MS

_MINUTE_MS = 60_000


@dataclass(frozen=True, slots=True)
class Breach:
    """One port above one cap, in carried segments."""

    observed: int
    cap: int
    since_ms: int
    of_day: int
    day_ms: int  # when the day began
    counted_since_ms: int
    now_ms: int

    @property
    def factor(self) -> float:
        """Observed over cap; a cap of nothing counts as one segment."""
        return self.observed / max(self.cap, 1)

    @property
    def projected(self) -> int:
        """Of the whole day, if the rest of it goes on at the mean pace since we count."""
        elapsed_ms = self.now_ms - self.counted_since_ms
        return self.of_day + round(self.of_day * (self.day_ms + DAY_MS - self.now_ms) / elapsed_ms)

    @property
    def evidence(self) -> Mapping[str, Any]:
        return {
            "observed": self.observed,
            "cap": self.cap,
            "factor": round(self.factor, 2),
            "since_ms": self.since_ms,
            "day": self.of_day,
            "projected_day": self.projected,
            "counted_since_ms": self.counted_since_ms,
        }


def summary(rule: str, breach: Breach) -> Wording:
    span = Wording("a minute", "1分钟内") if rule == "cap-minute" else Wording("today", "今日已发")
    return Wording(
        f"carried {breach.observed:,} segments {'in ' if rule == 'cap-minute' else ''}{span.en}, contracted are "
        f"{breach.cap:,} ({breach.factor:.2f} times), above it since {_clock(breach)}; at the pace of today "
        f"{breach.projected:,} by midnight",
        f"{span.zh}{breach.observed:,}条（计费条数），合同上限{breach.cap:,}条（{breach.factor:.2f}倍），"
        f"自{_clock(breach)}起超限；按今日速度全天约{breach.projected:,}条",
    )


def ruled_out(retries: int) -> tuple[Wording, ...]:
    return (
        Wording(f"retries: {retries} in the last 10 s, none of them counted", f"重试：最近10秒{retries}条，均未计入"),
    )


def _clock(breach: Breach) -> str:
    """Time of day in Shanghai."""
    since_ms = breach.since_ms - breach.day_ms
    return f"{since_ms // HOUR_MS % 24:02}:{since_ms // _MINUTE_MS % 60:02}"
