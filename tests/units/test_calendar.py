"""Days off, make-up workdays, festivals: against the notices of the State Council and printed calendars."""

from collections import Counter
from collections.abc import Callable
from datetime import date, timedelta
from time import process_time

import numpy as np
import pytest
from chinese_calendar import is_holiday, is_workday
from hypothesis import given
from hypothesis import strategies as st

from detectors import calendar
from detectors.calendar import DayKind, Festival, day_of, festival_prior, festivals, is_announced, kind_of_day
from detectors.volume.ports import CLASSES

WORKDAY, WEEKEND, HOLIDAY = DayKind
EPOCH = date(1970, 1, 1)
CALENDAR_DAYS = st.dates(date(1901, 1, 1), date(2100, 12, 31))
ANNOUNCED = range(2004, 2027)
NEW_YEARS = """
1996-02-19 1997-02-07 1998-01-28 1999-02-16 2000-02-05 2001-01-24 2002-02-12 2003-02-01 2004-01-22 2005-02-09
2006-01-29 2007-02-18 2008-02-07 2009-01-26 2010-02-14 2011-02-03 2012-01-23 2013-02-10 2014-01-31 2015-02-19
2016-02-08 2017-01-28 2018-02-16 2019-02-05 2020-01-25 2021-02-12 2022-02-01 2023-01-22 2024-02-10 2025-01-29
2026-02-17 2027-02-06 2028-01-26 2029-02-13 2030-02-03 2031-01-23 2032-02-11 2033-01-31 2034-02-19 2035-02-08
2036-01-28
"""


def number(text: str | date) -> int:
    return ((date.fromisoformat(text) if isinstance(text, str) else text) - EPOCH).days


def kinds(first: str, last: str) -> list[DayKind]:
    return [kind_of_day(day) for day in range(number(first), number(last) + 1)]


def days_of(year: int) -> range:
    return range(number(date(year, 1, 1)), number(date(year + 1, 1, 1)))


@pytest.mark.parametrize(
    ("at_ms", "day"),
    [
        (0, 0),
        (57_600_000 - 1, 0),
        (57_600_000, 1),  # 16:00 UTC is midnight in Shanghai
        (-28_800_000, 0),
        (-28_800_001, -1),
        (1_762_790_400_000, number("2025-11-11")),
    ],
)
def test_a_day_begins_at_midnight_in_shanghai(at_ms: int, day: int) -> None:
    assert day_of(at_ms) == day


@pytest.mark.parametrize(
    ("year", "make_up"),
    [
        (2024, "02-04 02-18 04-07 04-28 05-11 09-14 09-29 10-12"),
        (2025, "01-26 02-08 04-27 09-28 10-11"),
        (2026, "01-04 02-14 02-28 05-09 09-20 10-10"),
    ],
)
def test_weekends_that_are_worked_are_workdays(year: int, make_up: str) -> None:
    worked = [
        f"{at:%m-%d}"
        for day in days_of(year)
        if (at := EPOCH + timedelta(days=day)).isoweekday() > 5 and kind_of_day(day) == WORKDAY
    ]
    assert worked == make_up.split()


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ("2025-10-01", "2025-10-08"),  # National Day with Mid-Autumn
        ("2026-02-15", "2026-02-23"),  # the Spring Festival of nine days
        ("2020-01-24", "2020-02-02"),  # the one that the epidemic made longer
        ("2015-09-03", "2015-09-04"),  # once only: seventy years after the war
        ("2025-01-01", "2025-01-01"),
    ],
)
def test_a_holiday_is_as_long_as_announced(first: str, last: str) -> None:
    around = kinds(
        str(date.fromisoformat(first) - timedelta(days=1)), str(date.fromisoformat(last) + timedelta(days=1))
    )
    assert set(around[1:-1]) == {HOLIDAY}
    assert HOLIDAY not in {around[0], around[-1]}


def test_a_week_without_holiday_is_a_week() -> None:
    assert kinds("2026-03-02", "2026-03-08") == [WORKDAY] * 5 + [WEEKEND] * 2


@given(st.dates(date(2004, 1, 1), date(2026, 12, 31)))
def test_days_agree_with_the_announcements(at: date) -> None:
    assert (kind_of_day(number(at)) == WORKDAY) == is_workday(at) != is_holiday(at)


def test_announced_years_are_known() -> None:
    assert [year for year in range(-5_000, 5_000) if is_announced(year)] == list(ANNOUNCED)


@pytest.mark.parametrize("year", [2025, 2026])
def test_the_rule_foretells_all_but_make_up_workdays(year: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those are the years since the rule. Announced days off are at rest by rule, and no others."""
    announced = {day: kind_of_day(day) for day in days_of(year)}
    monkeypatch.setattr(calendar, "is_announced", lambda _: False)
    calendar._special_days.cache_clear()
    by_rule = {day: kind_of_day(day) for day in days_of(year)}
    calendar._special_days.cache_clear()
    make_up = [day for day, kind in announced.items() if kind == WORKDAY and (day + 3) % 7 > 4]
    assert [day for day in days_of(year) if (announced[day] == WORKDAY) != (by_rule[day] == WORKDAY)] == make_up


def test_a_year_that_nobody_has_announced_is_by_rule() -> None:
    """2028, from the lunar calendar by hand. Saturdays and Sundays beside holidays count to them."""
    assert not is_announced(2028)
    off = [day for day in days_of(2028) if kind_of_day(day) == HOLIDAY]
    expected = [
        ("2028-01-01", 3),  # Saturday
        ("2028-01-25", 8),  # from the Eve
        ("2028-04-02", 3),  # Qingming is the Tuesday
        ("2028-05-01", 5),
        ("2028-05-27", 3),  # Dragon Boat is the Sunday
        ("2028-10-01", 8),  # Mid-Autumn is the 3rd
        ("2028-12-30", 2),  # New Year 2029 is a Monday
    ]
    assert off == [number(first) + n for first, days in expected for n in range(days)]
    assert sum(kind_of_day(day) == WORKDAY and (day + 3) % 7 > 4 for day in days_of(2028)) == 0


@given(CALENDAR_DAYS)
def test_without_announcement_no_weekend_is_worked(at: date) -> None:
    worked = kind_of_day(number(at)) == WORKDAY
    assert is_announced(at.year) or not worked or at.isoweekday() <= 5


@given(st.integers(-(2**70), 2**70))
def test_every_day_has_one_kind_and_a_prior(day: int) -> None:
    assert kind_of_day(day) in DayKind
    for port_class in CLASSES:
        factor, variance = festival_prior(day, port_class)
        assert 0.5 <= factor <= 3
        assert variance == pytest.approx(((factor - 1) / factor) ** 2)
        assert festivals(day) or (factor, variance) == (1, 0)


@pytest.mark.parametrize("outside", ["1900-12-31", "1850-01-28", "2101-01-01", "2101-01-29", "9999-10-01"])
def test_outside_of_the_lunar_calendar_there_are_weekdays_only(outside: str) -> None:
    at = date.fromisoformat(outside)
    assert kind_of_day(number(at)) == (WEEKEND if at.isoweekday() > 5 else WORKDAY)
    assert festivals(number(at)) == ()


def test_the_lunar_calendar_is_that_of_printed_ones() -> None:
    """New Year of 1996-2036, from two public lists."""
    new_years = NEW_YEARS.split()
    assert [festivals(number(at)) for at in new_years] == [
        (Festival("spring-festival", number(at) - 8, number(at) + 14),) for at in new_years
    ]


@pytest.mark.parametrize(
    ("season", "first", "last"),
    [
        ("double-11", "2026-10-20", "2026-11-16"),
        ("618", "2026-05-21", "2026-06-23"),
        ("double-12", "2026-12-09", "2026-12-15"),
        ("spring-festival", "2026-02-09", "2026-03-03"),
        ("national-day", "2026-09-28", "2026-10-07"),
    ],
)
def test_a_season_lasts_from_its_first_day_to_its_last(season: str, first: str, last: str) -> None:
    for at in (first, last):
        assert festivals(number(at)) == (Festival(season, number(first), number(last)),)
    assert festivals(number(first) - 1) == festivals(number(last) + 1) == ()


def test_seasons_never_overlap_nor_leave_their_year() -> None:
    for year in range(1901, 2101):
        seasons = Counter(festival for day in days_of(year) for festival in festivals(day))
        assert sorted(festival.name for festival in seasons) == sorted(season.name for season in calendar._SEASONS)
        assert all(days == festival.last_day - festival.first_day + 1 for festival, days in seasons.items())


def factors(day: str) -> dict[str, float]:
    return {port_class: festival_prior(number(day), port_class)[0] for port_class in CLASSES}


def test_the_prior_of_the_busiest_day_is_half_of_the_marketing_ports_at_five_times() -> None:
    half_at_five = np.array([1, 5])
    relative = half_at_five.var() / half_at_five.mean() ** 2
    assert festival_prior(number("2026-11-10"), "marketing") == pytest.approx((half_at_five.mean(), relative))


def test_marketing_leads_and_notifications_follow() -> None:
    day = {at: factors(f"2026-11-{at}") for at in ("05", "10", "11", "12", "16", "17")}
    assert day["05"]["marketing"] < day["10"]["marketing"] == day["11"]["marketing"] > day["12"]["marketing"]
    assert day["12"]["notification"] == day["11"]["notification"] > day["10"]["notification"]
    assert day["16"]["notification"] > day["16"]["marketing"] == 1
    assert day["17"] == dict.fromkeys(CLASSES, 1.0)
    assert factors("2026-10-31")["marketing"] > factors("2026-10-30")["marketing"]


def test_codes_move_least_of_what_grows_and_unknown_ports_like_the_mean() -> None:
    for at in ("2026-06-18", "2026-11-11", "2026-12-12"):
        assert factors(at)["code"] < min(factors(at)["marketing"], factors(at)["notification"])
    known = [factor for port_class, factor in factors("2026-11-11").items() if port_class != "unknown"]
    assert factors("2026-11-11")["unknown"] == pytest.approx(sum(known) / 4)


def test_a_class_that_is_none_is_refused() -> None:
    with pytest.raises(
        ValueError, match="port_class 'codes' is none of unknown, code, notification, marketing, public"
    ):
        festival_prior(0, "codes")


def test_hostile_days_cost_no_memory_and_repeated_ones_no_time() -> None:
    rng = np.random.default_rng(1)
    for day in rng.integers(-(2**62), 2**62, 1_000).tolist() + rng.integers(-50_000, 60_000, 10_000).tolist():
        kind_of_day(day)
        festival_prior(day, "marketing")
    assert calendar._special_days.cache_info().currsize <= 200
    assert calendar._festive_days.cache_info().currsize <= 200

    repeated = [number("2026-11-10") + n % 7 for n in range(100_000)]

    def seconds(look_up: Callable[[int], object]) -> float:
        start = process_time()
        for day in repeated:
            look_up(day)
        return process_time() - start

    calculating = seconds(lambda day: date.fromordinal(719_163 + day).isocalendar())
    assert seconds(kind_of_day) < 30 * calculating
    assert seconds(lambda day: festival_prior(day, "marketing")) < 30 * calculating
