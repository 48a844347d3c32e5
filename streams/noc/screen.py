"""The terminal view of a running worker: rate, lag, open alerts with their evidence in words, what was turned away.

It draws values and knows nothing of where they come from. Names in alerts are hostile input: they are drawn as plain
text, without markup and control characters.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

SHANGHAI = timezone(timedelta(hours=8))
SHOWN_ALERTS = 12
SHOWN_COMMANDS = 4
_STYLES = {"critical": "bold red", "warning": "yellow", "info": "cyan"}

Alert = Mapping[str, Any]


@dataclass(slots=True)
class Picture:
    """What there is to see. `alerts` are the open ones by id, `commands` the newest throttle proposals."""

    title: str
    clock_ms: int = 0
    submits_per_s: float = 0.0
    lag: int = 0
    counts: Counter[str] = field(default_factory=Counter)  # counted, late, misclocked, duplicate
    rejected: Counter[str] = field(default_factory=Counter)
    alerts: dict[str, Alert] = field(default_factory=dict)
    resolved: int = 0
    commands: list[Mapping[str, Any]] = field(default_factory=list)

    def hear(self, alert: Alert) -> None:
        """Take a lifecycle event."""
        if alert["state"] == "resolved":
            self.resolved += self.alerts.pop(alert["alert_id"], None) is not None
        else:
            self.alerts[alert["alert_id"]] = alert


def plain(text: str) -> str:
    """Without control and format characters, which could drive a terminal or turn its text around."""
    return "".join(c for c in text if c.isprintable())


def clock(epoch_ms: int) -> str:
    """Time of day in Shanghai."""
    return datetime.fromtimestamp(epoch_ms / 1_000, UTC).astimezone(SHANGHAI).strftime("%H:%M:%S")


def drawn(picture: Picture) -> RenderableType:
    """The whole screen."""
    return Group(_head(picture), _alerts(list(picture.alerts.values()), picture.resolved), _foot(picture))


def _head(picture: Picture) -> RenderableType:
    time = clock(picture.clock_ms) if picture.clock_ms else "--:--:--"
    line = Text.assemble(
        ("event time ", "dim"),
        (time, "bold"),
        ("   submits/s ", "dim"),
        (f"{picture.submits_per_s:,.0f}", "bold"),
        ("   lag ", "dim"),
        (f"{picture.lag:,}", "bold"),
        ("   counted ", "dim"),
        (f"{picture.counts['counted']:,}", "bold"),
    )
    return Panel(line, title=picture.title, title_align="left")


def _alerts(alerts: Sequence[Alert], resolved: int) -> RenderableType:
    table = Table(expand=True, box=None, pad_edge=False)
    for name, ratio in (("since", None), ("severity", None), ("rule", None), ("port", None), ("evidence", 1)):
        table.add_column(name, ratio=ratio, no_wrap=ratio is None, overflow="ellipsis")
    ranked = sorted(alerts, key=lambda a: (list(_STYLES).index(a["severity"]), -a["first_seen_ms"]))
    for alert in ranked[:SHOWN_ALERTS]:
        table.add_row(
            clock(alert["first_seen_ms"]),
            Text(alert["severity"], style=_STYLES[alert["severity"]]),
            alert["rule"],
            Text(f"{alert['access_port'] or ''} {alert['extension'] or ''}".strip()),
            Text(plain(alert["summary"]["en"])),
        )
    more = f", {len(alerts) - SHOWN_ALERTS} not shown" if len(alerts) > SHOWN_ALERTS else ""
    return Panel(table, title=f"{len(alerts)} open alerts, {resolved} resolved{more}", title_align="left")


def _foot(picture: Picture) -> RenderableType:
    rows = Table.grid(padding=(0, 2))
    rows.add_row(Text("not counted", style="dim"), counted(picture.counts, without="counted"))
    rows.add_row(Text("rejected", style="dim"), counted(picture.rejected))
    for command in picture.commands[-SHOWN_COMMANDS:]:
        limit = "" if command["limit_per_s"] is None else f" to {command['limit_per_s']:g} submits/s"
        text = f"{command['action']} {command['access_port']}{limit} ({command['mode']}, {command['reason']})"
        rows.add_row(Text("proposed", style="dim"), Text(text))
    return Panel(rows, title="turned away, and proposed", title_align="left")


def counted(counts: Mapping[str, int], without: str = "") -> str:
    """Counts in words, largest first."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {name}" for name, count in ranked if count and name != without) or "none"


def line(alert: Alert) -> str:
    """One lifecycle event on one line, for terminals without a screen and for logs of a demo."""
    where = f"{alert['access_port'] or ''} {alert['extension'] or ''}".strip()
    return (
        f"{clock(alert['detected_event_ms'])} {alert['state']:8} {alert['severity']:8} {alert['rule']:20} {where:20} "
        f"{plain(alert['summary']['en'])}"
    )


def figures(picture: Picture) -> str:
    """The head of the screen on one line."""
    return (
        f"event time {clock(picture.clock_ms) if picture.clock_ms else '--:--:--'}, "
        f"{picture.submits_per_s:,.0f} submits/s, lag {picture.lag:,}, counted {picture.counts['counted']:,}, "
        f"{len(picture.alerts)} alerts open, rejected: {counted(picture.rejected)}"
    )
