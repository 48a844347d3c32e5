"""The terminal view drawn at the sizes people have: it fits, the gravest comes first, and what is cut is said."""

from collections.abc import Iterator
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from streams.noc.screen import Picture, drawn, figures, line

START_MS = 1_794_268_800_000  # 08:00 in Shanghai


def alert(number: int, severity: str = "warning", evidence: str = "20 submits without a signature") -> dict[str, Any]:
    return {
        "alert_id": f"missing-{number}",
        "state": "open",
        "severity": severity,
        "rule": "missing",
        "access_port": f"1069{number:04}",
        "extension": None,
        "first_seen_ms": START_MS + 1_000 * number,
        "detected_event_ms": START_MS + 1_000 * number,
        "summary": {"en": evidence},
    }


def picture(*alerts: dict[str, Any]) -> Picture:
    seen = Picture("playing")
    for one in alerts:
        seen.hear(one)
    return seen


def screen(seen: Picture, width: int, height: int) -> list[str]:
    console = Console(width=width, height=height, force_terminal=True, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(drawn(seen))
    return capture.get().splitlines()


def ports(lines: list[str]) -> Iterator[str]:
    return (word for text in lines for word in text.split() if word.startswith("1069"))


LONG = "leased to 鹭川晴葵网络科技有限公司, is used by 5 other enterprises " * 6


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (200, 50), (40, 16)])
@pytest.mark.parametrize("count", [0, 1, 6, 60])
def test_it_fills_the_terminal_and_no_more(width: int, height: int, count: int) -> None:
    seen = picture(*(alert(number, evidence=LONG) for number in range(count)))
    seen.rejected.update({f"reason-{number}": 1_000 for number in range(8)})

    lines = screen(seen, width, height)

    assert len(lines) == height
    assert {cell_len(text) for text in lines} == {width}
    assert "rejected" in "".join(lines)


def test_the_gravest_and_newest_come_first_and_the_rest_is_counted() -> None:
    seen = picture(*(alert(number, "warning" if number % 2 else "info") for number in range(20)), alert(50, "critical"))

    lines = screen(seen, 80, 24)

    assert list(ports(lines)) == ["10690050", "10690019", "10690017", "10690015", "10690013"]
    assert "open alerts: 21, resolved: 0" in lines[3]
    assert "... and 16 more" in "".join(lines)


def test_evidence_is_whole_where_there_is_room_and_cut_to_a_line_where_not() -> None:
    evidence = " ".join(f"word{number}" for number in range(40))
    assert "word39" in "".join(screen(picture(alert(1, evidence=evidence)), 80, 24))

    crowded = "".join(screen(picture(*(alert(number, evidence=evidence) for number in range(6))), 80, 24))
    assert crowded.count("word0 ") == 6
    assert "word39" not in crowded


def test_a_resolved_alert_leaves_the_screen() -> None:
    seen = picture(alert(1), alert(2))
    seen.hear(alert(1) | {"state": "resolved"})
    assert list(ports(screen(seen, 80, 24))) == ["10690002"]
    assert seen.resolved == 1


@pytest.mark.parametrize("hostile", ["\x1b[2J", "[bold]x[/bold]", "\u202eabc", "a\nb\rc", "【[/]】"])
def test_what_an_alert_quotes_can_not_steer_the_terminal(hostile: str) -> None:
    told = [*screen(picture(alert(1, evidence=hostile)), 80, 24), line(alert(1, evidence=hostile))]
    assert len(told) == 25
    assert not {"\x1b", "\u202e", "\r"} & set("".join(told))
    assert "".join(c for c in hostile if c.isprintable()) in "".join(told)


def test_figures_are_a_line_from_the_beginning_on() -> None:
    assert figures(Picture("")) == "--:--:-- 0 submits/s, lag 0, counted 0, open alerts: 0, rejected: none"
    assert figures(picture(alert(5))).startswith("08:00:05 ")
