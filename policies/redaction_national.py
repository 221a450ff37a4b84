"""Detectors of national numbers whose own shape and checksum give them away, without a word beside them.

Plain digit runs that many countries share (eleven digits, say) are left to `redaction_named`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, NamedTuple

import stdnum.ar.cuit
import stdnum.be.nn
import stdnum.br.cnpj
import stdnum.br.cpf
import stdnum.ch.ssn
import stdnum.cl.rut
import stdnum.cn.ric
import stdnum.cz.rc
import stdnum.dk.cpr
import stdnum.es.dni
import stdnum.es.nie
import stdnum.fi.hetu
import stdnum.fr.nir
import stdnum.ie.pps
import stdnum.in_.aadhaar
import stdnum.in_.pan
import stdnum.is_.kennitala
import stdnum.it.codicefiscale
import stdnum.kr.rrn
import stdnum.mx.curp
import stdnum.my.nric
import stdnum.se.personnummer
import stdnum.th.pin
import stdnum.us.itin

from policies.redaction_detector import CHECKED, Detector, Hit, free_of_words
from policies.redaction_view import View, pattern


def _is_ssn(text: str) -> bool:
    """Area, group and serial as the Social Security Administration gives them out."""
    area, group, serial = text[:3], text[4:6], text[-4:]
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000" and text[3] == text[6]


def _is_nino(text: str) -> bool:
    """HMRC's list of prefixes that are never given out."""
    return text[:2] not in ("BG", "GB", "NK", "KN", "TN", "NT", "ZZ")


def _is_nric(text: str) -> bool:
    """Singapore: weighted sum and a check letter by series."""
    total = sum(int(char) * weight for char, weight in zip(text[1:8], (2, 7, 6, 5, 4, 3, 2), strict=True))
    total += {"T": 4, "G": 4, "M": 3}.get(text[0], 0)
    letters = {"S": "JZIHGFEDCBA", "T": "JZIHGFEDCBA", "F": "XWUTRQPNMLK", "G": "XWUTRQPNMLK", "M": "KLJNPQRTUWX"}
    return letters[text[0]][10 - total % 11 if text[0] == "M" else total % 11] == text[8]


def _is_snils(text: str) -> bool:
    """Russia: weighted sum modulo 101."""
    digits = [int(char) for char in text if char.isdigit()]
    return sum(digit * (9 - at) for at, digit in enumerate(digits[:9])) % 101 % 100 == digits[9] * 10 + digits[10]


class _Shape(NamedTuple):
    kind: str
    shape: bytes
    check: Callable[[str], bool]


_SHAPES: Final = (
    _Shape("US_SSN", rb"[0-9]{3}[- ][0-9]{2}[- ][0-9]{4}", _is_ssn),
    _Shape("US_SSN", rb"9[0-9]{2}-[0-9]{2}-[0-9]{4}", stdnum.us.itin.is_valid),
    _Shape("NATIONAL_ID", rb"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D]", _is_nino),
    _Shape("NATIONAL_ID", rb"[0-9]{8}-?[A-HJ-NP-TV-Z]", stdnum.es.dni.is_valid),
    _Shape("NATIONAL_ID", rb"[XYZ]-?[0-9]{7}-?[A-HJ-NP-TV-Z]", stdnum.es.nie.is_valid),
    _Shape("NATIONAL_ID", rb"[A-Z]{6}[0-9]{2}[A-Z][0-9]{2}[A-Z][0-9]{3}[A-Z]", stdnum.it.codicefiscale.is_valid),
    _Shape(
        "NATIONAL_ID", rb"[12] ?[0-9]{2} ?[0-9]{2} ?[0-9][0-9AB] ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}", stdnum.fr.nir.is_valid
    ),
    _Shape("NATIONAL_ID", rb"[0-9]{6}[-+A][0-9]{3}[0-9A-Y]", stdnum.fi.hetu.is_valid),
    _Shape("NATIONAL_ID", rb"[0-9]{2}\.[0-9]{2}\.[0-9]{2}-[0-9]{3}\.[0-9]{2}", stdnum.be.nn.is_valid),
    _Shape("NATIONAL_ID", rb"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}", stdnum.br.cpf.is_valid),
    _Shape("NATIONAL_ID", rb"[0-9]{2}\.[0-9]{3}\.[0-9]{3}/[0-9]{4}-[0-9]{2}", stdnum.br.cnpj.is_valid),
    _Shape("NATIONAL_ID", rb"[2-9][0-9]{3}[ -][0-9]{4}[ -][0-9]{4}", stdnum.in_.aadhaar.is_valid),
    _Shape("NATIONAL_ID", rb"[A-Z]{3}[ABCFGHLJPT][A-Z][0-9]{4}[A-Z]", stdnum.in_.pan.is_valid),
    _Shape("NATIONAL_ID", rb"(?:[0-9]{2})?[0-9]{6}[-+][0-9]{4}", stdnum.se.personnummer.is_valid),
    _Shape("NATIONAL_ID", rb"[0-9]{6}-[0-9]{4}", stdnum.dk.cpr.is_valid),
    _Shape("NATIONAL_ID", rb"[0-9]{6}-[0-9]{4}", stdnum.is_.kennitala.is_valid),
    _Shape("NATIONAL_ID", rb"[0-9]{6}/[0-9]{3,4}", stdnum.cz.rc.is_valid),
    _Shape("NATIONAL_ID", rb"[A-Z]{4}[0-9]{6}[HM][A-Z]{5}[0-9A-Z][0-9]", stdnum.mx.curp.is_valid),
    _Shape("NATIONAL_ID", rb"[1-9][0-9]{16}[0-9X]", stdnum.cn.ric.is_valid),
    _Shape("NATIONAL_ID", rb"[0-9]{6}-[0-9]{7}", stdnum.kr.rrn.is_valid),
    _Shape("NATIONAL_ID", rb"[0-9]{1,2}\.[0-9]{3}\.[0-9]{3}-[0-9kK]", stdnum.cl.rut.is_valid),
    _Shape("NATIONAL_ID", rb"[0-9]{2}-[0-9]{8}-[0-9]", stdnum.ar.cuit.is_valid),
    _Shape("NATIONAL_ID", rb"[0-9]-[0-9]{4}-[0-9]{5}-[0-9]{2}-[0-9]", stdnum.th.pin.is_valid),
    _Shape("NATIONAL_ID", rb"[0-9]{6}-[0-9]{2}-[0-9]{4}", stdnum.my.nric.is_valid),
    _Shape("NATIONAL_ID", rb"756\.?[0-9]{4}\.?[0-9]{4}\.?[0-9]{2}", stdnum.ch.ssn.is_valid),
    _Shape("NATIONAL_ID", rb"[0-9]{7}[A-W][A-I]?", stdnum.ie.pps.is_valid),
    _Shape("NATIONAL_ID", rb"[STFGM][0-9]{7}[A-Z]", _is_nric),
    _Shape("NATIONAL_ID", rb"[0-9]{3}-[0-9]{3}-[0-9]{3} [0-9]{2}", _is_snils),
    _Shape("PASSPORT", rb"[A-Z0-9<]{9}[0-9][A-Z<]{3}[0-9]{7}[MFX<][0-9]{7}[A-Z0-9<]{14}[0-9<][0-9]", bool),
    _Shape("PASSPORT", rb"P[A-Z<][A-Z<]{3}[A-Z]+<[A-Z<]{20,38}", bool),
)


def detectors() -> list[Detector]:
    """The detectors of this module. The shape itself is the trigger, since it is already rare."""
    return [Detector(frozenset({row.kind}), row.shape, partial(_shaped, row, pattern(row.shape))) for row in _SHAPES]


def _shaped(row: _Shape, shape: object, view: View) -> Iterator[Hit]:
    for match in shape.finditer(view.data):  # type: ignore[attr-defined]
        start, end = match.span()
        if not free_of_words(view.data, start, end) or view.data[end : end + 1] == b"-" != view.data[end - 1 : end]:
            continue
        if row.check(match.group().decode("ascii")):
            yield Hit(start, end, row.kind, CHECKED)
