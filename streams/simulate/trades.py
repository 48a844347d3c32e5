"""Who is in the market: trades and what they send, and the roles that ports play."""

from dataclasses import dataclass
from typing import Literal

Allocation = Literal["random", "sequential", "suffix"]


@dataclass(frozen=True, slots=True)
class Desk:
    """One kind of message that a company sends: a book of texts, its rhythm, its purpose."""

    book: str
    rhythm: str
    purpose: str


_CODE = Desk("code", "people", "code")
DESKS = {
    "internet": (_CODE,),
    "bank": (Desk("bank", "payments", "notification"), _CODE),
    "parcel": (Desk("parcel", "parcels", "notification"),),
    "shop": (Desk("order", "orders", "notification"), Desk("marketing", "campaigns", "marketing")),
    "retail": (Desk("marketing", "campaigns", "marketing"),),
    "travel": (Desk("travel", "orders", "notification"),),
    "utility": (Desk("utility", "office", "notification"),),
    "clinic": (Desk("clinic", "office", "notification"),),
    "school": (Desk("school", "office", "notification"),),
    "insurer": (Desk("bank", "office", "notification"),),
    "lender": (Desk("loan", "campaigns", "marketing"),),
    "public": (Desk("public", "public", "public"),),
}
CLIENT_INDUSTRIES = ("internet", "parcel", "retail", "travel", "clinic", "school", "insurer", "shop", "internet")


@dataclass(frozen=True, slots=True)
class Role:
    """A kind of port. `weight` is the relative traffic of the busiest; `look` names what makes it an innocent
    look-alike; `clients` is the number of companies that send besides (or instead of) the lessee."""

    name: str
    number: int
    industry: str
    weight: float
    prefixes: tuple[str, ...] = ("10690",)
    customer_type: str = "enterprise"
    allocation: Allocation = "random"
    clients: int = 0
    look: str | None = None


ROLES = (
    Role("login", 8, "internet", 6.0),
    Role("bank", 6, "bank", 5.0, ("10657", "10655", "10659"), allocation="sequential"),
    Role("parcel", 6, "parcel", 7.0),
    Role("shop", 6, "shop", 6.0),
    Role("retail", 5, "retail", 2.5, ("10690", "10695", "10697")),
    Role("travel", 3, "travel", 2.0),
    Role("insurer", 2, "insurer", 1.5, ("10696",)),
    Role("clinic", 3, "clinic", 1.2, ("10698",)),
    Role("school", 3, "school", 0.8, ("10695",), allocation="sequential"),
    Role("utility", 2, "utility", 1.5, allocation="suffix"),
    Role("gateway", 2, "parcel", 2.0, ("10657",), look="gateway-signature"),
    Role("growing", 2, "internet", 2.0, allocation="sequential", look="self-extension"),
    Role("group", 1, "holding", 3.0, clients=3, look="group-companies"),
    Role("hosting", 1, "travel", 2.0, clients=2, look="third-parties"),
    Role("platform", 2, "platform", 4.0, customer_type="platform", clients=7, look="platform"),
    Role("aggregator", 5, "aggregator", 6.0, customer_type="aggregator", clients=14, look="aggregator"),
    Role("government", 2, "public", 1.0, ("10639", "10699"), customer_type="government"),
    Role("protected", 1, "public", 1.0, ("10699",), customer_type="government"),
)


def desk_of(industry: str) -> Desk:
    """What a trade sends most."""
    return DESKS[industry][0]
