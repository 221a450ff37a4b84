"""Does the serving process grow? Its resident memory over many calls, no two of them the same.

wrk posts 1 kB prompts through the gateway (classification, planning, redaction and recording on) to nginx. RSS is read
about every 5,000 calls; the slope is a least-squares line over the samples after the warm-up of 10,000 calls.

    python benchmarks/memory.py --calls 50000

Aims: under 200 MB at the end, slope under 1 MiB per 10,000 calls. Needs nginx and wrk on the PATH.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.loopback import chat_body, child_pids, children, run_wrk, write_wrk_script
from benchmarks.upstream import Server, start_gateway, start_nginx

WARM_UP_CALLS = 10_000
AIM_MB = 200
AIM_SLOPE_MIB = 1.0
MIB = 2**20


def rss_bytes(pid: int) -> int:
    """Resident memory of one process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"process {pid} is gone")


def calls_answered(gateway: Server) -> int:
    """How many calls the gateway counted."""
    with urllib.request.urlopen(f"{gateway.base_url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return int(sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("journeyman_calls_total{")))


def slope_mib(samples: list[tuple[int, int]]) -> float:
    """MiB per 10,000 calls, after the warm-up."""
    warm = [(calls, rss) for calls, rss in samples if calls >= WARM_UP_CALLS]
    if len(warm) < 3:
        raise SystemExit(f"too few samples after {WARM_UP_CALLS} calls: give --calls 30000 or more")
    line = statistics.linear_regression([calls for calls, _ in warm], [rss for _, rss in warm])
    return line.slope * 10_000 / MIB


def sample(gateway: Server, script: Path, calls: int, every: int) -> list[tuple[int, int]]:
    """Calls answered and RSS, about every `every` calls."""
    samples: list[tuple[int, int]] = []
    answered = calls_answered(gateway)
    started = time.monotonic()
    print(f"{'calls':>8}{'RSS MiB':>10}{'children MiB':>14}{'calls/s':>10}")
    while answered < calls:
        run_wrk(gateway.chat_url, script, connections=8, seconds=1)
        answered = calls_answered(gateway)
        if answered < (samples[-1][0] + every if samples else every):
            continue
        samples.append((answered, rss_bytes(gateway.pid)))
        beside = sum(rss_bytes(pid) for pid in child_pids(gateway.pid))
        rate = answered / (time.monotonic() - started)
        print(f"{answered:>8}{samples[-1][1] / MIB:>10.1f}{beside / MIB:>14.1f}{rate:>10.0f}", flush=True)
    return samples


def main() -> None:
    """Start, sample, say whether the aims are met."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--calls", type=int, default=50_000)
    options.add_argument("--every", type=int, default=5_000, help="calls between two samples")
    chosen = options.parse_args()
    with children() as group:
        gateway = start_gateway(group, start_nginx(group))
        script = write_wrk_script(group.folder, "distinct", chat_body("auto"), distinct=0)
        samples = sample(gateway, script, chosen.calls, chosen.every)
    end_mb, slope = samples[-1][1] / 1e6, slope_mib(samples)
    print()
    tell(f"{end_mb:.0f} MB after {samples[-1][0]} calls (aim: under {AIM_MB})", end_mb < AIM_MB)
    tell(f"{slope:+.2f} MiB per 10,000 calls (aim: under {AIM_SLOPE_MIB})", slope < AIM_SLOPE_MIB)


def tell(what: str, met: bool) -> None:
    """One aim and whether it is met."""
    print(f"{what}: {'met' if met else 'NOT met'}")


if __name__ == "__main__":
    main()
