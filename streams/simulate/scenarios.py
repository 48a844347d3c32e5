"""The scenarios by name, each a small recipe, and how a recipe becomes a simulation."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import orjson

from streams.simulate.broken import BrokenLines, broken_lines
from streams.simulate.history import History, draw_history
from streams.simulate.incidents import KINDS, label_looks
from streams.simulate.market import open_market
from streams.simulate.rhythm import DAY_MS, MINUTE_MS, draw_rates
from streams.simulate.stage import Scene, Stage, Window
from streams.simulate.traffic import Block, Traffic
from streams.simulate.world import Company, Row, World

HISTORY_DAYS = 21


@dataclass(frozen=True, slots=True)
class Cue:
    """An entry of a recipe: play `kind` on the named port, `at` minutes into the scenario, for so many `minutes`."""

    kind: str
    port: str
    at: int
    minutes: int

    def window(self, start_ms: int) -> Window:
        from_ms = start_ms + self.at * MINUTE_MS
        return Window(from_ms, from_ms + self.minutes * MINUTE_MS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A recipe. `daily_submits`: what all background senders together send on a plain weekday. `broken`: how many
    records of every broken kind, and within which minutes (from, to)."""

    about: str
    start: str  # Asia/Shanghai
    minutes: int
    daily_submits: float
    cues: tuple[Cue, ...] = ()
    broken: int = 0
    broken_between: tuple[int, int] = (0, 0)

    @property
    def start_ms(self) -> int:
        return int(datetime.fromisoformat(f"{self.start}+08:00").timestamp() * 1000)


SCENARIOS: dict[str, Scenario] = {
    "quiet-day": Scenario(
        about="24 hours in which nothing happens: every alert is a false one",
        start="2026-09-16T00:00",
        minutes=1440,
        daily_submits=400_000,
    ),
    "festival-morning": Scenario(
        about="08:00 to 12:00 on the day before double-11: a quiet hour, then one incident of each kind",
        start="2026-11-10T08:00",
        minutes=240,
        daily_submits=1_250_000,
        cues=(
            Cue("unfiled", "shop-2", 62, 50),
            Cue("missing", "travel-0", 68, 45),
            Cue("flash", "parcel-1", 75, 8),
            Cue("foreign-enterprises", "login-0", 80, 120),
            Cue("ramp", "login-1", 90, 90),
            Cue("second-signature", "bank-2", 100, 60),
            Cue("planned-campaign", "retail-1", 110, 40),
            Cue("spelling", "shop-3", 70, 120),
            Cue("recovery-path", "bank-1", 120, 60),
        ),
        broken=6,
        broken_between=(60, 200),
    ),
    "festival-hour": Scenario(
        about="festival-morning in 80 minutes: 08:00 to 09:20, incidents after 20 minutes",
        start="2026-11-10T08:00",
        minutes=80,
        daily_submits=1_250_000,
        cues=(
            Cue("unfiled", "shop-2", 20, 40),
            Cue("missing", "travel-0", 22, 35),
            Cue("ramp", "login-1", 20, 60),
            Cue("foreign-enterprises", "login-0", 24, 50),
            Cue("flash", "parcel-1", 30, 8),
            Cue("second-signature", "bank-2", 28, 40),
            Cue("planned-campaign", "retail-1", 60, 15),
            Cue("spelling", "shop-3", 20, 50),
            Cue("recovery-path", "bank-1", 40, 30),
        ),
        broken=4,
        broken_between=(20, 70),
    ),
    "signatures": Scenario(
        about="every signature rule with a true case and a false one",
        start="2026-09-16T10:00",
        minutes=60,
        daily_submits=900_000,
        cues=(
            Cue("missing", "travel-0", 10, 40),
            Cue("unfiled", "shop-0", 10, 40),
            Cue("spelling", "shop-1", 10, 40),
            Cue("wrong-port", "shop-2", 10, 40),
            Cue("two-ports", "shop-3", 10, 40),
            Cue("wrong-enterprise", "travel-1", 10, 40),
            Cue("new-third-party", "travel-2", 10, 40),
            Cue("not-in-force", "parcel-1", 10, 40),
            Cue("renewed", "parcel-2", 10, 40),
            Cue("second-signature", "bank-1", 10, 40),
            Cue("renamed", "bank-2", 10, 40),
            Cue("conflict", "bank-3", 10, 40),
            Cue("both-ends", "bank-4", 10, 40),
            Cue("lookalike", "clinic-0", 10, 40),
            Cue("similar-name", "bank-0", 10, 40),
            Cue("forbidden-name", "clinic-1", 10, 40),
            Cue("neutral-in-body", "clinic-2", 10, 40),
            Cue("extension-unfiled", "parcel-3", 10, 40),
            Cue("port-unregistered", "login-4", 10, 40),
            Cue("port-unauthorised", "login-5", 10, 40),
            Cue("just-authorised", "login-6", 10, 40),
            Cue("purpose-mismatch", "login-1", 10, 40),
            Cue("filed-marketing", "login-2", 10, 40),
        ),
    ),
    "sublet": Scenario(
        about="ports used by companies that are not their lessees, beside every legal use that looks like it",
        start="2026-09-16T09:00",
        minutes=180,
        daily_submits=900_000,
        cues=(
            Cue("foreign-enterprises", "login-0", 30, 120),
            Cue("shared-tenant", "travel-0", 40, 120),
            Cue("path-foreign", "shop-1", 30, 60),
            Cue("recovery-path", "shop-2", 30, 60),
            Cue("extension-walk", "parcel-2", 60, 60),
            Cue("new-third-party", "insurer-0", 30, 120),
        ),
    ),
    "flash": Scenario(
        about="tenfold floods within a minute, on a big, a middling and a small port, beside a planned campaign",
        start="2026-09-16T09:00",
        minutes=120,
        daily_submits=800_000,
        cues=(
            Cue("flash", "parcel-1", 30, 8),
            Cue("flash", "bank-3", 50, 8),
            Cue("flash", "school-2", 70, 15),
            Cue("planned-campaign", "retail-1", 60, 40),
        ),
    ),
    "ramp": Scenario(
        about="slow rises to fourfold, and a step that stays",
        start="2026-09-16T09:00",
        minutes=240,
        daily_submits=500_000,
        cues=(
            Cue("ramp", "login-1", 40, 90),
            Cue("ramp", "bank-2", 60, 120),
            Cue("step", "parcel-3", 90, 120),
        ),
    ),
    "limits": Scenario(
        about="19:30 to 22:00: caps that are broken and kept, marketing and codes at night, idle ports that send",
        start="2026-09-16T19:30",
        minutes=150,
        daily_submits=400_000,
        cues=(
            Cue("cap-minute", "login-1", 20, 10),
            Cue("within-cap", "login-0", 30, 20),
            Cue("cap-day", "school-0", 10, 75),
            Cue("quiet-hours", "shop-1", 95, 40),
            Cue("night-codes", "retail-1", 95, 40),
            Cue("dormant", "clinic-0", 30, 60),
            Cue("first-traffic", "clinic-1", 30, 60),
        ),
    ),
    "broken": Scenario(
        about="as much poison as traffic: every kind of broken record, with the fate that the contract gives it",
        start="2026-09-16T10:00",
        minutes=30,
        daily_submits=150_000,
        broken=300,
        broken_between=(2, 30),
    ),
}
"""Name -> recipe; `about` says in one line what happens."""


class Simulation:
    """A scenario, drawn. Deterministic to the byte for (scenario, seed, scale); submits are made while iterating."""

    def __init__(self, scenario: str, seed: int, scale: float = 1.0) -> None:
        recipe = SCENARIOS[scenario]
        self.scenario, self.seed, self.scale = scenario, seed, scale
        self.start_ms = recipe.start_ms
        self.end_ms = self.start_ms + recipe.minutes * MINUTE_MS
        roots = np.random.SeedSequence([seed, crc32(scenario.encode())]).spawn(4)
        world_seed = np.random.SeedSequence(seed)  # the same market in every scenario of a seed
        self._world = open_market(np.random.default_rng(world_seed), self.start_ms, recipe.daily_submits * scale)
        self._background = list(self._world.senders)
        self._rates = draw_rates(
            np.random.default_rng(roots[0]),
            [sender.rhythm for sender in self._background],
            np.array([sender.daily for sender in self._background]),
            self.start_ms - HISTORY_DAYS * DAY_MS,
            self.end_ms,
        )
        self._history_seed = roots[1]
        span = Window(self.start_ms, self.end_ms)
        stage = Stage(self._world, self._rates, span, _foreigners(self._world))
        for cue in recipe.cues:
            KINDS[cue.kind](Scene(stage, cue.kind, self._world.ports[cue.port], cue.window(self.start_ms)))
        label_looks(stage)
        broken = self._broken(np.random.default_rng(roots[2]), recipe)
        self.labels: list[Row] = stage.labels + (broken.labels if broken else [])
        self._traffic = Traffic(roots[3], stage, broken)

    @property
    def registry(self) -> dict[str, list[Row]]:
        """Rows per file of the registry folder: ports, signatures, enterprises, campaigns."""
        return self._world.registry()

    @cached_property
    def history(self) -> History:
        return draw_history(np.random.default_rng(self._history_seed), self._background, self._rates, self.start_ms)

    def blocks(self) -> Iterator[Block]:
        """Submits by minute of arrival: the fast way, with keys and arrival times."""
        return self._traffic.blocks()

    def lines(self) -> Iterator[bytes]:
        """Submits as JSON lines without line feeds, in order of arrival."""
        for block in self.blocks():
            yield from block.lines

    def _broken(self, rng: np.random.Generator, recipe: Scenario) -> BrokenLines | None:
        if not recipe.broken:
            return None
        first, last = (self.start_ms + minute * MINUTE_MS for minute in recipe.broken_between)
        return broken_lines(rng, self._background, Window(first, last), recipe.broken)


def simulate(scenario: str, seed: int, scale: float = 1.0) -> Simulation:
    """Draw a scenario. `scale` multiplies the traffic of all background senders (not their number, and not the
    incidents: floods stay tenfold of their port, staged senders keep their rates).

    Raises ValueError for a scenario that is not one of SCENARIOS, and for a scale that is not above 0.
    """
    if scenario not in SCENARIOS:
        raise ValueError(f"scenario: {scenario!r} is not one of {', '.join(SCENARIOS)}")
    if not scale > 0:
        raise ValueError(f"scale: {scale} is not above 0")
    return Simulation(scenario, seed, scale)


def write(simulation: Simulation, out_dir: Path, progress: Callable[[float], None] | None = None) -> None:
    """Write submits.jsonl, registry/*.jsonl, labels.jsonl and history.jsonl. `progress` gets the share done, 0 to 1."""
    registry = out_dir / "registry"
    registry.mkdir(parents=True, exist_ok=True)
    for name, rows in simulation.registry.items():
        _write_rows(registry / f"{name}.jsonl", rows)
    _write_rows(out_dir / "labels.jsonl", simulation.labels)
    with (out_dir / "history.jsonl").open("wb") as file:
        file.writelines(line + b"\n" for line in simulation.history.lines())
    minutes = (simulation.end_ms - simulation.start_ms) // MINUTE_MS
    with (out_dir / "submits.jsonl").open("wb") as file:
        for done, block in enumerate(simulation.blocks(), 1):
            file.writelines(line + b"\n" for line in block.lines)
            if progress:
                progress(done / minutes)


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))


def _foreigners(world: World) -> Iterator[Company]:
    """Clients of the aggregators, smallest first: companies with a filing elsewhere that may turn up as tenants."""
    clients = [
        row["enterprise_id"]
        for row in world.filings
        if any(row["access_port"] == port.number for port, look in world.looks if look == "aggregator")
    ]
    by_id = {company.enterprise_id: company for company in world.companies}
    return (by_id[enterprise_id] for enterprise_id in dict.fromkeys(reversed(clients)))
