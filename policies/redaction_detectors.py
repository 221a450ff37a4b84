"""The table of all detectors under one policy. Knows no detector's inside."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from policies import (
    redaction_addresses,
    redaction_cards,
    redaction_named,
    redaction_national,
    redaction_network,
    redaction_phones,
    redaction_secrets,
)
from policies.redaction_detector import CHECKED, Detector, Hit
from policies.redaction_policy import ExtraPattern, RedactionPolicy
from policies.redaction_view import View, pattern


def detectors_for(policy: RedactionPolicy) -> list[Detector]:
    """Every detector that has a kind which is on, the operator's own last."""
    ours = [
        *redaction_network.detectors(policy),
        *redaction_cards.detectors(),
        *redaction_national.detectors(),
        *redaction_named.detectors(),
        *redaction_phones.detectors(policy),
        *redaction_secrets.detectors(),
        *redaction_addresses.detectors(),
    ]
    return [each for each in ours if each.kinds & policy.kinds] + [_extra(each) for each in policy.extra]


def _extra(extra: ExtraPattern) -> Detector:
    source = extra.pattern.encode()
    return Detector(frozenset({extra.kind}), source, partial(_matches, extra.kind, pattern(source)))


def _matches(kind: str, shape: object, view: View) -> Iterator[Hit]:
    for match in shape.finditer(view.data):  # type: ignore[attr-defined]
        if match.end() > match.start():
            yield Hit(match.start(), match.end(), kind, CHECKED + 1)
