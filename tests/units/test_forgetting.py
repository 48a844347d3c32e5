"""What is forgotten, what never is, and who can't crowd out whom."""

from collections.abc import Sequence

import numpy as np
import pytest

from detectors.event_time import DAY_MS, HOUR_MS
from detectors.forgetting import Retention
from detectors.groups import Groups
from detectors.registry import PortLease, Registry
from tests.rows import START_MS, Row, batch

LEASED = tuple(f"1069000{n}" for n in range(10))
REGISTRY = Registry(ports=tuple(PortLease(access_port=port) for port in LEASED))
NOBODY = tuple(f"1068000{n}" for n in range(10))


def met(groups: Groups, ports: Sequence[str], at_ms: int = 0, extension: str | None = None) -> list[int]:
    rows = [Row(id=n, at_ms=at_ms, port=port, extension=extension) for n, port in enumerate(ports)]
    codes: list[int] = groups.intern(batch(rows), REGISTRY).tolist()
    return codes


def used_until(groups: Groups, code: int, at_ms: int) -> None:
    groups.note(np.array([code], np.int32), START_MS + at_ms)


def forget(groups: Groups, at_ms: int, held: Sequence[int] = ()) -> tuple[list[int], list[int]]:
    """The codes of groups and ports that went."""
    groups.know(REGISTRY)
    gone = Retention().gone(groups, np.array(held, np.int32), REGISTRY, START_MS + at_ms)
    groups.forget(gone)
    return gone.groups.tolist(), gone.ports.tolist()


@pytest.mark.parametrize(
    ("port", "used_ms", "idle_ms", "gone"),
    [
        (LEASED[0], 0, 7 * DAY_MS - 1, ([], [])),
        (LEASED[0], 0, 7 * DAY_MS, ([1], [])),
        (LEASED[0], 0, 35 * DAY_MS, ([1], [1])),
        (NOBODY[0], 0, 20 * HOUR_MS - 1, ([], [])),
        (NOBODY[0], 0, 20 * HOUR_MS, ([1], [1])),
        (NOBODY[0], DAY_MS - 1, 20 * HOUR_MS, ([1], [1])),
        (NOBODY[0], DAY_MS, 20 * HOUR_MS, ([], [])),
        (NOBODY[0], DAY_MS, 35 * DAY_MS, ([1], [1])),
    ],
)
def test_without_need_only_what_has_been_idle_for_long(
    port: str, used_ms: int, idle_ms: int, gone: tuple[list[int], list[int]]
) -> None:
    groups = Groups()
    used_until(groups, met(groups, [port])[0], used_ms)
    assert forget(groups, used_ms + idle_ms) == gone


def test_what_an_open_pane_counts_is_kept_whatever_its_age() -> None:
    groups = Groups()
    met(groups, [LEASED[0], NOBODY[0]])
    assert forget(groups, 40 * DAY_MS, held=[1, 2]) == ([], [])
    assert forget(groups, 40 * DAY_MS) == ([1, 2], [1, 2])


def test_the_lowest_free_code_is_used_first_and_those_of_the_living_stay() -> None:
    groups = Groups()
    met(groups, [NOBODY[0], LEASED[0], NOBODY[1], NOBODY[2]])
    assert forget(groups, DAY_MS) == ([1, 3, 4], [1, 3, 4])
    assert groups.ports == ["", "", LEASED[0], "", ""]
    assert met(groups, [NOBODY[5], LEASED[0], NOBODY[6]], DAY_MS) == [1, 2, 3]
    assert groups.ports == ["", NOBODY[5], LEASED[0], NOBODY[6], ""]


def test_nobody_fills_more_than_a_quarter_and_leases_come_in_after() -> None:
    groups = Groups(port_limit=12)
    assert met(groups, NOBODY) == [1, 2, 3] + [0] * 7
    assert 0 not in met(groups, LEASED[:9])
    assert groups.turned_away == {"unleased_ports": 7}


def test_one_port_fills_no_more_than_an_eighth_of_the_groups() -> None:
    groups = Groups(group_limit=16)
    codes = [met(groups, [LEASED[0]], extension=str(n))[0] for n in range(5)]
    assert codes == [1, 2, 0, 0, 0]
    assert met(groups, [LEASED[1]]) == [3]
    assert groups.turned_away == {"groups_of_one_port": 3}


def test_under_pressure_newcomers_go_the_longest_idle_first() -> None:
    groups = Groups(port_limit=16)  # 4 of nobody, pressing from the fourth on
    met(groups, NOBODY[:4])
    for code, at_ms in ((1, 40_000), (2, 10_000), (3, 30_000), (4, 20_000)):
        used_until(groups, code, at_ms)
    assert forget(groups, HOUR_MS) == ([], [])  # an hour is spared
    assert forget(groups, 2 * HOUR_MS) == ([2, 4], [2, 4])
    assert forget(groups, 3 * HOUR_MS) == ([], [])  # no longer pressing


def test_under_pressure_what_has_a_history_stays() -> None:
    groups = Groups(port_limit=16)
    met(groups, NOBODY[:4])
    for code in (1, 2, 3):
        used_until(groups, code, DAY_MS)
    used_until(groups, 4, DAY_MS - 1)
    assert forget(groups, DAY_MS + 2 * HOUR_MS) == ([4], [4])


def test_groups_of_a_crowded_port_go_and_its_old_ones_stay() -> None:
    groups = Groups(group_limit=64)
    codes = [met(groups, [LEASED[0]], extension=str(n))[0] for n in range(8)]
    used_until(groups, codes[5], DAY_MS)
    assert forget(groups, DAY_MS + 2 * HOUR_MS) == ([1, 2, 3, 4], [])


def test_a_lease_that_comes_later_and_a_known_history_are_standing_too() -> None:
    groups = Groups(port_limit=4)
    groups.vouch([NOBODY[1]])
    assert met(groups, [NOBODY[0], NOBODY[1], NOBODY[2]]) == [1, 2, 0]
    groups.know(Registry(ports=(PortLease(access_port=NOBODY[0]),)))
    assert met(groups, [NOBODY[2]]) == [3]


def test_blocks_that_changed_are_told() -> None:
    groups = Groups()
    met(groups, [LEASED[0]])
    assert (groups.touched, groups.touched_ports) == ({0}, {0})
    groups.touched.clear()
    met(groups, [LEASED[0]] * 3)
    assert groups.touched == set()
    forget(groups, 7 * DAY_MS)
    assert groups.touched == {0}
