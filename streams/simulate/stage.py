"""Where a scenario's incidents are staged: extra senders, lifted rates, and labels that tell the truth about them."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from streams.simulate.rhythm import MINUTE_MS, Rates
from streams.simulate.trades import Desk, desk_of
from streams.simulate.world import Company, Path, Port, Row, Sender, World

STRAY_PER_MINUTE = 4.0
"""Usual rate of a guest: enough to be seen, far too little to change the volume of a usual port much."""


@dataclass(frozen=True, slots=True)
class Window:
    from_ms: int
    to_ms: int

    @property
    def middle_ms(self) -> int:
        """The full minute in the middle."""
        return (self.from_ms + self.to_ms) // 2 // MINUTE_MS * MINUTE_MS

    def holds(self, at_ms: int) -> bool:
        return self.from_ms <= at_ms < self.to_ms


@dataclass(frozen=True, slots=True)
class Guest:
    """A sender that comes with an incident. Its rate is absolute: a scenario's scale leaves it alone."""

    sender: Sender
    window: Window
    per_minute: float


@dataclass(frozen=True, slots=True)
class Lift:
    """All traffic of a port times a factor that goes from 1 to `peak` within `rise_ms`, then stays until the end."""

    port: str
    window: Window
    peak: float
    rise_ms: int

    def at(self, minute_ms: int) -> float:
        """The factor in the middle of a minute."""
        if not self.window.holds(minute_ms):
            return 1.0
        risen = (minute_ms + MINUTE_MS / 2 - self.window.from_ms) / self.rise_ms
        return 1 + (self.peak - 1) * min(1.0, risen)


@dataclass(slots=True)
class Stage:
    """The scenario as it is being set up. `foreigners` are companies that are filed on aggregators' ports only."""

    world: World
    rates: Rates
    span: Window  # of the whole scenario
    foreigners: Iterator[Company]
    guests: list[Guest] = field(default_factory=list)
    lifts: list[Lift] = field(default_factory=list)
    labels: list[Row] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Scene:
    """One incident, or one innocent look-alike, on one port (unless told otherwise) within one window."""

    stage: Stage
    kind: str
    port: Port
    window: Window

    @property
    def world(self) -> World:
        return self.stage.world

    def extension(self) -> str:
        """One more extension of the port, unused and not filed."""
        return self.world.extension(self.port)

    def file(self, extension: str, purpose: str | None = None, **more: object) -> None:
        """File the lessee on an extension of the port, for what it usually sends; `more` overrides fields."""
        purpose = purpose or desk_of(self.port.lessee.industry).purpose
        self.world.file(self.port, self.port.lessee, extension, purpose, **more)

    def filed_extension(self) -> str:
        """One more extension of the port, filed for its lessee, without other traffic."""
        extension = self.extension()
        self.file(extension)
        return extension

    def guest(
        self,
        extension: str | None,
        signature: str | None,
        *,
        port: Port | None = None,
        desk: Desk | None = None,
        window: Window | None = None,
        per_minute: float = STRAY_PER_MINUTE,
        path: Path | None = None,
        second_signature: str | None = None,
    ) -> None:
        """Let somebody send; what the lessee usually sends, by the port's own path, unless told otherwise."""
        port = port or self.port
        sender = self.world.sender(port, extension, signature, desk or desk_of(port.lessee.industry))
        sender = replace(sender, path=path or port.path, second_signature=second_signature)
        self.stage.guests.append(Guest(sender, window or self.window, per_minute))

    def lift(self, peak: float, rise_ms: int) -> None:
        self.stage.lifts.append(Lift(self.port.number, self.window, peak, rise_ms))

    def incident(
        self,
        detector: str,
        rules: tuple[str, ...],
        note: str,
        *,
        also: tuple[str, ...] = (),
        port: Port | None = None,
        extension: str | None = None,
        signature: str | None = None,
    ) -> None:
        """Label what was staged. `rules`: any of them finds it, the first is the right one; `also`: rules that
        rightly speak about the same messages, neither a hit nor an error."""
        number = (port or self.port).number
        self._label(
            {"incident": f"{self.kind}@{number}", "detector": detector, "rules": rules, "also": also},
            {"access_port": number, "extension": extension, "signature": signature},
            note,
        )

    def innocent(
        self, rules: tuple[str, ...], note: str, *, port: Port | None = None, extension: str | None = None
    ) -> None:
        """Label what looks like a breach of `rules` and is none: their alerts about it are raised in error."""
        number = (port or self.port).number
        self._label({"innocent": self.kind, "rules": rules}, {"access_port": number, "extension": extension}, note)

    def submits(self) -> float:
        """Submits that the port's own senders are expected to send within the window."""
        mine = [row for row, sender in enumerate(self.world.senders) if sender.port == self.port.number]
        minutes = range(self.window.from_ms, self.window.to_ms, MINUTE_MS)
        return float(sum(self.stage.rates.at(minute)[mine].sum() for minute in minutes))

    def _label(self, what: Row, where: Row, note: str) -> None:
        when = {"from_ms": self.window.from_ms, "to_ms": self.window.to_ms}
        self.stage.labels.append({**what, **where, **when, "note": note})
