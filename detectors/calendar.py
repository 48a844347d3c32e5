"""What kind of day is it for those who send SMS in China, and which festival moves their volumes?

Announced days off and make-up workdays (调休) are chinesecalendar's. For a year it lacks, holidays are by rule, without
make-up workdays: nobody has announced them. Dates of the moon and of Qingming are borax's. Outside of 1901-2100 there
are weekdays and weekends only.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

from borax.calendars.lunardate import LunarDate, TermUtils
from chinese_calendar import holidays, workdays

from detectors.event_time import DAY_MS, HOUR_MS

SHANGHAI_MS = 8 * HOUR_MS
"""Asia/Shanghai has been UTC+8, without summer time, since 1991."""

_EPOCH = date(1970, 1, 1)
_YEARS = range(1901, 2101)  # a choice within those of borax, 1900-2100
_FIRST_DAY, _LAST_DAY = ((day - _EPOCH).days for day in (date(_YEARS[0], 1, 1), date(_YEARS[-1], 12, 31)))
_ANNOUNCED = frozenset(day.year for day in holidays if (day.month, day.day) == (10, 1))  # every notice has that one


class DayKind(IntEnum):
    WORKDAY = 0
    WEEKEND = 1
    HOLIDAY = 2


@dataclass(frozen=True, slots=True)
class Festival:
    """One year's season of a festival. Days since the epoch in Shanghai, both inclusive."""

    name: str
    first_day: int
    last_day: int


_Priors = dict[str, tuple[float, float]]


def day_of(at_ms: int) -> int:
    """Days since the epoch in Shanghai."""
    return (at_ms + SHANGHAI_MS) // DAY_MS


def is_announced(year: int) -> bool:
    """Whether the holidays of the year are known as the State Council announced them; otherwise they are by rule."""
    return year in _ANNOUNCED


def kind_of_day(day: int) -> DayKind:
    """HOLIDAY: a day off of a public holiday, weekends within it too. WORKDAY: make-up workdays too. Any `day`."""
    usual = DayKind.WEEKEND if (day + 3) % 7 > 4 else DayKind.WORKDAY  # noqa: PLR2004 - the epoch was a Thursday
    if not _FIRST_DAY <= day <= _LAST_DAY:
        return usual
    return _special_days(_date(day).year).get(day, usual)


def festivals(day: int) -> tuple[Festival, ...]:
    """The festivals whose season the day is in; `_SEASONS` says which there are and why. Any `day`."""
    season = _season(day)
    return (season[0],) if season else ()


def festival_prior(day: int, port_class: str) -> tuple[float, float]:
    """By how much the submits of a port of that class may differ from those of an ordinary day of the same kind.

    Returns (factor, relative variance): mean of the ratio over the ports of the class, and its variance over factor^2;
    (1, 0) when there is no festival. A prior, to be shrunk by what the class shows live; `_SEASONS` has the factors.

    The variance is that of a class of which half does nothing special and the other half moves by 2 factor - 1, as
    nobody tells us who takes part: ((factor - 1) / factor)^2. A factor of 3 is half of the ports at five times their
    usual, one of 0.5 half of them silent. Raises ValueError for a class that is none.
    """
    if port_class not in _NO_FESTIVAL:
        raise ValueError(f"port_class {port_class!r} is none of {', '.join(_NO_FESTIVAL)}")
    season = _season(day)
    return (season[1] if season else _NO_FESTIVAL)[port_class]


def _date(day: int) -> date:
    return _EPOCH + timedelta(days=int(day))


def _day(at: date) -> int:
    return (at - _EPOCH).days


@lru_cache(maxsize=len(_YEARS))
def _special_days(year: int) -> dict[int, DayKind]:
    """Days of the year that are not what their weekday says."""
    if not is_announced(year):
        return {_day(at): DayKind.HOLIDAY for at in _days_off_by_rule(year) if at.year == year}
    off = {_day(at): DayKind.HOLIDAY for at in holidays if at.year == year}
    return off | {_day(at): DayKind.WORKDAY for at in workdays if at.year == year}


_ROUND_ONE_DAY = ((-2, 3), (-2, 3), (0, 1), (0, 3), (0, 3), (0, 3), (-1, 3))
"""By weekday, Monday first: where the days off about a holiday of one day start, and how many they are."""


def _days_off_by_rule(year: int) -> Iterator[date]:
    """As the State Council laid down in November 2024, when it revised 全国年节及纪念日放假办法.

    The Eve of Spring Festival and 7 days more, 1-5 May, 1-7 October (to the 8th when Mid-Autumn falls into it); three
    days about New Year, Qingming, Dragon Boat and Mid-Autumn, one if that is a Wednesday. 13 of these days are
    statutory, weekends and shifted days make the rest. Which three is a custom, read off the notices of 2018-2026.
    """
    new_year_of_the_moon, dragon_boat, mid_autumn = _lunar(year, 1, 1), _lunar(year, 5, 5), _lunar(year, 8, 15)
    qingming: date = TermUtils.nth_term_day(year, term_name="清明")
    yield from _run(new_year_of_the_moon, -1, 8)
    yield from _run(date(year, 5, 1), 0, 5)
    yield from _run(date(year, 10, 1), 0, 8 if mid_autumn.month == 10 else 7)  # noqa: PLR2004 - October
    for at in (date(year, 1, 1), qingming, dragon_boat, mid_autumn, date(year + 1, 1, 1)):
        yield from _run(at, *_ROUND_ONE_DAY[at.weekday()])


def _run(at: date, start: int, days: int) -> Iterator[date]:
    return (at + timedelta(days=n) for n in range(start, start + days))


def _lunar(year: int, month: int, day: int) -> date:
    at: date = LunarDate(year, month, day).to_solar_date()
    return at


class _Season(NamedTuple):
    name: str
    main_day: tuple[int, int] | None  # month, day; none: New Year of the moon
    last: int  # of its days, counted from the main day, as the stages are
    stages: tuple[tuple[int | float, ...], ...]  # from which day on which factors hold, those of _CLASSES


_CLASSES = ("code", "notification", "marketing", "public")
_SEASONS = (
    _Season(
        "double-11",
        main_day=(11, 11),
        last=5,
        stages=(
            (-22, 1.0, 1.2, 1.3, 1.0),  # 20 October
            (-11, 1.1, 1.2, 2.0, 1.0),  # the sale opens on the evening of 31 October
            (-10, 1.1, 1.4, 2.0, 1.0),
            (-9, 1.0, 1.4, 1.5, 1.0),
            (-5, 1.0, 1.2, 1.5, 1.0),
            (-2, 1.0, 1.2, 2.0, 1.0),
            (-1, 1.2, 1.3, 3.0, 1.1),
            (0, 1.3, 1.8, 3.0, 1.1),
            (1, 1.0, 1.8, 1.3, 1.0),
            (3, 1.0, 1.6, 1.0, 1.0),
        ),
    ),
    _Season(
        "618",
        main_day=(6, 18),
        last=5,
        stages=(
            (-28, 1.0, 1.0, 1.2, 1.0),  # 21 May
            (-18, 1.1, 1.1, 1.8, 1.0),  # the sale opens on the evening of 31 May
            (-17, 1.1, 1.3, 1.8, 1.0),
            (-16, 1.0, 1.3, 1.3, 1.0),
            (-12, 1.0, 1.1, 1.3, 1.0),
            (-2, 1.0, 1.1, 1.6, 1.0),
            (-1, 1.1, 1.2, 2.2, 1.0),
            (0, 1.2, 1.4, 2.2, 1.0),
            (1, 1.0, 1.4, 1.3, 1.0),
            (3, 1.0, 1.3, 1.0, 1.0),
        ),
    ),
    _Season(
        "double-12",
        main_day=(12, 12),
        last=3,
        stages=(
            (-3, 1.0, 1.0, 1.2, 1.0),
            (-1, 1.0, 1.0, 1.5, 1.0),
            (0, 1.1, 1.2, 1.5, 1.0),
            (1, 1.0, 1.2, 1.0, 1.0),
        ),
    ),
    _Season(
        "spring-festival",
        main_day=None,
        last=14,  # Lantern
        stages=(
            (-8, 1.0, 1.0, 1.5, 1.1),  # small new year, the 23rd of the last month, if that has 30 days
            (-3, 0.9, 0.8, 1.5, 1.2),
            (-1, 0.8, 0.6, 2.0, 1.5),  # the Eve
            (0, 0.8, 0.6, 1.3, 1.3),
            (1, 0.8, 0.6, 0.8, 1.0),
            (7, 1.0, 0.9, 1.2, 1.1),  # back to work
            (14, 1.0, 1.0, 1.3, 1.1),
        ),
    ),
    _Season(
        "national-day",
        main_day=(10, 1),
        last=6,
        stages=(
            (-3, 1.0, 1.0, 1.3, 1.1),
            (0, 1.0, 1.0, 1.3, 1.2),
            (1, 1.0, 1.0, 1.1, 1.0),
        ),
    ),
)
"""What moves the volumes of SMS ports. The factors are choices in view of these figures, not fits.

Marketing, double-11: of the spam that 360 intercepted, 78 to 83 % came from 106 ports. It was 2.1 times that of the
third quarter over 1-11 November 2016 and 4.6 times on the 10th, most of all from 20 to 21 h (中新网, 2016-11-15);
1.5 times over 11 October to 11 November 2017 and 6.4 times on the 10th (北京晨报, 2017-11-14). Since then MIIT has
admonished the shops and the day has become a season: the excess of parcels on the day is a quarter of what it was
(below). So 3 for the class on its two days, not 5.

Notification, double-11: parcels of the busiest day against ordinary ones (国家邮政局) were 3.1 times in 2014, and of
the 11th 1.87 in 2023 and 1.51 in 2024; 1.4 over 1-11 November 2023, 1.25 and 1.18 over 21 October to 11 November 2024
and 2025. Two peaks since 2021, on 1 and 11 November. Most are delivered days later, in 2016 on 14-16 November: the
season ends there.

618: MIIT saw unasked '618' marketing SMS from the last ten days of May on (2021-06). No figure was found: the shape
of double-11 with two thirds of the excess. Double-12: no figure either; shorter, and less again.

Spring Festival: parcels taken in were 59 million a day in the seven days off of 2023, 252 million in the 14 days
before (国家邮政局, 2023-01-29); but not every notification is of a parcel. Spam was below the usual, with a peak on
the Eve, half above the mean of that week (搜狗号码通, 2015-03). Greetings of firms and authorities go out on the Eve.
National Day: parcels were 0.97 of ordinary in 2024; greetings on the first, offers before it: a choice, no figure.

Codes follow what people do, shopping and logging in, and no campaign: they move least. Public: greetings and
warnings. Unknown ports get the mean of the other classes.

Left to the live factor of a class: single days such as 8 March and 9 September, and what single shops do. A prior
widens what is taken for normal, and a flood hides in it.
"""


def _priors(*factors: float) -> _Priors:
    by_class = {"unknown": sum(factors) / len(factors), **dict(zip(_CLASSES, factors, strict=True))}
    return {name: (factor, ((factor - 1) / factor) ** 2) for name, factor in by_class.items()}


_NO_FESTIVAL = _priors(1.0, 1.0, 1.0, 1.0)


def _season(day: int) -> tuple[Festival, _Priors] | None:
    return _festive_days(_date(day).year).get(day) if _FIRST_DAY <= day <= _LAST_DAY else None


@lru_cache(maxsize=len(_YEARS))
def _festive_days(year: int) -> dict[int, tuple[Festival, _Priors]]:
    """Every season lies within one year, and no two overlap."""
    days: dict[int, tuple[Festival, _Priors]] = {}
    for name, main_day, last, stages in _SEASONS:
        main = _day(date(year, *main_day) if main_day else _lunar(year, 1, 1))
        starts = [main + int(start) for start, *_ in stages]
        festival = Festival(name, starts[0], main + last)
        for (_, *factors), start, end in zip(stages, starts, [*starts[1:], main + last + 1], strict=True):
            days |= dict.fromkeys(range(start, end), (festival, _priors(*factors)))
    return days
