"""Ports that wake up: what is a silence, who must have watched it, and what nobody may claim."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from detectors.contract import PANE_MS, Severity
from detectors.event_time import DAY_MS, HOUR_MS
from detectors.forgetting import FORGET_MS
from detectors.groups import Gone
from detectors.registry import Filing, PortLease, Registry
from detectors.volume.dormancy import DormancyDetector
from tests.partition import Partition
from tests.rows import START_MS, Row

PORT, BUSY = "10690010", "10690020"
LEASES = (PortLease(access_port=PORT, lessee_id="E0"), PortLease(access_port=BUSY, lessee_id="E1"))
LEASED = Registry(ports=LEASES, version="1")


def filed(days_ago: int | None, port: str = PORT, **more: Any) -> Filing:
    """With traffic so many days before START_MS."""
    last = None if days_ago is None else START_MS - days_ago * DAY_MS
    return Filing(access_port=port, signature="青禾银行", last_traffic=last, **more)


def known(*filings: Filing) -> Registry:
    return Registry(ports=LEASES, filings=filings, version="1")


def watching(registry: Registry = LEASED, **changes: Any) -> Partition:
    return Partition(registry, (DormancyDetector(**changes),))


def days(partition: Partition, numbers: Sequence[int]) -> None:
    """The busy port sends on these days, counted from START_MS."""
    for day in numbers:
        partition.send(Row(id=0, at_ms=day * DAY_MS, port=BUSY))


def wakes(partition: Partition) -> list[tuple[str | None, int, str]]:
    """(port, silent days, how it is known) of each episode."""
    partition.pass_to((partition.state.clock_ms - START_MS) + HOUR_MS)
    return [(a.access_port, a.evidence["silent_days"], a.evidence["known_by"]) for a in partition.told()]


def after(silent_days: int, watched_days: Sequence[int] | None = None, **row: Any) -> Partition:
    """The port sends on day 0, and again when so many days have passed."""
    partition = watching()
    partition.send(Row(id=0, port=PORT))
    days(partition, range(1, silent_days) if watched_days is None else watched_days)
    partition.send(Row(id=0, at_ms=silent_days * DAY_MS + PANE_MS, port=PORT, **row))
    return partition


# --- what we watched ourselves


def test_a_month_of_silence_is_told() -> None:
    partition = after(30, recipients=7, extension="01", account="a")
    assert wakes(partition) == [(PORT, 30, "watched")]
    (alert,) = partition.told()
    assert (alert.rule, alert.detector, alert.severity, alert.lessee_id) == (
        "dormant-wakes",
        "volume",
        Severity.INFO,
        "E0",
    )
    assert alert.evidence == {
        "silent_days": 30,
        "last_traffic_ms": START_MS,
        "known_by": "watched",
        "woken_ms": START_MS + 30 * DAY_MS + PANE_MS,
        "messages": 7,
        "watched_since_ms": START_MS,
        "top_full_ports": [{"extension": "01", "messages": 7}],
        "top_accounts": [{"account": "a", "messages": 7}],
    }
    assert alert.summary.en == "sends again after at least 30 days of silence: 7 messages since it woke up"
    assert alert.summary.zh == "静默至少30天后恢复发送：恢复以来7条"


def test_less_than_a_month_is_none() -> None:
    assert wakes(after(29)) == []


@pytest.mark.parametrize(
    ("watched_days", "expected"),
    [
        (range(1, 33), [(PORT, 32, "watched")]),
        ([*range(1, 11, 3), *range(12, 33)], [(PORT, 32, "watched")]),  # three days without anybody
        ([1, 5, *range(6, 33)], []),  # four: who knows what it did meanwhile
        ([], []),
    ],
)
def test_a_silence_that_nobody_watched_is_not_claimed(watched_days: Sequence[int], expected: Any) -> None:
    assert wakes(after(32, watched_days)) == expected


def test_a_port_that_was_never_seen_is_new_however_long_we_watch() -> None:
    partition = watching()
    days(partition, range(60))
    partition.send(Row(id=0, at_ms=60 * DAY_MS, port=PORT, recipients=5_000))
    assert wakes(partition) == []


def test_one_that_sends_now_and_then_is_awake() -> None:
    partition = watching()
    for day in range(0, 100, 29):
        partition.send(Row(id=0, at_ms=day * DAY_MS, port=PORT))
        days(partition, range(day + 1, day + 29))
    assert wakes(partition) == []


# --- ports that were forgotten


@pytest.mark.parametrize("restarted", [False, True])
def test_who_sleeps_for_longer_than_ports_are_remembered_is_known_still(*, restarted: bool) -> None:
    partition = watching()
    partition.send(Row(id=0, port=PORT))
    days(partition, range(1, 100))
    assert PORT not in partition.state.groups.ports
    if restarted:
        partition.restart()
    partition.send(Row(id=0, at_ms=100 * DAY_MS, port=PORT))
    assert wakes(partition) == [(PORT, 100, "watched")]
    partition.send(Row(id=0, at_ms=102 * DAY_MS, port=PORT))
    assert wakes(partition) == [(PORT, 100, "watched")]


def test_whose_code_is_taken_over_does_not_inherit_its_sleep() -> None:
    partition = watching()
    partition.send(Row(id=0, port=PORT))
    days(partition, range(1, 40))
    heir = "10690030"
    partition.registry = Registry(ports=(*LEASES, PortLease(access_port=heir)), version="2")
    partition.send(Row(id=0, at_ms=40 * DAY_MS, port=heir))
    assert partition.state.groups.port_code(heir) == 1  # that of the forgotten one
    assert wakes(partition) == []


def test_the_table_of_sleepers_is_bounded_and_tells_what_it_lost() -> None:
    ports = [f"106900{n:04d}" for n in range(10)]
    registry = Registry(ports=tuple(PortLease(access_port=port) for port in (*ports, BUSY)), version="1")
    partition = watching(registry, asleep_limit=4)
    for n, port in enumerate(ports):
        partition.send(Row(id=0, at_ms=n * FORGET_MS, port=port))
    days(partition, range(1, 50))
    assert partition.pipeline.ceilings(partition.state)["ports_asleep"] == (4, 4, 6)
    partition.send(*(Row(id=0, at_ms=50 * DAY_MS, port=port) for port in ports))
    assert [port for port, *_ in wakes(partition)] == ports[6:]


def test_ports_that_nobody_leased_are_not_kept() -> None:
    partition = watching(Registry(ports=LEASES[1:], version="1"))
    for day in range(2):
        partition.send(Row(id=0, at_ms=day * DAY_MS, port=PORT))
        days(partition, [day])
    days(partition, range(2, 50))
    assert partition.state.detectors["dormancy"].asleep == {}


# --- what the registry watched


def test_the_registry_knows_of_a_silence_before_we_came() -> None:
    partition = watching(known(filed(90), filed(1, BUSY)))
    partition.send(Row(id=0, port=PORT))
    assert wakes(partition) == [(PORT, 89, "filed")]
    assert partition.told()[0].ruled_out[0].en.startswith("a registry out of date")


@pytest.mark.parametrize(
    "filings",
    [
        (filed(29), filed(0, BUSY)),  # not long enough
        (filed(90),),  # nobody else has had traffic since: the copy is that old
        (filed(90), filed(80, BUSY)),  # the copy ends ten days later
        (filed(90), filed(None, extension="02"), filed(1, BUSY)),  # one of its names is not known about
        (filed(90), filed(3, extension="02"), filed(1, BUSY)),  # another of its names had traffic
        (filed(None), filed(1, BUSY)),  # never sent, or nobody knows
        (filed(-3), filed(1, BUSY)),  # in the future: nonsense
        (filed(90), filed(-3_000, BUSY)),  # the same, elsewhere
    ],
)
def test_what_the_registry_does_not_prove_is_not_claimed(filings: tuple[Filing, ...]) -> None:
    partition = watching(known(*filings))
    partition.send(Row(id=0, port=BUSY), Row(id=0, port=PORT, recipients=10_000))
    assert wakes(partition) == []


def test_the_registry_and_we_watch_one_after_the_other() -> None:
    """It knows until two days before we come back; until then nobody proves the month alone."""
    partition = watching(known(filed(20), filed(0, BUSY)))
    days(partition, range(15))
    partition.send(Row(id=0, at_ms=15 * DAY_MS, port=PORT))
    assert wakes(partition) == [(PORT, 35, "filed")]


def test_we_know_better_than_the_registry() -> None:
    partition = watching(known(filed(90), filed(1, BUSY)))
    partition.send(Row(id=0, port=PORT))
    days(partition, range(1, 20))
    partition.send(Row(id=0, at_ms=20 * DAY_MS, port=PORT))
    assert wakes(partition) == [(PORT, 89, "filed")]  # the first time, not the second


def test_a_registry_that_missed_what_we_saw_proves_nothing() -> None:
    """We were away for some days after the port had sent; the registry was not, but does not know that it had."""
    partition = watching(known(filed(1), filed(-20, BUSY)))
    partition.send(Row(id=0, port=PORT))
    days(partition, range(6, 32))
    partition.send(Row(id=0, at_ms=32 * DAY_MS, port=PORT))
    assert wakes(partition) == []


def test_a_date_in_the_future_hides_nothing() -> None:
    partition = watching(known(filed(-1_000), filed(1, BUSY)))
    partition.send(Row(id=0, port=PORT))
    days(partition, range(1, 40))
    partition.send(Row(id=0, at_ms=40 * DAY_MS, port=PORT))
    assert wakes(partition) == [(PORT, 40, "watched")]


def test_a_worker_without_registry_that_came_yesterday_claims_nothing() -> None:
    partition = watching(Registry())
    days(partition, range(2))
    partition.send(Row(id=0, at_ms=DAY_MS + 1, port=PORT, recipients=10_000))
    assert wakes(partition) == []


# --- an episode


def test_a_burst_is_a_warning_and_all_of_it_is_one_episode() -> None:
    partition = after(40, recipients=9)
    for hour in (1, 5, 23):
        partition.send(Row(id=0, at_ms=40 * DAY_MS + hour * HOUR_MS, port=PORT, recipients=100))
        days(partition, [])
    partition.send(Row(id=0, at_ms=41 * DAY_MS + 5 * HOUR_MS, port=PORT, recipients=100))
    partition.pass_to(45 * DAY_MS)
    assert [(a.state, a.severity, a.evidence["messages"]) for a in partition.alerts] == [
        ("open", Severity.INFO, 9),
        ("updated", Severity.INFO, 109),
        ("updated", Severity.WARNING, 209),
        ("resolved", Severity.WARNING, 309),
    ]


def test_retries_alone_are_a_sign_of_life_and_no_messages() -> None:
    partition = watching()
    partition.send(Row(id=0, port=PORT))
    days(partition, range(1, 20))
    partition.send(Row(id=0, at_ms=20 * DAY_MS, port=PORT, is_retry=True))
    days(partition, range(21, 40))
    partition.send(Row(id=0, at_ms=40 * DAY_MS, port=PORT))
    assert wakes(partition) == []


def test_a_port_that_is_forgotten_while_awake_leaves_nothing_to_its_heir() -> None:
    partition = after(40)
    partition.pass_to(40 * DAY_MS + HOUR_MS)
    detector, state, groups = partition.detectors[0], partition.state.detectors["dormancy"], partition.state.groups
    code = groups.port_code(PORT)
    assert code in state.wakes
    none, gone = np.zeros(0, np.int32), np.array([code], np.int32)
    detector.forget(state, Gone(none, gone), groups, partition.state.clock_ms)
    assert code not in state.wakes
    assert state.last_ms[code] == 0
    assert state.asleep[PORT] == START_MS + 40 * DAY_MS + PANE_MS


def test_what_is_over_is_not_kept() -> None:
    partition = after(40)
    days(partition, range(41, 44))
    assert partition.state.detectors["dormancy"].wakes == {}
