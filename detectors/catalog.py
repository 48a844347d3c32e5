"""The rules we have and the detectors that own them: add one here, nowhere else."""

from dataclasses import dataclass
from typing import Any

from detectors.compliance.quiet_hours import NIGHT_MS, QuietHoursDetector
from detectors.contract import PANE_MS, Detector, LegalBasis, Severity, Wording
from detectors.event_time import DAY_MS, midnight
from detectors.signature.detector import SignatureDetector
from detectors.sublet.detector import SubletDetector
from detectors.volume.caps import CapsDetector
from detectors.volume.detector import VolumeDetector
from detectors.volume.dormancy import AWAKE_MS, DormancyDetector

MINUTE_MS = 60_000


@dataclass(frozen=True, slots=True)
class Rule:
    """What is fixed about a rule, whoever breaks it."""

    detector: str
    title: Wording
    quiet_ms: int | None  # an episode ends when the rule has found nothing for so long; None: at midnight in Shanghai
    per_extension: bool = False  # one episode per full port, not per main port
    legal_basis: tuple[LegalBasis, ...] = ()
    throttle_from: Severity | None = None  # propose a throttle from this severity on

    def ends_ms(self, found_ms: int) -> int:
        """The event time at which an episode is over whose last finding is about the pane that begins at `found_ms`."""
        return midnight(found_ms) + DAY_MS if self.quiet_ms is None else found_ms + PANE_MS + self.quiet_ms

    def runbook(self, name: str) -> str:
        """Where the rule's runbook stands, relative to the repository."""
        return f"docs/runbooks.md#{name}"


_SIGNATURE_RULES_2021 = LegalBasis("工信部 2021-10-25 行政指导会", "规范签名使用, 不得扩大签名使用范围", "2021-10-25")
_TRUE_SENDER = LegalBasis("广告法", "第四十三条: 明示发送者的真实身份", "2015-09-01")
_NO_LENDING = LegalBasis("反电信网络诈骗法", "第三十一条: 不得非法买卖、出租、出借短信端口", "2022-12-01")
_NO_SUBLET_2021 = LegalBasis("工信部 2021-10-25 行政指导会", "不得接入违规转租资源", "2021-10-25")
_PEACE = LegalBasis("民法典", "第一千零三十三条(一): 不得以短信侵扰他人的私人生活安宁", "2021-01-01")
_PORT_ACCESS_2021 = LegalBasis("工信部 2021-10-25 行政指导会", "加强短信端口接入管理", "2021-10-25")


def _signature(en: str, zh: str, *basis: LegalBasis, per_extension: bool = False) -> Rule:
    return Rule("signature", Wording(en, zh), 30 * MINUTE_MS, per_extension, basis)


RULES: dict[str, Rule] = {
    "volume-flash": Rule(
        "volume",
        Wording("Sudden flood on a port", "端口流量突增"),
        10 * MINUTE_MS,
        legal_basis=(_PORT_ACCESS_2021,),
        throttle_from=Severity.CRITICAL,
    ),
    "volume-ramp": Rule(
        "volume", Wording("Slow rise on a port", "端口流量缓升"), 30 * MINUTE_MS, legal_basis=(_PORT_ACCESS_2021,)
    ),
    "volume-step": Rule(
        "volume",
        Wording("A port stays high after a jump", "端口流量持续偏高"),
        30 * MINUTE_MS,
        legal_basis=(_PORT_ACCESS_2021,),
    ),
    "volume-silence": Rule("volume", Wording("A busy port has fallen silent", "端口流量中断"), 30 * MINUTE_MS),
    "missing": _signature("No signature where one is due", "缺少签名", _TRUE_SENDER),
    "unfiled": _signature("Signature that nobody filed", "签名未报备", _SIGNATURE_RULES_2021),
    "wrong-port": _signature("Signature filed for another port", "签名超范围使用", _SIGNATURE_RULES_2021),
    "not-in-force": _signature("Filing is not in force", "签名报备未生效或已失效", _SIGNATURE_RULES_2021),
    "second-signature": _signature(
        "Two signatures on one full port", "一码多签", _SIGNATURE_RULES_2021, per_extension=True
    ),
    "extension-unfiled": _signature("Extension was not filed", "扩展码未报备", _PORT_ACCESS_2021, per_extension=True),
    "port-unregistered": _signature("Port is not in the registry", "端口未登记", _PORT_ACCESS_2021),
    "port-unauthorised": _signature("Port is past its authorisation", "端口授权失效", _PORT_ACCESS_2021),
    "foreign-enterprises": Rule(
        "sublet",
        Wording("Port used by enterprises that are not its lessee", "端口疑似转租"),
        120 * MINUTE_MS,
        legal_basis=(_NO_LENDING, _NO_SUBLET_2021),
    ),
    "cap-minute": Rule(
        "volume", Wording("More in a minute than the contract allows", "超出每分钟合同上限"), 5 * MINUTE_MS
    ),
    "cap-day": Rule("volume", Wording("More in a day than the contract allows", "超出每日合同上限"), quiet_ms=None),
    "dormant-wakes": Rule(
        "volume",
        Wording("A dormant port sends again", "休眠端口恢复发送"),
        AWAKE_MS,
        legal_basis=(_NO_LENDING, _NO_SUBLET_2021),
    ),
    "quiet-hours": Rule(
        "compliance", Wording("Messages outside of the hours", "非允许时段发送"), NIGHT_MS, legal_basis=(_PEACE,)
    ),
}
"""Rule name -> what is fixed about it. Names are those of the contract's closed vocabulary."""


def detectors() -> tuple[Detector[Any], ...]:
    """The detectors we run, with their defaults, in the order in which their findings are told."""
    return (
        VolumeDetector(),
        SignatureDetector(),
        SubletDetector(),
        CapsDetector(),
        DormancyDetector(),
        QuietHoursDetector(),
    )
