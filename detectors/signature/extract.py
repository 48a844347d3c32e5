"""Which name does a whole text carry? The name as a handset shows it, and how it stands in the text.

A plain head, 【name】 and no second 【, settles the matter at once and is nearly all of the traffic. Everything else is
read slowly, by fixed rules and bounded looks, in time linear in the text whatever a sender writes. What is no text
can't be read, and whether a name may be used is not decided here.
"""

import re
from enum import IntEnum

from detectors.signature.normalise import normalise


class Form(IntEnum):
    """How the name stands in the text."""

    UNJUDGED = 0  # not text, or a part of a long message
    NONE = 1
    HEAD = 2
    TAIL = 3
    VARIANT = 4  # other brackets than 【】
    MALFORMED = 5  # an unclosed, nested or empty bracket where the name should be
    CONFLICT = 6  # head and tail name different senders


_LONGEST = 30
"""Characters of a name; the longest of 1,445 names read in 10,973 real texts had 28."""

_TAIL_LOOK = 256
"""How far from the end a tail may begin: a name, a hot line, a link and an opt-out fit."""

_TRAILER_LONGEST = 80
_LEADING_PAIRS = 4

_LEADING = re.compile(r"[\s\x00-\x1f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufe00-\ufe0f\ufeff]*")
_PAIR = re.compile(rf"【([^【】]{{1,{_LONGEST}}})】")
_VARIANT_PAIRS = ("［］", "[]", "〖〗", "「」", "『』", "｢｣", "〔〕", "﹝﹞", "︻︼", "〘〙", "〚〛", "⟦⟧")
_VARIANT = re.compile("|".join(rf"\{p[0]}([^\{p[0]}\{p[1]}]{{1,{_LONGEST}}})\{p[1]}" for p in _VARIANT_PAIRS))
_ANY_BRACKET = re.compile("[" + re.escape("【】（()）" + "".join(_VARIANT_PAIRS)) + "]")
_ROUND = re.compile(rf"[（(]([^（）()]{{2,{_LONGEST}}})[)）]")

_TYPE = "提示|提醒|通知|通告|公告|告知|告示|须知|预警|祝福|问候|验证|通知单|服务"
_NEUTRAL = re.compile(
    rf"(?:温馨|友情|特别|重要|紧急|系统|安全|客服|客户|官方|平台|活动|会议|放假|节日|账户|账单|缴费|还款|催缴|订单|物流|快递"
    rf"|发货|取件|到货|中奖|停电|停水|天气|风险|防诈|反诈|防骗|登录|注册|支付|服务|短信|会员|新年|春节|中秋|国庆|端午|元旦){{0,2}}"
    rf"(?:{_TYPE})|(?:短信|登录|注册|支付|手机)?(?:验证|校验|动态|确认|激活|授权|取件|提货)码|(?:动态)?(?:密码|口令)"
    r"|[注新急转荐顶赞!]|hot|(?:新年|元旦|春节|中秋|国庆|节日|生日|圣诞)快乐|广告|ad|营销|推广|测试|test|公益"
    r"|微笑|愉快|玫瑰|礼物|太阳|爱心|红包|庆祝|鼓掌|强|握手|抱拳|咖啡|蛋糕|烟花|福|發|火|心"
)
"""Words that name no sender: refused as signatures everywhere; in square brackets they mark a type or a face."""

_FILLED_IN = re.compile(r".{0,8}[号码单:][:是为]?(?=.*\d)[0-9a-z#*/_.-]+")
"""What a sentence fills in (取件码5-3-2018, 尾号1234): different in every text, so never a name."""

_CODE = re.compile(r"(?=.*\d)[0-9a-z][0-9a-z#*/_.-]*")
_HOTLINE = re.compile(r"100\d\d|12\d{3}|9[56]\d{3,4}")
_SAYS_CODE = re.compile(r"\s*(?:(?:就是|即为|作为|是|为|即).{0,12}码|[您你]的.{0,8}码(?!.{0,4}\d))")
_QUOTING = re.compile(
    r"(?:[码号是为叫：:“”\"'《（(]|口令|密码|code|搜索|搜|关注|点击|点|登录|登陆|回复|回|发送|编辑|输入|下载|打开|进入|选择"
    r"|添加|微信|小程序|app|客户端)\s*$",
    re.IGNORECASE,
)
"""A bracket right after these is what the sentence speaks of: a code, an account to follow, a word to send back."""

_SLOGAN = re.compile(
    r"[!！?？,，。、;；~～…￥$%+]|www|http|\.com|\.cn|\d+(?:[元折款期场倍天g]|周年)|[满减送返][0-9一二三五百千万]|立减|满减|抽奖|领取|领券"
    r"|特惠|钜惠|大促|促销|狂欢|优惠|中奖|免费|秒杀|清仓|开抢|首发|福利|来袭|上线|开业|盛典|赠送|礼包|活动|预告|必看"
    r"|回复|退订|拒收|点击|戳|下载|转发|勿回|详询|详情|咨询|来电|电话|热线|关注|登录|查看|回[0-9a-z]|接收"
)
_SPOKEN_LENGTH = 12
_ORGANISATION = re.compile(
    r"(?:公司|集团|银行|支行|分行|信用社|中心|医院|诊所|学校|大学|中学|小学|学院|协会|学会|委员会|政府|公安|法院|检察院|海关"
    r"|[局厅委办所院店馆网厂社部处]|商城|商场|超市|百货|广场|酒店|影城|保险|人寿|证券|基金|移动|联通|电信|快递|速运|物流|官方|平台|工作室)"
)

_MAY_FOLLOW = re.compile(
    r"(?:[\s!-~]|[。，、；：！？…～·“”‘’（）《》【】—－]|如需|如不|不需要|需要|不想|不再|退订|拒收|取消|接收|免费|回复|发送|编辑|短信"
    r"|点击|详询|详情|咨询|客服|热线|电话|致电|拨打|联系|官网|网址|查询|微信|服务|投诉|本|请|回|复|可|至|到|或|直接|链接|[０-９Ａ-Ｚａ-ｚ])*+"
)
"""What may stand behind a tail: an opt-out, a hot line, a link, a full stop, （接收免费）."""


class _Heads(dict[str, str]):
    """'【name' -> the name, where a text that begins so and has no second 【 needs no further look; else ''.

    A memo of a pure function: it is emptied when full, and holds nothing but short heads.
    """

    def __missing__(self, head: str) -> str:
        name = _settled(head)
        if name:
            if len(self) >= 1 << 16:
                self.clear()
            self[head] = name
        return name


def _settled(head: str) -> str:
    name = head[1:].strip()
    if head[:1] != "【" or len(head) > 1 + _LONGEST or "【" in name:
        return ""
    return name if _names_somebody(name) and not _is_code(name) else ""


class _Signing(dict[str, bool]):
    """Would this bracket at the tail name a sender? A memo like _Heads."""

    def __missing__(self, name: str) -> bool:
        if len(self) >= 1 << 16:
            self.clear()
        signing = self[name] = len(name) <= _LONGEST and _signs(name.strip())
        return signing


_heads, _signing = _Heads(), _Signing()


def _is_plain(rest: str) -> bool:
    """Is what follows a head without another bracket, or with one that names nobody (【温馨提示】, 【4482】)?"""
    opening = rest.find("【")
    if opening < 0:
        return True
    if rest.find("【", opening + 1) >= 0:
        return False
    held = rest[opening + 1 : rest.find("】", opening)]
    if held.isdecimal() and not _HOTLINE.fullmatch(held):
        return True  # a code, other in every text: not worth a memo
    return not _signing[held]


def extract(text: str) -> tuple[str | None, Form]:
    """The name and its form.

    No name where nobody is named (NONE), and where brackets are broken and no tail names somebody (MALFORMED). A
    neutral word (温馨提示) is no sender: with no other bracket the form is NONE. A lone slogan at the head is the name:
    the head is where a name must stand, so that is the name the text claims.
    """
    head, closed, rest = text.partition("】")
    if closed and (name := _heads[head]) and _is_plain(rest):
        return name, Form.HEAD
    return _read(text)


def extract_column(texts: list[str | None]) -> tuple[list[str | None], list[int]]:
    """`extract` for every row; None is not judged. Both lists have len(texts) entries."""
    names: list[str | None] = []
    forms: list[int] = []
    add_name, add_form, heads = names.append, forms.append, _heads
    plain = int(Form.HEAD)
    for text in texts:
        if text is None:
            add_name(None)
            add_form(int(Form.UNJUDGED))
            continue
        head, closed, rest = text.partition("】")
        if closed and (name := heads[head]) and ("【" not in rest or _is_plain(rest)):
            add_name(name)
            add_form(plain)
            continue
        read, form = _read(text)
        add_name(read)
        add_form(int(form))
    return names, forms


def _read(text: str) -> tuple[str | None, Form]:
    if not _ANY_BRACKET.search(text):  # whole ports carry such texts, where the gateway appends the name
        return None, Form.NONE
    match = _LEADING.match(text)
    start = match.end() if match else 0
    broken = text.startswith("【", start) and not _is_name(_PAIR.match(text, start))
    head, body = (None, start) if broken else _head(text, start)
    tail = _tail(_PAIR, text, body)
    if broken:
        return tail, Form.MALFORMED
    if head and tail:
        return _both(head, tail)
    if head:
        return head, Form.HEAD
    if tail:
        return tail, Form.TAIL
    return _read_others(text, body)


def _read_others(text: str, body: int) -> tuple[str | None, Form]:
    """Where no 【】 names anybody."""
    if variant := _variant(text, body):
        return variant, Form.VARIANT
    unbalanced = text.count("【") != text.count("】") or "【】" in text
    return None, Form.MALFORMED if unbalanced else Form.NONE


def _is_name(pair: re.Match[str] | None) -> bool:
    return pair is not None and normalise(pair[1]) != ""


def _head(text: str, start: int) -> tuple[str | None, int]:
    """The first sender among the brackets that open the text, and where they end."""
    found: str | None = None
    for _ in range(_LEADING_PAIRS):
        pair = _PAIR.match(text, start)
        if pair is None:
            break
        start = pair.end()
        if found is None and _names_somebody(pair[1]) and not _is_code_at_head(pair[1], text[start : start + 20]):
            found = pair[1].strip()
    return found, start


def _both(head: str, tail: str) -> tuple[str, Form]:
    if _same_sender(head, tail):
        return head, Form.HEAD
    if _is_slogan(head):
        return tail, Form.TAIL
    return head, Form.CONFLICT


def _same_sender(head: str, tail: str) -> bool:
    """The same name, one a shortening of the other (招行, 招商银行), or one a mere hot line (10086)."""
    short, long = sorted((normalise(head), normalise(tail)), key=len)
    if _HOTLINE.fullmatch(short) or _HOTLINE.fullmatch(long):
        return True
    letters = iter(long)
    return all(letter in letters for letter in short)


def _tail(brackets: re.Pattern[str], text: str, start: int) -> str | None:
    """The last name behind `start` that only an opt-out, a hot line, a link or the like follows."""
    for pair in reversed(list(brackets.finditer(text, max(start, len(text) - _TAIL_LOOK)))):
        if len(text) - pair.end() > _TRAILER_LONGEST or not _MAY_FOLLOW.fullmatch(text, pair.end()):
            return None
        name = pair[pair.lastindex or 1].strip()
        if not _QUOTING.search(text[max(0, pair.start() - 8) : pair.start()]) and _signs(name):
            return name
    return None


def _signs(name: str) -> bool:
    """At a tail only what looks like a sender is one."""
    return _names_somebody(name) and not _is_slogan(name) and not _is_code(name)


def _variant(text: str, start: int) -> str | None:
    """A name in other brackets: at the tail nearly always a sender, at the head if it marks no type.

    Round brackets at the tail hold a sender in one of six texts, so only what is called like an organisation counts.
    """
    if name := _tail(_VARIANT, text, start):
        return name
    head = _VARIANT.match(text, start)
    if head and _signs(name := head[head.lastindex or 1].strip()):
        return name
    name = _tail(_ROUND, text, start)
    return name if name and _ORGANISATION.search(name, max(0, len(name) - 3)) else None


def _names_somebody(name: str) -> bool:
    folded = normalise(name)
    return folded != "" and not _NEUTRAL.fullmatch(folded) and not _FILLED_IN.fullmatch(folded)


def _is_code(name: str) -> bool:
    folded = normalise(name)
    return _CODE.fullmatch(folded) is not None and not _HOTLINE.fullmatch(folded)


def _is_code_at_head(name: str, following: str) -> bool:
    """Companies are called 4399 and 51job, so at the head only what the text calls a code is one."""
    return _is_code(name) and _SAYS_CODE.match(following) is not None


def _is_slogan(name: str) -> bool:
    folded = normalise(name)
    long = len(folded) > _SPOKEN_LENGTH and not _ORGANISATION.search(folded, len(folded) - 3)
    return long or _SLOGAN.search(folded) is not None
