"""What can go wrong, and what only looks like it: one function per kind, played by the cues of a scenario."""

from collections.abc import Callable

from streams.simulate.incidents import signature, sublet, volume
from streams.simulate.stage import Scene, Stage

KINDS: dict[str, Callable[[Scene], None]] = {**volume.KINDS, **signature.KINDS, **sublet.KINDS}
"""Kind -> how it is staged. Innocent kinds label themselves innocent, all others as incidents."""

_SUBLET = ("foreign-enterprises", "sublet-case", "wrong-enterprise", "second-signature")
_LOOKS = {
    "gateway-signature": (("missing",), "the gateway appends the one filed signature; raw texts bear none"),
    "self-extension": (("extension-unfiled", "extension-walk"), "the port may extend itself without filing each"),
    "group-companies": (_SUBLET, "lessee and senders belong to one group"),
    "third-parties": (_SUBLET, "the companies are declared third parties of the lease"),
    "platform": (_SUBLET, "a platform with declared third parties, each filed"),
    "aggregator": (_SUBLET, "many signatures on one main port, each filed on its own extension"),
    "bracket-in-body": (
        ("conflict", "unfiled"),
        "texts hold 【code】 and 【温馨提示】 besides the filed head signature",
    ),
}


def label_looks(stage: Stage) -> None:
    """Label the legal look-alikes that the market has anyway."""
    for port, look in stage.world.looks:
        rules, note = _LOOKS[look]
        Scene(stage, look, port, stage.span).innocent(rules, note)
