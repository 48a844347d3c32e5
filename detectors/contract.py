"""The whole interface on one screen: what detectors see (closed panes) and say (findings), and what leaves (alerts).

A detector never sees a record. It sees *closed panes*: 10 s slices of event time, counted per group (who sends what
under which name), in order. So its findings can't depend on how Kafka cut the batches; that law is kept in one place,
`panes`, for every detector there will ever be.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, TypeVar

from detectors.batch import Codes, Ints
from detectors.ceilings import Ceiling
from detectors.groups import Gone, Groups
from detectors.registry import Registry

PANE_MS = 10_000
"""The unit of counting, fixed by the contract: a 10 s slice of event time, aligned to the epoch."""


class Severity(StrEnum):
    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        return list(Severity).index(self)


@dataclass(frozen=True, slots=True, eq=False)
class Pane:
    """One closed pane of one partition. Rows are the groups that sent in it, ascending by group code.

    Shapes: every array is [g]. `group` indexes the tables of `groups`. Counts are of unique submits: redelivered event
    ids are gone, and retries of submits that were not accepted are in `retries` alone.
    """

    start_ms: int  # the pane is start_ms <= event time < start_ms + PANE_MS
    watermark_ms: int  # where event time stood when the pane was closed
    group: Codes
    submits: Ints
    retries: Ints
    recipients: Ints
    segments: Ints  # segments times recipients: what the network carried
    first_offset: Ints
    groups: Groups

    @property
    def end_ms(self) -> int:
        return self.start_ms + PANE_MS


@dataclass(frozen=True, slots=True)
class Wording:
    en: str
    zh: str


@dataclass(frozen=True, slots=True)
class LegalBasis:
    law: str
    article: str
    effective_from: str  # ISO date


@dataclass(frozen=True, slots=True)
class Finding:
    """One detector, one moment, one rule, one port. `alerts` gives it identity and a life."""

    rule: str  # a key of catalog.RULES
    severity: Severity
    at_ms: int  # start of the pane it speaks of
    access_port: str
    size: float  # how big it is, in the rule's own unit; an alert is updated when this has grown tenfold
    summary: Wording
    evidence: Mapping[str, Any]  # JSON values; texts in it are masked
    extension: str | None = None  # part of the identity where the rule is about one extension
    signature: str | None = None
    lessee_id: str | None = None
    ruled_out: tuple[Wording, ...] = ()
    offsets: tuple[int, ...] = ()  # samples of what it saw


State = TypeVar("State")


class Detector(Protocol[State]):
    """Settings as a frozen dataclass; state apart, owned by the caller, handed in and handed back.

    `step` must be a function of (settings, state, pane, registry) alone: no clock, no I/O, no randomness. It may update
    `state` in place. State must pickle and must stay under a declared ceiling whatever senders do.
    """

    @property
    def name(self) -> str: ...  # tells its state and its time from those of the others; whose a rule is, `catalog` says

    def start(self) -> State: ...

    def step(self, state: State, pane: Pane, registry: Registry) -> list[Finding]: ...

    def forget(self, state: State, gone: Gone, groups: Groups, at_ms: int) -> None:
        """Clear what is held by these codes, which will belong to others, and what is over at that moment. `groups`
        has them still.

        What is over must not have mattered before either: this comes at some moments only, to give memory back.
        """

    def ceilings(self, state: State) -> Mapping[str, Ceiling]:
        """The tables in the state, by the name that metrics show."""
        ...


class AlertState(StrEnum):
    OPEN = "open"
    UPDATED = "updated"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a sample of the evidence stands: a Kafka record, or a line of a file (partition 0)."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Alert:
    """One change in the life of one episode, as in the contract (topic sms.alerts.v1)."""

    alert_id: str
    detector: str
    rule: str
    state: AlertState
    severity: Severity
    access_port: str | None
    ports: list[str]
    first_seen_ms: int
    last_seen_ms: int
    detected_event_ms: int
    summary: Wording
    evidence: Mapping[str, Any]
    runbook: str
    extension: str | None = None
    signature: str | None = None
    lessee_id: str | None = None
    gateway_id: str | None = None
    detected_ms: int | None = None
    ruled_out: list[Wording] = field(default_factory=list)
    legal_basis: list[LegalBasis] = field(default_factory=list)
    source: list[Source] = field(default_factory=list)


class Action(StrEnum):
    THROTTLE = "throttle"
    RELEASE = "release"


@dataclass(frozen=True, slots=True)
class Command:
    """What we ask a gateway to do (topic sms.commands.v1). It expires by itself; `dry_run` is the only mode so far."""

    command_id: str
    action: Action
    access_port: str
    limit_per_s: float | None  # submits a second that may pass; null for a release
    alert_id: str
    reason: str
    issued_event_ms: int
    expires_event_ms: int
    mode: str = "dry_run"
