"""How fast and how well redaction works, next to the same patterns under Python's `re`.

    python benchmarks/redaction.py [--part developed|held-out|all] [--no-speed]

Precision and recall are on $JOURNEYMAN_DATA/pii.jsonl. A prediction meets a labelled span when they overlap by at least
half of the longer of both and the kind maps to the type (`TYPES`).
Precision also accepts a postal code or address part inside a STREET_ADDRESS and a date of birth inside a DATE_TIME
(`EXTENDED`); the column strict does not. Templates with template_id % 3 == 0 were held out.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from policies.redaction import RedactionPolicy, Redactor
from policies.redaction_detectors import detectors_for

TYPES = {
    "EMAIL_ADDRESS": {"EMAIL"},
    "PHONE_NUMBER": {"PHONE"},
    "CREDIT_CARD": {"CREDIT_CARD"},
    "IBAN_CODE": {"IBAN"},
    "DOMAIN_NAME": {"URL"},
    "IP_ADDRESS": {"IP_ADDRESS"},
    "US_SSN": {"US_SSN"},
    "US_DRIVER_LICENSE": {"DRIVER_LICENSE"},
    "ZIP_CODE": {"POSTAL_CODE"},
}
"""Labels that are structured, and our kinds for them."""
NOT_CLAIMED = {"PERSON", "GPE", "ORGANIZATION", "TITLE", "NRP", "AGE", "DATE_TIME", "STREET_ADDRESS"}
"""Labels without a structure that can be checked. Addresses are taken out on a best-effort basis, reported apart."""
EXTENDED = {
    "ADDRESS": {"STREET_ADDRESS"},
    "POSTAL_CODE": {"ZIP_CODE", "STREET_ADDRESS"},
    "DATE_OF_BIRTH": {"DATE_TIME"},
}


def main() -> int:
    """Print the tables; exit 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("developed", "held-out", "all", "both"), default="both")
    parser.add_argument("--no-speed", action="store_true")
    parser.add_argument("--show", action="store_true", help="print misses and false alarms")
    options = parser.parse_args()
    folder = os.environ.get("JOURNEYMAN_DATA")
    labelled = ""
    if folder:
        rows = [json.loads(line) for line in (Path(folder) / "pii.jsonl").read_text().splitlines()]
        labelled = "\n".join(row["text"] for row in rows)
        for part in ("developed", "held-out") if options.part == "both" else (options.part,):
            chosen = [
                row for row in rows if part == "all" or (int(row["template_id"]) % 3 == 0) == (part == "held-out")
            ]
            report_quality(part, chosen, show=options.show)
    else:
        print("JOURNEYMAN_DATA is not set: no precision and recall")
    if not options.no_speed:
        report_speed(labelled)
    return 0


def overlaps(ours: tuple[int, int], theirs: tuple[int, int]) -> bool:
    """They share at least half of the longer one."""
    shared = min(ours[1], theirs[1]) - max(ours[0], theirs[0])
    return shared * 2 >= max(ours[1] - ours[0], theirs[1] - theirs[0])


def report_quality(part: str, rows: list[dict], *, show: bool) -> None:
    """Recall, precision and exact matches for each structured type, and micro-averaged."""
    redactor = Redactor()
    tally: dict[str, Counter[str]] = defaultdict(Counter)
    kind_of = {kind: label for label, kinds in TYPES.items() for kind in kinds}
    for row in rows:
        gold = [(start, end, label) for start, end, label in row["spans"]]
        ours = [(span.start, span.end, span.kind) for span in redactor.redact(row["text"]).spans]
        for start, end, label in gold:
            if label in TYPES:
                mine = [each for each in ours if each[2] in TYPES[label] and overlaps(each[:2], (start, end))]
                tally[label]["found" if mine else "missed"] += 1
                tally[label]["exact"] += any(each[:2] == (start, end) for each in mine)
                if show and not mine:
                    print("MISS", label, repr(row["text"][max(0, start - 30) : end + 15]), row["template_id"])
        for start, end, kind in ours:
            label = kind_of.get(kind)
            is_exact = any(g[2] == label and overlaps((start, end), g[:2]) for g in gold)
            inside = any(g[2] in EXTENDED.get(kind, ()) and g[0] <= start < g[1] for g in gold)
            key = label or f"({kind})"
            tally[key]["right" if is_exact or inside else "wrong"] += 1
            tally[key]["strict"] += is_exact
            if show and not (is_exact or inside):
                print("FALSE", kind, repr(row["text"][max(0, start - 30) : end + 15]), row["template_id"])
    print(f"\n{part}: {len(rows)} texts, {len({row['template_id'] for row in rows})} templates")
    print(f"{'type':20} {'gold':>5} {'recall':>7} {'exact':>7} {'found':>6} {'precision':>9} {'strict':>7}")
    total: Counter[str] = Counter()
    for key in [*TYPES, *sorted(set(tally) - set(TYPES))]:
        counts = tally[key]
        if key in TYPES:
            total.update(counts)
        print_line(key, counts)
    print_line("micro, structured", total)
    streets = [(row, span) for row in rows for span in row["spans"] if span[2] == "STREET_ADDRESS"]
    touched = sum(
        any(s.start < span[1] and s.end > span[0] for s in redactor.redact(row["text"]).spans) for row, span in streets
    )
    print(f"not claimed: STREET_ADDRESS touched {touched} of {len(streets)}")


def print_line(name: str, counts: Counter[str]) -> None:
    """One row of the table."""
    gold, found = counts["found"] + counts["missed"], counts["right"] + counts["wrong"]
    if not gold and not found:
        return

    def share(part: int, whole: int) -> str:
        return f"{part / whole:.3f}" if whole else "-"

    left = f"{name:20} {gold:5} {share(counts['found'], gold):>7} {share(counts['exact'], gold):>7}"
    print(f"{left} {found:6} {share(counts['right'], found):>9} {share(counts['strict'], found):>7}")


PROSE = (
    "The committee met twice in 2019 and agreed that the budget of 1,250 units would be reviewed after the summer. "
    "Members asked whether the earlier figures, about 12.5 per cent lower, still stood; the chair said that they did, "
    "and that a fuller answer would follow. Please set an alarm for 7:30, play some jazz, "
    "and tell me what the weather in Lisbon will be like next week.\n"
)
DENSE = (
    "Contact Jo at jo.bloggs{n}@example.com or +1 541-714-{n:04}, card 4111 1111 1111 1111, "
    "IBAN GB82WEST12345698765432, SSN 078-05-1120, host 10.1.2.{m} (https://example.com/u/{n}), password=hunter{n}x; "
    "token ghp_16C7e42F292c6912E7710c838347Ae178B4a. "
)


def report_speed(labelled: str) -> None:
    """MB/s (of CPU time) of clean and dense text beside the same triggers in one `re` alternation; the cost of 1 kB."""
    texts = {
        "clean prose": PROSE * 2500,
        "pii.jsonl": labelled,
        "dense, 36 values in 1 kB": "".join(DENSE.format(n=n % 10000, m=n % 256) for n in range(1200)),
    }
    texts = {name: text for name, text in texts.items() if text}
    redactor = Redactor()
    plain = re.compile(b"|".join(_for_re(each.trigger) for each in detectors_for(RedactionPolicy())))

    def search_plainly(text: str) -> int:
        return sum(1 for _ in plain.finditer(text.encode("latin-1", "replace")))

    print("\nre: one alternation of the same triggers, searched only (nothing checked or replaced)")
    print(f"{'4 kB pieces':28} {'ours MB/s':>10} {'re MB/s':>10} {'ratio':>8} {'ours, whole':>12}")
    for name, text in texts.items():
        redactor.redact(text[:20000])
        ours, theirs = speed(redactor.redact, text[:4096], 30), speed(search_plainly, text[:4096], 10)
        print(f"{name:28} {ours:10.1f} {theirs:10.1f} {ours / theirs:8.1f} {speed(redactor.redact, text, 1):12.1f}")
    for name, text in texts.items():
        times = sorted(timed(redactor.redact, text[:1000]) for _ in range(1000))
        print(f"1 kB of {name}: CPU p50 {times[500] * 1e6:.1f} us, p99 {times[990] * 1e6:.1f} us")


def _for_re(source: bytes) -> bytes:
    """RE2's mid-pattern `(?i)` reaches to the end of its group: the same for `re`."""
    head, flag, tail = source.partition(b"(?i)")
    return b"(?:" + head + (b"(?i:" + tail + b")" if flag else b"") + b")"


def timed(call: Callable[[str], object], text: str) -> float:
    """CPU seconds of one call: the machine may be shared."""
    begun = time.process_time()
    call(text)
    return time.process_time() - begun


def speed(call: Callable[[str], object], text: str, times: int) -> float:
    """Megabytes a CPU second, median of three rounds."""
    rounds = sorted(sum(timed(call, text) for _ in range(times)) for _ in range(3))
    return len(text) * times / rounds[1] / 1e6


if __name__ == "__main__":
    sys.exit(main())
