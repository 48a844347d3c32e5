"""Unified social credit codes of companies that do not exist: right in form and check digits, in region 000000,
which GB/T 2260 gives to nobody."""

_CODE = "0123456789ABCDEFGHJKLMNPQRTUWXY"
_ORGANISATION = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ORGANISATION_WEIGHTS = (3, 7, 9, 10, 5, 8, 4, 2)


def credit_code(kind: str, serial: int) -> str:
    """The code of the `serial`-th company of a two-digit kind (91 enterprise, 11 government).

    Check characters by GB 11714 (organisation part, modulo 11) and GB 32100-2015 (whole code, modulo 31).
    """
    organisation = f"{serial:08d}"
    body = f"{kind}000000{organisation}{_organisation_check(organisation)}"
    return body + code_check(body)


def code_check(body: str) -> str:
    """The 18th character for the first 17, by GB 32100-2015."""
    total = sum(_CODE.index(character) * pow(3, place, 31) for place, character in enumerate(body))
    return _CODE[-total % 31]


def _organisation_check(organisation: str) -> str:
    pairs = zip(organisation, _ORGANISATION_WEIGHTS, strict=True)
    check = 11 - sum(_ORGANISATION.index(character) * weight for character, weight in pairs) % 11
    return "0X"[check == 10] if check >= 10 else str(check)  # noqa: PLR2004 - the standard's own letter for ten
