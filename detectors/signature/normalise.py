"""One spelling for comparing names. Both sides of every comparison are folded the same way; the folded form is never
shown or stored as the name."""

import unicodedata
from functools import lru_cache


@lru_cache(maxsize=1 << 16)
def normalise(name: str) -> str:
    """Fold full-width forms, compatibility characters, case, spaces and invisible characters away.

    NFKC maps full-width to plain; characters of category C (zero-width, soft hyphen, BOM, controls) and variation
    selectors are dropped first, because NFKC leaves them in place (tried, Python 3.11). Composing a last time makes
    folding twice the same as folding once, where a dropped space brought a letter and an accent together.
    """
    visible = "".join(filter(_is_visible, name))
    folded = "".join(unicodedata.normalize("NFKC", visible).split()).casefold()
    return unicodedata.normalize("NFKC", folded)


def _is_visible(character: str) -> bool:
    variation = "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"
    return not variation and not character.isspace() and unicodedata.category(character)[0] != "C"
