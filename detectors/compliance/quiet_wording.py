"""What a finding about the hours says: how many messages, since when, and at which hours they would have been right."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from detectors.contract import Wording
from detectors.terms import Hours


@dataclass(frozen=True, slots=True)
class Night:
    """What one port sent to people outside of the hours."""

    messages: int
    since_ms: int
    hours: Hours
    by_lease: bool  # else as marketing

    @property
    def evidence(self) -> Mapping[str, Any]:
        return {
            "messages": self.messages,
            "since_ms": self.since_ms,
            "hours": list(self.hours),
            "bound_by": "lease" if self.by_lease else "marketing",
        }


def summary(night: Night) -> Wording:
    opens, closes = night.hours
    hours = f"{opens:02}:00-{closes:02}:00"
    if night.by_lease:
        return Wording(
            f"{night.messages:,} messages outside of the hours of the lease, {hours}",
            f"租约约定时段（{hours}）外发送{night.messages:,}条",
        )
    return Wording(
        f"{night.messages:,} marketing messages at night, outside of {hours}",
        f"夜间（{hours}以外）发送营销短信{night.messages:,}条",
    )
