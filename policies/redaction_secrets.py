"""Detectors of keys, tokens and passwords: vendors' prefixes, PEM blocks, assignments, Authorization headers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Final

from policies.redaction_detector import CHECKED, NAMED, Detector, Hit, words
from policies.redaction_view import View, pattern

# Prefix and body of the tokens that vendors made recognisable (each from the vendor's own documentation).
_VENDORS: Final = (
    rb"\b(?:AKIA|ASIA|ABIA|ACCA|AROA|AIDA)[A-Z0-9]{16}",  # Amazon
    rb"\bgh[pousr]_[A-Za-z0-9]{20,255}|\bgithub_pat_[A-Za-z0-9_]{20,255}",
    rb"\bgl(?:pat|dt|rt|cbt|ptt|ft|soat|agent)-[A-Za-z0-9_.-]{20,255}",  # GitLab
    rb"\bsk-(?:[A-Za-z0-9]{1,12}-){0,4}[A-Za-z0-9_-]{16,255}",  # OpenAI, Anthropic, OpenRouter, DeepSeek
    rb"\bxox[abceoprs]-[A-Za-z0-9-]{10,255}|\bxapp-[A-Za-z0-9-]{10,255}",  # Slack
    rb"\bAIza[0-9A-Za-z_-]{35}|\bGOCSPX-[0-9A-Za-z_-]{20,40}|\bya29\.[0-9A-Za-z_-]{20,}",  # Google
    rb"\b(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{10,255}|\bwhsec_[A-Za-z0-9+/=]{20,128}",  # Stripe
    rb"\bSG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{16,64}",  # SendGrid
    rb"\b(?:npm_|dckr_pat_|hf_|api_org_|gsk_|r8_|xai-|pplx-|tvly-|nvapi-|lsv2_[a-z]{2}_|glsa_|figd_|PMAK-"
    rb"|dop_v1_|doo_v1_|sntrys_|fo1_|fio-u-)"
    rb"[A-Za-z0-9_-]{20,255}",
    rb"\bpypi-[A-Za-z0-9_-]{50,255}|\bshp(?:at|ca|pa|ss)_[A-Fa-f0-9]{32}|\bsq0(?:atp|csp)-[A-Za-z0-9_-]{22,60}",
    rb"\bhv[sbr]\.[A-Za-z0-9_-]{20,255}|\bdapi[0-9a-f]{32}|\bkey-[0-9a-z]{32}|\bATATT3[A-Za-z0-9_=-]{20,255}",
    rb"\b(?:SK|AC)[0-9a-f]{32}\b|\bAGE-SECRET-KEY-1[0-9A-Z]{58}"
    rb"|\b[0-9]{8,10}:AA[A-Za-z0-9_-]{33}",  # Twilio, age, Telegram
    rb"\b[MNO][A-Za-z0-9_-]{23,27}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,38}",  # Discord
    rb"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*){0,3}",  # JSON web token (RFC 7519)
)
_VENDOR: Final = pattern(rb"|".join(_VENDORS).replace(rb"\b", rb"(?:\b|_)"))
_VENDOR_TRIGGER: Final = (
    rb"AKIA|ASIA|ABIA|ACCA|AROA|AIDA|gh[pousr]_|github_pat_|gl[a-z]{2,5}-|sk-|xox[a-z]-|xapp-|AIza|GOCSPX"
    rb"|ya29\.|[srp]k_(?:live|test)_|whsec_|SG\."
    rb"|npm_|dckr_pat|hf_|api_org_|gsk_|r8_|xai-|pplx-|tvly-|nvapi-|lsv2_|glsa_|figd_|PMAK-|do[op]_v1|sntrys_"
    rb"|fo1_|fio-u-|pypi-|shp[acs]|sq0|hv[sbr]\."
    rb"|dapi[0-9]|dapi[a-f]|key-|ATATT3|SK[0-9a-f]|AC[0-9a-f]|AGE-SECRET|:AA|\.[A-Za-z0-9_-]{6}\.|eyJ"
)

_NAMES: Final = (
    rb"pass ?word|passwd|pass ?phrase|pass ?code|\bpwd|_pwd|\bpw\b|secret|token|api[ _.-]?key|apikey"
    rb"|access[ _.-]?key|account[ _-]?key|private[ _.-]?key"
    rb"|encryption[ _-]?key|signing[ _-]?key|shared[ _-]?access|credential|auth[ _-]?key|\bauth\b"
    rb"|session[ _-]?id|\bsid\b|cookie|\bsig(?:nature)?\b"
    rb"|seed phrase|mnemonic|kennwort|passwort|contrase\xe9a|mot de passe"
)
_ASSIGNMENT: Final = pattern(
    rb"(?i)(" + _NAMES + rb")([A-Za-z0-9_\xe9-]{0,24}[\"'`\]*]{0,3}[ \t]{0,4})"
    rb"(:=|=>|==?|:|%3[dD]|\bis\b:?|\bwas\b|->|\||</?[a-z_]{1,20}>|>|\n)[ \t\n]{0,3}"
)
_QUOTES: Final = frozenset(b"\"'`")
_BARE_END: Final = words(rb"[\s\"'`<>\x02,;|]")
_NEXT_PAIR: Final = words(rb"&[A-Za-z_][A-Za-z0-9_.-]{0,40}=")
"""Where the next field of a query string begins; another `&` may be part of a password."""
_HEAD: Final = 256
"""As much of a value as is looked at to judge it; the rest goes with it."""
_BEARER: Final = pattern(
    rb"(?i)\b(?:authorization[\"']?[ ]{0,2}[:=][ ]{0,2}[\"']?(?:[a-z][a-z0-9-]{1,20} +)?|(?:bearer|x-api-key"
    rb"|api-key|x-auth-token)[\"']?[ :=]{1,3}[\"']?)"
    rb"([A-Za-z0-9._~+/=:-]{6,})"
)
_USERINFO: Final = pattern(rb"://([^\s/@:\"'<>\x02]{0,128}:[^\s/@\"'<>\x02]{1,256})@")
_BEGIN: Final = pattern(rb"-----BEGIN (?:[A-Z0-9]+ ){0,4}PRIVATE KEY(?: BLOCK)?-----")
_END: Final = pattern(rb"-----END (?:[A-Z0-9]+ ){0,4}PRIVATE KEY(?: BLOCK)?-----")
_KEY_LINES: Final = pattern(rb"[A-Za-z0-9+/=\s]*")


def detectors() -> list[Detector]:
    """The detectors of this module."""
    return [
        Detector(frozenset({"API_KEY"}), _VENDOR_TRIGGER, vendor_tokens),
        Detector(frozenset({"PRIVATE_KEY"}), rb"-----BEGIN", private_keys),
        Detector(frozenset({"SECRET"}), rb"(?i)" + _NAMES, assignments),
        Detector(frozenset({"SECRET"}), rb"(?i)authorization|bearer|api-key|x-auth-token", headers),
        Detector(frozenset({"SECRET"}), rb"://[^\s/@]{0,40}:", userinfos),
    ]


def vendor_tokens(view: View) -> Iterator[Hit]:
    """Tokens with a vendor's prefix."""
    for match in _VENDOR.finditer(view.data):
        start, end = match.span()
        start += view.data[start] == ord("_")
        text = view.data[start:end]
        if any(48 <= byte <= 57 for byte in text[3:]) or len(set(text)) > 14:
            yield Hit(start, end, "API_KEY", CHECKED)


def private_keys(view: View) -> Iterator[Hit]:
    """PEM and OpenPGP private key blocks; one that is cut off reaches to the end of its base64."""
    data = view.data
    begin = _BEGIN.search(data)
    has_end = True
    while begin is not None:
        end = _END.search(data, begin.end()) if has_end else None
        has_end = end is not None
        stop = (end or _KEY_LINES.match(data, begin.end())).end()
        yield Hit(begin.start(), stop, "PRIVATE_KEY", CHECKED)
        begin = _BEGIN.search(data, stop)


def headers(view: View) -> Iterator[Hit]:
    """The credential in an Authorization header, or behind the word Bearer."""
    for match in _BEARER.finditer(view.data):
        value = match.group(1)
        if b"uthorization" in match.group() or _is_random(value) or len(value) >= 24:
            yield Hit(match.start(1), match.end(1), "SECRET", CHECKED)


def userinfos(view: View) -> Iterator[Hit]:
    """`user:password` in a URL's authority."""
    for match in _USERINFO.finditer(view.data):
        yield Hit(match.start(1), match.end(1), "SECRET", CHECKED)


_WEAK_NAMES: Final = (
    b"token",
    b"auth",
    b"sid",
    b"cookie",
    b"sig",
    b"credential",
    b"session",
    b"key",
    b"secret",
    b"pass code",
    b"passcode",
)
_PROSE: Final = frozenset(
    b"must should required optional string str bool boolean int integer number none null nil true false"
    b" undefined is are was not and or the a an to in of on"
    b" for from with your my our their his her its this that it invalid incorrect wrong expired missing empty"
    b" reset change changed forgotten hidden redacted"
    b" example changeme text type object array field value name prompt input output here there protected policy"
    b" manager hash hashed confirm confirmation basic"
    b" bearer oauth oauth2 jwt process os.environ getenv self settings config request req params env safe"
    b" secure strong weak correct ok valid".split()
)
_CODE_MARKS: Final = (
    b"os.environ",
    b"process.env",
    b"getenv",
    b"${",
    b"{{",
    b"$(",
    b"(",
    b"input(",
    b"self.",
    b"config.",
    b"settings.",
    b"request.",
    b"req.",
)


def assignments(view: View) -> Iterator[Hit]:
    """A value given to a name such as `password`, `DB_TOKEN` or `api-key`; not prose, types or code that fetches it."""
    data = view.data
    match = _ASSIGNMENT.search(data)
    while match is not None:
        start = match.end()
        is_quoted = start < len(data) and data[start] in _QUOTES
        start += is_quoted
        head = _value(data, start, min(len(data), start + _HEAD), is_quoted=is_quoted)
        name, suffix, sign = match.groups()
        if _is_secret(name.lower(), suffix, sign.lower(), data[start:head], is_quoted=is_quoted):
            end = _value(data, start, len(data), is_quoted=is_quoted)
            yield Hit(start, end, "SECRET", NAMED)
            match = _ASSIGNMENT.search(data, end)
        else:
            match = _ASSIGNMENT.search(data, match.end(1))


def _value(data: bytes, start: int, limit: int, *, is_quoted: bool) -> int:
    """Where the value that starts at `start` ends: its quote, the line, a placeholder, or (bare) a separator."""
    if is_quoted:
        ends = (data.find(end, start, limit) for end in (data[start - 1 : start], b"\n", b"\x02"))
        return min((end for end in ends if end >= 0), default=limit)
    stop = _BARE_END.search(data, start, limit)
    end = stop.start() if stop else limit
    pair = _NEXT_PAIR.search(data, start, end)
    end = pair.start() if pair else end
    while end > start and data[end - 1] in b".:)]}\\":
        end -= 1
    return end


def _is_secret(name: bytes, suffix: bytes, sign: bytes, value: bytes, *, is_quoted: bool) -> bool:
    """Whether `value` is a secret rather than prose, a type, a count or an expression."""
    folded = value.lower().strip()
    if len(folded) < 4 or folded in _PROSE or folded.startswith(_CODE_MARKS) or len(set(folded)) < 3:
        return False
    is_weak = name.startswith(_WEAK_NAMES) or name.endswith(b"key")
    if is_weak:
        return (
            len(folded) >= 8
            and b" " not in folded
            and (_is_random(value) or (name == b"secret" and is_quoted))
            and not folded.isdigit()
        )
    if b"(" in value and not is_quoted:
        return False
    if sign in (b"is", b"is:", b"was", b"\n", b"|", b">") or (sign == b":" and not is_quoted and b"_" not in suffix):
        return is_quoted or _has_mark(value) or (sign == b":" and value.isascii() and not value.isalpha())
    return is_quoted is False or b" " not in folded or _has_mark(value)


def _has_mark(value: bytes) -> bool:
    """A digit, a symbol or a capital inside: what a word of prose has not."""
    return (
        any(48 <= byte <= 57 for byte in value)
        or any(byte in b"!@#$%^&*+=~?_" for byte in value)
        or (value[1:] != value[1:].lower() and value != value.upper())
    )


def _is_random(value: bytes) -> bool:
    """Has digits among letters, or more entropy than words have."""
    has_digit = any(48 <= byte <= 57 for byte in value)
    has_letter = any(byte > 64 for byte in value)
    return (has_digit and has_letter and _entropy(value) > 2.5) or (len(value) >= 20 and _entropy(value) > 4.2)


def _entropy(value: bytes) -> float:
    """Shannon entropy, bits a byte."""
    return -sum(count / len(value) * math.log2(count / len(value)) for count in Counter(value).values())
