"""What findings about names say to a person, in English and Chinese."""

from collections.abc import Sequence

from detectors.contract import Wording

_NAMED = 3

_WORDS = {
    "missing": Wording("without a signature", "未带签名"),
    "unfiled": Wording("under names that nobody filed", "签名未报备"),
    "wrong-port": Wording("under names filed for other ports", "签名报备在其他端口"),
    "not-in-force": Wording("under names whose filing is not in force", "签名报备未生效或已失效"),
    "extension-unfiled": Wording("under names filed for other extensions", "扩展码未报备该签名"),
    "second-signature": Wording("under a second name on one full port", "一码多签"),
    "port-unregistered": Wording("on a port that is not in the registry", "端口未登记"),
    "port-unauthorised": Wording("on a port that is offline or outside its authorisation", "端口已下线或超出授权期"),
}

_CHECKED = {
    "missing": Wording(
        "Gateway signature: not exactly one is filed in force for this full port",
        "网关签名：该端口号没有唯一有效的网关签名报备",
    ),
    "unfiled": Wording("Filed elsewhere: no filing in force on any port", "异端口报备：各端口均无有效报备"),
    "wrong-port": Wording(
        "Filed here under another extension: no filing on this port", "本端口其他扩展码：该签名在本端口无报备"
    ),
    "extension-unfiled": Wording("Self-extension: this port does not allow it", "自行扩展：该端口不允许"),
    "second-signature": Wording(
        "Ended filing: both names are filed in force for this full port", "报备变更：两个签名在该端口号上目前均有效"
    ),
}


def summary(rule: str, full_port: str, submits: int, share: float, names: Sequence[str]) -> Wording:
    """One sentence; `submits` and `share` of the last hour, `names` safe to show, the busiest first."""
    words = _WORDS[rule]
    more = len(names) - _NAMED
    shown, rest_en, rest_zh = "】【".join(names[:_NAMED]), f" and {more} more", f"等 {len(names)} 个"
    which_en = f" (【{shown}】{rest_en if more > 0 else ''})" if names else ""
    which_zh = f"（【{shown}】{rest_zh if more > 0 else ''}）" if names else ""
    return Wording(
        f"{full_port}: {submits:,} submit{'' if submits == 1 else 's'} in the last hour {words.en}{which_en}, "
        f"{share:.0%} of what the port sent meanwhile",
        f"{full_port}：近一小时 {submits:,} 条{words.zh}{which_zh}，占同期该端口 {share:.0%}",
    )


def checked(rule: str) -> tuple[Wording, ...]:
    """The innocent explanations that a finding of the rule has excluded."""
    return (_CHECKED[rule],) if rule in _CHECKED else ()
