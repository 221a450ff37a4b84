"""Detectors of what names a machine or a mailbox: e-mail, URL, IP and MAC addresses. Knows no secrets in them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from functools import partial
from typing import Final

from policies.redaction_detector import CHECKED, NAMED, Detector, Hit, free_of_words, said_before, starts_number, words
from policies.redaction_policy import RedactionPolicy
from policies.redaction_view import View, pattern


def detectors(policy: RedactionPolicy) -> list[Detector]:
    """The detectors of this module under `policy`."""
    hosts = frozenset(host.encode() for host in policy.allow_hosts)
    return [
        Detector(frozenset({"EMAIL"}), rb"@|%40|(?i)[\[({] ?at ?[\])}]", emails),
        Detector(frozenset({"URL"}), rb"://|(?i)\bwww\.", partial(urls, hosts)),
        Detector(frozenset({"URL"}), rb"(?i)\b(?:web ?site|homepage|domain|url)\b", named_domains),
        Detector(frozenset({"IP_ADDRESS"}), rb"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]", ipv4_addresses),
        Detector(
            frozenset({"IP_ADDRESS"}), rb"[0-9A-Fa-f]::|::[0-9A-Fa-f]|(?:[0-9A-Fa-f]:[0-9A-Fa-f]+){3}", ipv6_addresses
        ),
        Detector(
            frozenset({"MAC_ADDRESS"}),
            rb"[0-9A-Fa-f]{2}[:-][0-9A-Fa-f]{2}[:-][0-9A-Fa-f]|[0-9a-f]{4}\.[0-9a-f]{4}\.",
            macs,
        ),
    ]


_DOMAIN: Final = (
    rb"(?:[A-Za-z0-9\xe9](?:[A-Za-z0-9\xe9_-]{0,62})(?:\.|%2[eE]| ?[\[({]dot[\])}] ?)){1,8}"
    rb"[A-Za-z\xe9][A-Za-z0-9\xe9-]{0,22}[A-Za-z\xe9]"
)
_EMAIL: Final = pattern(
    rb"""((?:[A-Za-z0-9\xe9_][A-Za-z0-9\xe9._%+'!#$&*=~^-]{0,79}|"[^"\n\x02]{1,64}"))"""
    rb"(?:@|%40|(?i: ?[\[({] ?at ?[\])}] ?))"
    rb"(" + _DOMAIN + rb"|\[[0-9A-Fa-f:.]{3,45}\])"
)
_FILE_ENDINGS: Final = frozenset(b"png jpg jpeg gif svg webp css js ts py md json yaml yml xml html lock".split())
_EMAIL_SEPARATORS: Final = (
    b"=",
    b"&",
    b"'",
    b"#",
    b"$",
    b"*",
    b"!",
    b"^",
    b"~",
    b"%3D",
    b"%3d",
    b"%26",
    b"%3A",
    b"%3a",
    b"%20",
)


def emails(view: View) -> Iterator[Hit]:
    """RFC 5321 dot-strings and quoted strings, also with %40 and (at); `git@host` and `icon@2x.png` are none."""
    for match in _EMAIL.finditer(view.data):
        local, domain = match.group(1), match.group(2)
        if local == b"git" or domain.rpartition(b".")[2].lower() in _FILE_ENDINGS:
            continue
        start = match.start() + (0 if local.startswith(b'"') else _glued(local))
        yield Hit(start, match.end(), "EMAIL", CHECKED)


def _glued(local: bytes) -> int:
    """Length of what stands before the mailbox without a space: `mail=`, `'`."""
    return max(local.rfind(separator) + len(separator) if separator in local else 0 for separator in _EMAIL_SEPARATORS)


_URL: Final = pattern(rb"(?:(?i)\b[a-z][a-z0-9+.-]{1,30}://|\bwww\.)[^\s<>\"'`\\\x02]+")
_HOST: Final = pattern(rb"(?:[^/?#@]*@)?([A-Za-z0-9\xe9.-]*[A-Za-z0-9\xe9])")


def urls(allowed: frozenset[bytes], view: View) -> Iterator[Hit]:
    """Any scheme with `://`, and `www.`; closing punctuation and an unpaired bracket are not part of it."""
    for match in _URL.finditer(view.data):
        start, end = match.span()
        body = view.data.find(b"://", start, end)
        body = start if body < 0 else body + 3
        host = _HOST.match(view.data, body, end)
        if host is None or host.group(1).lower() in allowed or view.data[start:body] == b"file://":
            continue
        yield Hit(start, _url_end(view.data, body, end), "URL", NAMED)


def _url_end(data: bytes, start: int, end: int) -> int:
    least = max(start, end - 64)
    while end > least and (
        data[end - 1] in b".,;:!?*_~|"
        or (
            data[end - 1] in b")]}"
            and data.count(_OPENING[data[end - 1]], start, end) < data.count(data[end - 1 : end], start, end)
        )
    ):
        end -= 1
    return end


_OPENING: Final = {ord(")"): b"(", ord("]"): b"[", ord("}"): b"{"}
_NAMED_DOMAIN: Final = pattern(
    rb"(?i)\b(?:web ?site|homepage|domain(?: name)?|url)\b[\"']?(?: address)?(?: is| was|:| =|=| at)?[ \n]{0,3}[\"']?"
    rb"((?:[a-z0-9\xe9][a-z0-9\xe9-]{0,62}\.){1,5}[a-z\xe9]{2,24})\b"
)


def named_domains(view: View) -> Iterator[Hit]:
    """A bare domain right after a word that says so."""
    for match in _NAMED_DOMAIN.finditer(view.data):
        start, end = match.span(1)
        if match.group(1).rpartition(b".")[2].lower() not in _FILE_ENDINGS:
            yield Hit(start, end, "URL", NAMED)


_IPV4: Final = pattern(rb"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")
_VERSION: Final = words(rb"(?:version|release|build|section|chapter|clause|\bv|\bver)[ .:=]{0,2}$")
_NOBODY: Final = frozenset({"0.0.0.0", "127.0.0.1", "255.255.255.255"})  # noqa: S104 - compared, never bound


def ipv4_addresses(view: View) -> Iterator[Hit]:
    """Dotted quads in range; not versions or section numbers."""
    for match in _IPV4.finditer(view.data):
        start, end = match.span()
        if not free_of_words(view.data, start, end) or not starts_number(view.data, start):
            continue
        if view.data[end : end + 1] == b"." and view.data[end + 1 : end + 2].isdigit():
            continue
        if any(int(part) > 255 for part in match.group().split(b".")) or match.group().decode() in _NOBODY:
            continue
        if not said_before(view, start, _VERSION, 10):
            yield Hit(start, end, "IP_ADDRESS", CHECKED)


_IPV6: Final = pattern(rb"[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,8}(?:\.[0-9]{1,3}){0,3}")


def ipv6_addresses(view: View) -> Iterator[Hit]:
    """What `ipaddress` parses; code such as `a::b` and the loopback are none."""
    for match in _IPV6.finditer(view.data):
        start, end = match.span()
        if view.data[end - 1] == ord(":") and view.data[end - 2] != ord(":"):
            end -= 1
        text = view.data[start:end].decode("ascii")
        if text.count(":") < 2 or not free_of_words(view.data, start, end) or not any(char.isdigit() for char in text):
            continue
        if text.count(":") < 3 and not text.lower().startswith(("fe80", "fc", "fd", "2")):
            continue
        try:
            ipaddress.IPv6Address(text)
        except ValueError:
            continue
        yield Hit(start, end, "IP_ADDRESS", CHECKED)


_MAC: Final = pattern(
    rb"[0-9A-Fa-f]{2}(?:(?::[0-9A-Fa-f]{2}){5}|(?:-[0-9A-Fa-f]{2}){5})|[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}"
)


def macs(view: View) -> Iterator[Hit]:
    """Six pairs, or three quads (where a letter shows that it is no decimal number)."""
    for match in _MAC.finditer(view.data):
        start, end = match.span()
        text = match.group()
        is_number = b"." in text and text.replace(b".", b"").isdigit()
        if free_of_words(view.data, start, end) and not is_number and view.data[end : end + 1] not in (b":", b"-"):
            yield Hit(start, end, "MAC_ADDRESS", CHECKED)
