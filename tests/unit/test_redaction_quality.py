"""Recall and precision on labelled texts, when the workloads are there."""

import json
import os
from pathlib import Path

import pytest

from policies.redaction import Redactor, residual_scan

TYPES = {
    "EMAIL_ADDRESS": "EMAIL",
    "PHONE_NUMBER": "PHONE",
    "CREDIT_CARD": "CREDIT_CARD",
    "IBAN_CODE": "IBAN",
    "DOMAIN_NAME": "URL",
    "IP_ADDRESS": "IP_ADDRESS",
    "US_SSN": "US_SSN",
    "US_DRIVER_LICENSE": "DRIVER_LICENSE",
    "ZIP_CODE": "POSTAL_CODE",
}
FOLDER = os.environ.get("JOURNEYMAN_DATA")


@pytest.mark.data
@pytest.mark.skipif(not FOLDER, reason="JOURNEYMAN_DATA is not set")
def test_structured_types_are_found_and_little_else():
    redactor = Redactor()
    gold = found = predicted = right = 0
    for line in (Path(FOLDER or ".") / "pii.jsonl").read_text().splitlines():
        row = json.loads(line)
        redacted = redactor.redact(row["text"])
        ours = {(span.start, span.end, span.kind) for span in redacted.spans if span.kind in TYPES.values()}
        theirs = {(start, end, TYPES[label]) for start, end, label in row["spans"] if label in TYPES}
        inside = {
            each
            for each in ours - theirs
            if any(g[0] <= each[0] < g[1] and g[2] == "STREET_ADDRESS" for g in row["spans"])
        }
        gold, found = gold + len(theirs), found + len(theirs & ours)
        predicted, right = predicted + len(ours), right + len(theirs & ours) + len(inside)
        assert residual_scan(redacted.text) == []
    assert found / gold >= 0.99
    assert right / predicted >= 0.95
