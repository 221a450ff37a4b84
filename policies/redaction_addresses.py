"""Detectors of addresses: street lines, units, post-office and military boxes, postal codes by shape.

Best effort: a street has no checksum and many languages. A house number beside a street word, a unit or a box is found;
a street without a number, or a bare town, is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from policies.redaction_detector import NAMED, SHAPED, Detector, Hit, free_of_words
from policies.redaction_view import View, pattern

_SUFFIX: Final = (
    rb"(?i:street|road|avenue|boulevard|drive|lane|court|square|terrace|highway|parkway|crescent|close|turnpike"
    rb"|trail|crossing|crossroad"
    rb"|bypass|mews|circle|place|loop|alley|pike|plaza)s?\b|(?:Str?|Rd|Ave?|Blvd|Dr|Ln|Ct|Sq|Hwy|Pkwy|Cres|Pl"
    rb"|Ter|Cir)\b\.?"
)
_LEAD: Final = (
    rb"(?:[Rr]ue|[Aa]venue|[Bb]oulevard|Chemin|Place|Via|Viale|Piazza|Piazzetta|Vicolo|Corso|[Cc]alle"
    rb"|[Aa]vda\.?|[Aa]venida"
    rb"|Paseo|Plaza|Camino|[Rr]\xe9a|[Rr]ua|Travessa|[Uu]l\.|[Uu]lica|Aleja|Al\.|[Tt]rg)"
)
_NAME: Final = rb"[A-Z\xe9][A-Za-z0-9\xe9.'-]{0,24}"
_SHAPES: Final = (
    ("ADDRESS", rb"[0-9]{1,6}[A-Za-z]? (?:" + _NAME + rb" ){1,4}(?:" + _SUFFIX + rb")", NAMED),
    (
        "ADDRESS",
        rb"(?:[0-9]{1,6}[A-Za-z]?,? )?\b"
        + _LEAD
        + rb" (?:(?:de|du|des|del|della|delle|di|da|do|la|le|el|los|las) ){0,2}(?:"
        + _NAME
        + rb" ){1,4}[0-9]{1,5}[A-Za-z]?\b",
        NAMED,
    ),
    (
        "ADDRESS",
        rb"[A-Z\xe9][A-Za-z\xe9]{2,24}(?:stra(?:\xe9|ss)e|str\.|gasse|weg|allee|gatan|v\xe9gen|gade|vej|gata"
        rb"|straat|laan|katu|tie|utca) [0-9]{1,5}[a-zA-Z]?\b",
        NAMED,
    ),
    ("ADDRESS", rb"(?i)\b(?:p\.? ?o\.? ?box|post ?box|postfach) [0-9]{1,6}\b", NAMED),
    (
        "ADDRESS",
        rb"\b(?i:unit|psc"
        rb"|cmr) [0-9]{3,5},? (?i:box) [0-9]{2,5}(?:[\s,]{1,4}(?i:[adf]po) (?i:a[aep]) [0-9]{5}(?:-[0-9]{4})?)?",
        NAMED,
    ),
    ("ADDRESS", rb"\b(?i:[adf]po),? (?i:a[aep]) [0-9]{5}(?:-[0-9]{4})?\b", NAMED),
    ("ADDRESS", rb"\b(?i:apt\.?|apartment|suite|ste\.) #?[0-9]{1,5}[A-Za-z]?\b", NAMED),
    ("POSTAL_CODE", rb"\b[A-Z]{1,2}[0-9][A-Z0-9]? [0-9][ABD-HJLNP-UW-Z]{2}\b", SHAPED),
    ("POSTAL_CODE", rb"\b[ABCEGHJ-NPRSTVXY][0-9][ABCEGHJ-NPRSTV-Z] [0-9][ABCEGHJ-NPRSTV-Z][0-9]\b", SHAPED),
)
_STATE_ZIP: Final = pattern(
    rb"\b(?:A[LKZRSP]|C[AOT]|D[CE]|FL|G[AU]|HI|I[DLNA]|K[SY]|LA|M[EDAINSOT]|N[EVHJMYCD]|O[HKR]|P[AR]|RI|S[CD]"
    rb"|T[NX]|UT|V[TAI]|W[AVIY]),? "
    rb"([0-9]{5}(?:-[0-9]{4})?)\b"
)
_UNIT: Final = rb"(?i)\b(?:apt|apartment|suite|p\.? ?o\.? ?box|address)\b"
_LONE_CODE: Final = pattern(
    _UNIT + rb"[^\x02]{0,160}?\n[ \t]*((?:[A-Z]{1,2}-)?[0-9]{2,6}(?:[ -][0-9]{2,4})?)[ \t]*(?:\n|$)"
)


def detectors() -> list[Detector]:
    """The detectors of this module."""
    shaped = [Detector(frozenset({kind}), shape, _finder(kind, shape, rank)) for kind, shape, rank in _SHAPES]
    return [
        *shaped,
        Detector(frozenset({"ADDRESS"}), rb"[A-Z]{2},? [0-9]{5}", state_zips),
        Detector(frozenset({"POSTAL_CODE"}), _UNIT, lone_codes),
    ]


def _finder(kind: str, shape: bytes, rank: int) -> Callable[[View], Iterator[Hit]]:
    return partial(_shaped, kind, pattern(shape), rank)


def _shaped(kind: str, shape: object, rank: int, view: View) -> Iterator[Hit]:
    for match in shape.finditer(view.data):  # type: ignore[attr-defined]
        if free_of_words(view.data, match.start(), match.end()):
            yield Hit(match.start(), match.end(), kind, rank)


def state_zips(view: View) -> Iterator[Hit]:
    """The ZIP code behind a US state's two letters."""
    for match in _STATE_ZIP.finditer(view.data):
        yield Hit(match.start(1), match.end(1), "ADDRESS", SHAPED)


def lone_codes(view: View) -> Iterator[Hit]:
    """A line of nothing but a postal code, below an address."""
    for match in _LONE_CODE.finditer(view.data):
        yield Hit(match.start(1), match.end(1), "POSTAL_CODE", SHAPED)
