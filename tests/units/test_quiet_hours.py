"""Hours of the lease and of marketing: who is out of hours, who is exempt, and how a night becomes one episode."""

from typing import Any

import pytest

from detectors.compliance.quiet_hours import QuietHoursDetector
from detectors.contract import PANE_MS, Severity
from detectors.event_time import DAY_MS, HOUR_MS
from detectors.registry import Caps, Filing, PortLease, Purpose, Registry
from detectors.terms import Hours, is_open, open_hours
from tests.partition import Partition, panes
from tests.rows import START_MS, Row

PORT, BANK, SHOP = "10690010", "青禾银行", "赤松商城"
NINE_PM_MS = 12 * HOUR_MS  # START_MS is nine in the morning
EIGHT_AM_MS = 23 * HOUR_MS
AD, CODE = f"【{SHOP}】全场五折，拒收请回复R", f"【{BANK}】您的验证码是482913"


def registry(*filings: Filing, hours: Hours | None = None, purposes: tuple[Purpose, ...] = ()) -> Registry:
    lease = PortLease(access_port=PORT, lessee_id="E0", caps=Caps(hours=hours), purposes=purposes)
    return Registry(ports=(lease,), filings=filings, version="1")


def filed(signature: str, purpose: Purpose, **more: Any) -> Filing:
    return Filing(access_port=PORT, signature=signature, enterprise_id="E0", purpose=purpose, **more)


MARKET = registry(purposes=("marketing",))


def opened(known: Registry, *rows: Row) -> list[int]:
    """When alerts opened, in ms after START_MS."""
    partition = Partition(known, (QuietHoursDetector(),))
    partition.send(*rows)
    partition.pass_to(3 * DAY_MS)
    assert {(alert.detector, alert.rule, alert.severity) for alert in partition.alerts} <= {
        ("compliance", "quiet-hours", Severity.INFO)
    }
    return [alert.first_seen_ms - START_MS for alert in partition.told()]


def hourly(hours: int = 24, recipients: int = 50, **row: Any) -> list[Row]:
    return [Row(id=0, at_ms=hour * HOUR_MS, recipients=recipients, **row) for hour in range(hours)]


# --- hours


@pytest.mark.parametrize(
    ("hours", "open_ones"),
    [((8, 21), range(8, 21)), ((0, 24), range(24)), ((22, 6), [*range(6), 22, 23]), ((23, 24), [23]), ((5, 4), None)],
)
def test_hours_are_half_open_and_go_over_midnight(hours: Hours, open_ones: Any) -> None:
    expected = list(open_ones) if open_ones is not None else [hour for hour in range(24) if hour != 4]
    assert [hour for hour in range(24) if is_open(hours, hour)] == expected
    assert open_hours(hours) == sum(1 << hour for hour in expected)


@pytest.mark.parametrize(
    ("hours", "first_out"),
    [((8, 18), 9), ((9, 10), 1), ((10, 9), 0), ((20, 12), 3), ((0, 24), None)],
)
def test_the_hours_of_the_lease_bind_all_that_it_sends(hours: Hours, first_out: int | None) -> None:
    expected = [] if first_out is None else [first_out * HOUR_MS]
    assert opened(registry(filed(BANK, "code"), hours=hours), *hourly(13, text=CODE)) == expected


def test_the_second_that_the_hours_end_is_outside_and_the_one_before_is_not() -> None:
    rows = [Row(id=0, at_ms=NINE_PM_MS - 1, recipients=500), Row(id=0, at_ms=NINE_PM_MS, recipients=20)]
    partition = Partition(MARKET, (QuietHoursDetector(),))
    partition.send(*rows)
    partition.pass_to(DAY_MS)
    assert [(a.first_seen_ms - START_MS, a.evidence["messages"]) for a in partition.told()] == [(NINE_PM_MS, 20)]


def test_the_morning_begins_when_the_hours_do() -> None:
    assert opened(MARKET, Row(id=0, at_ms=EIGHT_AM_MS, recipients=500)) == []
    assert opened(MARKET, Row(id=0, at_ms=EIGHT_AM_MS - 1, recipients=500)) == [EIGHT_AM_MS - PANE_MS]


# --- who is marketing


@pytest.mark.parametrize(
    ("purposes", "filings", "guilty"),
    [
        (("marketing",), (), True),
        ((), (), False),
        (("code",), (), False),
        (("public",), (), False),
        (("code", "marketing"), (), False),
        (("code",), (filed(SHOP, "marketing"),), True),
        (("marketing",), (filed(SHOP, "notification"),), False),
        (("marketing",), (filed(SHOP, "code", extension="02"),), True),
        (("code",), (filed(SHOP, "marketing", state=2),), False),
        (("code",), (filed(SHOP, "marketing", carrier="unicom"),), False),
        (("code",), (filed(SHOP, "marketing", carrier="mobile"),), True),
        (("code",), (filed(SHOP, "marketing"), filed(SHOP, "code")), False),
        (("code",), (filed(SHOP, "code"), filed(SHOP, "marketing", extension="01")), True),
    ],
)
def test_marketing_is_what_the_filing_says_or_else_the_port(
    purposes: tuple[Purpose, ...], filings: tuple[Filing, ...], guilty: bool
) -> None:
    known = registry(*filings, purposes=purposes)
    if any(filing.extension is None for filing in filings):
        lease = PortLease(access_port=PORT, lessee_id="E0", purposes=purposes, allow_self_extension=True)
        known = Registry(ports=(lease,), filings=filings, version="1")
    row = Row(id=0, at_ms=15 * HOUR_MS, recipients=100, extension="01", carrier="mobile", text=AD)
    assert opened(known, row) == ([15 * HOUR_MS] if guilty else [])


def test_what_the_gateway_signs_is_judged_by_its_filing() -> None:
    signed = filed(SHOP, "marketing", extension="01", is_gateway_signature=True)
    row = Row(id=0, at_ms=15 * HOUR_MS, recipients=100, extension="01", text="全场五折，拒收请回复R")
    assert opened(registry(signed, purposes=("code",)), row) == [15 * HOUR_MS]


def test_the_lease_does_not_excuse_marketing_at_night() -> None:
    known = registry(filed(SHOP, "marketing", extension="01"), hours=(0, 24))
    assert opened(known, Row(id=0, at_ms=15 * HOUR_MS, recipients=100, extension="01", text=AD)) == [15 * HOUR_MS]


def test_nobody_is_judged_without_a_registry() -> None:
    assert opened(Registry(), Row(id=0, at_ms=15 * HOUR_MS, recipients=100)) == []


# --- a night


def test_stragglers_wake_nobody_up() -> None:
    assert opened(MARKET, *panes(19, NINE_PM_MS // PANE_MS)) == []
    assert opened(MARKET, *panes(20, NINE_PM_MS // PANE_MS)) == [NINE_PM_MS + 19 * PANE_MS]


def test_retries_are_not_counted() -> None:
    rows = [Row(id=0, at_ms=NINE_PM_MS, recipients=19), Row(id=0, at_ms=NINE_PM_MS, recipients=50, is_retry=True)]
    assert opened(MARKET, *rows) == []


def test_a_night_is_one_episode_and_the_next_night_another() -> None:
    rows = [*hourly(48), Row(id=0, at_ms=EIGHT_AM_MS - 1, recipients=50)]
    assert opened(MARKET, *sorted(rows, key=lambda row: row.at_ms)) == [NINE_PM_MS, NINE_PM_MS + DAY_MS]


def test_a_night_is_counted_by_itself() -> None:
    partition = Partition(MARKET, (QuietHoursDetector(),))
    partition.send(*hourly(48))
    partition.pass_to(3 * DAY_MS)
    assert [(alert.state, alert.evidence["messages"]) for alert in partition.alerts] == [
        ("open", 50),
        ("updated", 500),  # at six in the morning
        ("resolved", 550),
        ("open", 50),
        ("updated", 500),
        ("resolved", 550),
    ]


def test_a_restart_goes_on_with_the_night() -> None:
    partition = Partition(MARKET, (QuietHoursDetector(),))
    partition.send(Row(id=0, at_ms=NINE_PM_MS, recipients=12, extension="01", account="a"))
    partition.pass_to(NINE_PM_MS + HOUR_MS)
    partition.restart()
    partition.send(Row(id=0, at_ms=NINE_PM_MS + 2 * HOUR_MS, recipients=12, extension="01", account="a"))
    partition.pass_to(2 * DAY_MS)
    (alert,) = partition.told()
    assert alert.evidence == {
        "messages": 24,
        "since_ms": START_MS + NINE_PM_MS,
        "hours": [8, 21],
        "bound_by": "marketing",
        "top_full_ports": [{"extension": "01", "messages": 12}],
        "top_accounts": [{"account": "a", "messages": 12}],
    }
    assert alert.summary.en == "24 marketing messages at night, outside of 08:00-21:00"
    assert alert.summary.zh == "夜间（08:00-21:00以外）发送营销短信24条"


def test_what_the_lease_says_is_told_as_such() -> None:
    partition = Partition(registry(hours=(10, 9)), (QuietHoursDetector(),))
    partition.send(Row(id=0, recipients=30))
    partition.pass_to(HOUR_MS)
    (alert,) = partition.told()
    assert (alert.evidence["hours"], alert.evidence["bound_by"]) == ([10, 9], "lease")
    assert alert.summary.en == "30 messages outside of the hours of the lease, 10:00-09:00"
    assert alert.summary.zh == "租约约定时段（10:00-09:00）外发送30条"
