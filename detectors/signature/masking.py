"""The sample of a text that may go into evidence: who signed and how it begins, without anything personal.

Digits, links, addresses and personal names are hidden, what a screen could trip over is dropped. It is not an
anonymisation of the text: it is short on purpose.
"""

import re
import unicodedata
from collections.abc import Callable

from detectors.signature.extract import Form

_WINDOW = 96  # of the text: what is shown, and enough behind it to see the end of a link or an address
_BODY = 24
_HIDDEN = "*"

_LINK = re.compile(
    r"(?:https?://|www\.)[!-~]{0,160}|[0-9a-z_+.-]{1,64}@[0-9a-z.-]{1,64}|[0-9a-z-]{1,63}(?:\.[0-9a-z-]{1,63}){1,4}(?:/[!-~]{0,160})?",
    re.IGNORECASE,
)
_SPELLED = re.compile(r"[零〇一二三四五六七八九十百千万两幺壹贰叁肆伍陆柒捌玖拾]{3,}")
_PERSON = re.compile(
    r"(?<=尊敬的)[^【】\s，,：:！!]{1,8}?(?=先生|女士|小姐|老师|同学)|[^【】\s，,：:！!的]{1,3}(?=先生|女士|小姐)"
)
_PERSONAL = (
    (_LINK, (".", "@", "://")),
    (_SPELLED, ("",)),
    (_PERSON, ("先生", "女士", "小姐", "老师", "同学")),
)
"""What to hide, and what must be in a text for it to be worth a look: most have none of it."""

_DIGIT = r"[\d\u2070-\u2089\u2460-\u249b\u24ea-\u24ff\u2776-\u2793零〇一二三四五六七八九幺壹贰叁肆伍陆柒捌玖]"
"""Raised, circled and spelled ones as well."""
_LONG_NUMBER = re.compile(rf"{_DIGIT}(?:[\s._·-]?{_DIGIT}){{5,}}")
_LONGEST_SHOWN = 80  # of a name; the longest company names have half of that


def masked(text: str, name: str | None, form: Form) -> str:
    """The bracketed name and about 24 characters, at most 92; safe to show, digits hidden in the name as well.

    `name` and `form` are what `extract` says of the text.
    """
    shown = _hide(text[:_WINDOW])
    sample = shown[: shown.find("】", 0, 40) + 1 + _BODY]
    if len(sample) < len(shown) or len(text) > _WINDOW:
        sample += "…"
    if name is None or form in (Form.HEAD, Form.CONFLICT):
        return sample
    at = text.rfind(name)
    signed = _hide(text[at - 1 : at + len(name) + 1])
    return sample if signed in sample else sample + signed


def shown(name: str) -> str:
    """A name that is safe to show: as `visible`, and no number longer than a hot line's, however it is written."""
    return _LONG_NUMBER.sub(_stars, visible(name))


def visible(name: str) -> str:
    """Nothing that a screen could trip over, and no more than a line can hold."""
    seen = name.translate(_SEEN)
    return seen if len(seen) <= _LONGEST_SHOWN else seen[:_LONGEST_SHOWN] + "…"


def _hide(text: str) -> str:
    seen = text.translate(_SEEN)
    for pattern, marks in _PERSONAL:
        if any(mark in seen for mark in marks):
            seen = pattern.sub(_stars, seen)
    return seen.translate(_NUMBERLESS)


def _stars(found: re.Match[str]) -> str:
    return _HIDDEN * min(3, len(found[0]))


def _visible(character: str) -> str:
    """Spaces for line breaks; nothing for controls, bidi marks, zero-width and private characters."""
    if character.isspace():
        return " "
    return "" if unicodedata.category(character)[0] in "CM" else character


def _numberless(character: str) -> str:
    return _HIDDEN if unicodedata.category(character)[0] == "N" else character


class _Characters(dict[int, str]):
    """A table for str.translate that is filled as characters turn up; there are only so many of them."""

    def __init__(self, shown_as: Callable[[str], str]) -> None:
        super().__init__()
        self._shown_as = shown_as

    def __missing__(self, code: int) -> str:
        shown = self[code] = self._shown_as(chr(code))
        return shown


_SEEN = _Characters(_visible)
_NUMBERLESS = _Characters(_numberless)
