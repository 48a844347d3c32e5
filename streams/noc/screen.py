"""The terminal view of a running worker: rate, lag, open alerts with their evidence in words, what was turned away.

It draws values and knows nothing of where they come from. Names in alerts are hostile input: they are drawn as plain
text, without markup and control characters.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.layout import Layout
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

SHANGHAI = timezone(timedelta(hours=8))
SHOWN_COMMANDS = 2
_INDENT = 10  # of evidence: under the severity
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
        self.clock_ms = max(self.clock_ms, alert["detected_event_ms"])
        if alert["state"] == "resolved":
            self.resolved += self.alerts.pop(alert["alert_id"], None) is not None
        else:
            self.alerts[alert["alert_id"]] = alert


def plain(text: str) -> str:
    """Without control and format characters, which could drive a terminal or turn its text around."""
    return "".join(c for c in text if c.isprintable())


def clock(epoch_ms: int) -> str:
    """Time of day in Shanghai; dashes for 0, the time of no event yet."""
    if not epoch_ms:
        return "--:--:--"
    return datetime.fromtimestamp(epoch_ms / 1_000, UTC).astimezone(SHANGHAI).strftime("%H:%M:%S")


def drawn(picture: Picture) -> RenderableType:
    """The whole screen. It fills the height it is given, and nothing in it moves when numbers change."""
    screen = Layout()
    screen.split_column(Layout(_head(picture), size=3), Layout(_open_alerts(picture)), Layout(_foot(picture), size=7))
    return screen


def _head(picture: Picture) -> RenderableType:
    figures = {
        "event time": clock(picture.clock_ms),
        "submits/s": f"{picture.submits_per_s:,.0f}",
        "lag": f"{picture.lag:,}",
        "counted": f"{picture.counts['counted']:,}",
    }
    line = Text("   ").join(Text.assemble((f"{name} ", "dim"), (value, "bold")) for name, value in figures.items())
    return Panel(line, title=picture.title, title_align="left", subtitle="Ctrl-C ends it", subtitle_align="right")


def _open_alerts(picture: Picture) -> RenderableType:
    ranked = sorted(picture.alerts.values(), key=lambda a: (list(_STYLES).index(a["severity"]), -a["first_seen_ms"]))
    title = f"open alerts: {len(ranked)}, resolved: {picture.resolved}"
    return Panel(_Ranked(ranked), title=title, title_align="left")


@dataclass(frozen=True, slots=True)
class _Ranked:
    """Alerts, the gravest first, with as much of their evidence and as many of them as there is room for."""

    alerts: Sequence[Alert]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = options.height or console.height
        width = options.max_width - _INDENT
        lines = sum(1 + len(_evidence(alert).wrap(console, width)) for alert in self.alerts)
        is_crowded = lines > room
        shown = len(self.alerts) if 2 * len(self.alerts) <= room else (room - 1) // 2
        for alert in self.alerts[:shown]:
            evidence = _evidence(alert)
            if is_crowded:
                evidence.truncate(width, overflow="ellipsis")
            yield _heading(alert)
            yield Padding(evidence, (0, 0, 0, _INDENT))
        if shown < len(self.alerts):
            yield Text(f"... and {len(self.alerts) - shown} more", style="dim")


def _heading(alert: Alert) -> Text:
    severity = Text(f"{alert['severity']:8}", style=_STYLES[alert["severity"]])
    return Text.assemble(clock(alert["first_seen_ms"]), "  ", severity, f"  {alert['rule']:19}  {where(alert)}")


def _evidence(alert: Alert) -> Text:
    return Text(plain(alert["summary"]["en"]))


def _foot(picture: Picture) -> RenderableType:
    rows = Table.grid(padding=(0, 2))
    rows.add_row(Text("not counted", style="dim"), counted(picture.counts, without="counted"))
    rows.add_row(Text("rejected", style="dim"), counted(picture.rejected))
    for command in picture.commands[-SHOWN_COMMANDS:]:
        limit = "" if command["limit_per_s"] is None else f" to {command['limit_per_s']:g} submits/s"
        text = f"{command['action']} {command['access_port']}{limit} ({command['mode']}, {command['reason']})"
        rows.add_row(Text("proposed", style="dim"), Text(text, no_wrap=True, overflow="ellipsis"))
    return Panel(rows, title="turned away, and proposed", title_align="left")


def counted(counts: Mapping[str, int], without: str = "") -> str:
    """Counts in words, largest first."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {name}" for name, count in ranked if count and name != without) or "none"


def where(alert: Alert) -> str:
    """Port and extension that an alert is about."""
    return f"{alert['access_port'] or ''} {alert['extension'] or ''}".strip()


def line(alert: Alert) -> str:
    """One lifecycle event on one line, for terminals without a screen and for logs of a demo."""
    return (
        f"{clock(alert['detected_event_ms'])} {alert['state']:8} {alert['severity']:8} {alert['rule']:19} "
        f"{where(alert):16} {plain(alert['summary']['en'])}"
    )


def figures(picture: Picture) -> str:
    """The head of the screen on one line."""
    return (
        f"{clock(picture.clock_ms)} {picture.submits_per_s:,.0f} submits/s, lag {picture.lag:,}, "
        f"counted {picture.counts['counted']:,}, open alerts: {len(picture.alerts)}, "
        f"rejected: {counted(picture.rejected)}"
    )
