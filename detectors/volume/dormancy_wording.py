"""What a finding about a port that woke up says: how long it was silent, and how we know."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from detectors.contract import Wording
from detectors.event_time import DAY_MS


@dataclass(frozen=True, slots=True)
class Silence:
    """How long a port was silent, and how much of that somebody watched."""

    last_ms: int  # its last traffic
    proven_ms: int
    known_by: Literal["watched", "filed"]  # we saw it ourselves, or the registry tells


@dataclass(slots=True)
class Wake:
    """A dormant port that sends again."""

    woken_ms: int
    silence: Silence
    messages: int = 0  # to people, since then

    @property
    def days(self) -> int:
        return self.silence.proven_ms // DAY_MS


def evidence(wake: Wake) -> Mapping[str, Any]:
    return {
        "silent_days": wake.days,
        "last_traffic_ms": wake.silence.last_ms,
        "known_by": wake.silence.known_by,
        "woken_ms": wake.woken_ms,
        "messages": wake.messages,
    }


def summary(wake: Wake) -> Wording:
    return Wording(
        f"sends again after at least {wake.days} days of silence: {wake.messages:,} messages since it woke up",
        f"静默至少{wake.days}天后恢复发送：恢复以来{wake.messages:,}条",
    )


def ruled_out(wake: Wake) -> tuple[Wording, ...]:
    if wake.silence.known_by == "filed":
        return (
            Wording(
                "a registry out of date: by last_traffic others sent meanwhile, none of the filings of this port did",
                "报备数据过期：按 last_traffic，同期其他报备有流量，本端口各报备均无",
            ),
        )
    return (
        Wording(
            "a feed that was away: others sent meanwhile, without a gap of three days",
            "数据源中断：同期其他端口有流量，无三天以上空档",
        ),
    )
