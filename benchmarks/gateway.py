"""What our gateway adds to a call, beside other gateways, in one run.

nginx answers every call with the same completion. wrk posts 1 kB prompts, a thousand different ones, with 1 and with 8
connections: to nginx directly, to our gateway (one process; classification, planning, redaction and recording on), to
Portkey and to vllm-router. Repeats are interleaved; medians are shown.

    python benchmarks/gateway.py --seconds 5 --repeats 3

Aims: 3 times Portkey's throughput; at one connection, p50 added under 1 ms and p99 under 5 ms. Needs nginx, wrk, node
and npm on the PATH; the other gateways are installed into a git-ignored folder on the first run.
"""

from __future__ import annotations

import argparse
import os
import sys
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.gateway_others import portkey_headers, start_portkey, start_vllm_router
from benchmarks.loopback import Children, Load, chat_body, children, median_load, run_wrk, write_wrk_script
from benchmarks.upstream import Server, start_gateway, start_nginx

CONNECTIONS = (1, 8)
NAMES = ("direct", "journeyman", "portkey", "vllm-router")
Medians = dict[tuple[str, int], Load]


def start_all(group: Children, names: list[str]) -> tuple[dict[str, Server], dict[str, Path]]:
    """Start what is to be measured; returns the servers and each one's wrk script."""
    upstream = start_nginx(group)
    servers = {"direct": upstream}
    plain = write_wrk_script(group.folder, "plain", chat_body("auto"))
    scripts = dict.fromkeys(names, plain)
    for name in names:
        print(f"starting {name}", flush=True)
        if name == "journeyman":
            servers[name] = start_gateway(group, upstream)
        elif name == "portkey":
            servers[name] = start_portkey(group, upstream)
            scripts[name] = write_wrk_script(group.folder, name, chat_body("auto"), portkey_headers(upstream))
        elif name == "vllm-router":
            servers[name] = start_vllm_router(group, upstream)
    return servers, scripts


def measure(servers: dict[str, Server], scripts: dict[str, Path], seconds: int, repeats: int) -> Medians:
    """Medians for each server and number of connections, after a warm-up."""
    runs: dict[tuple[str, int], list[Load]] = {}
    for name, script in scripts.items():
        run_wrk(servers[name].chat_url, script, connections=8, seconds=2)
    for repeat in range(repeats):
        print(f"repeat {repeat + 1} of {repeats} (load {os.getloadavg()[0]:.1f})", flush=True)
        for name, script in scripts.items():
            for connections in CONNECTIONS:
                server = servers[name]
                load = run_wrk(server.chat_url, script, connections=connections, seconds=seconds, pid=server.pid)
                runs.setdefault((name, connections), []).append(load)
    return {key: median_load(loads) for key, loads in runs.items()}


def show(medians: Medians, names: list[str]) -> None:
    """Print the table; `added` is the latency over the direct call's, `x portkey` the throughput over Portkey's.

    `CPU ms` is the server's processor time for one call, with its children: ours has the loader that fills the store.
    """
    for connections in CONNECTIONS:
        print(f"\n{connections} connection{'s' if connections > 1 else ''}")
        head = f"  {'':<14}{'req/s':>10}{'p50 ms':>9}{'p99 ms':>9}{'p50 added':>11}"
        print(f"{head}{'CPU ms':>8}{'x portkey':>11}{'errors':>8}")
        direct, portkey = medians.get(("direct", connections)), medians.get(("portkey", connections))
        for name in names:
            load = medians[name, connections]
            added = f"{load.p50_ms - direct.p50_ms:.2f}" if direct else "-"
            ratio = f"{load.requests_per_s / portkey.requests_per_s:.2f}" if portkey else "-"
            print(
                f"  {name:<14}{load.requests_per_s:>10.0f}{load.p50_ms:>9.2f}{load.p99_ms:>9.2f}"
                f"{added:>11}{load.cpu_ms:>8.3f}{ratio:>11}{load.errors:>8}"
            )


def verdict(medians: Medians) -> None:
    """Say which aims are met."""
    ours, direct = medians["journeyman", 1], medians["direct", 1]
    aims = {"p50 added under 1 ms": ours.p50_ms - direct.p50_ms < 1, "p99 under 5 ms": ours.p99_ms < 5}
    for connections in CONNECTIONS:
        if ("portkey", connections) in medians:
            rates = [medians[name, connections].requests_per_s for name in ("journeyman", "portkey")]
            aims[f"3 x Portkey with {connections}"] = rates[0] >= 3 * rates[1]
    print("\naims: " + "; ".join(f"{name}: {'met' if met else 'NOT met'}" for name, met in aims.items()))


def show_recording(gateway: Server) -> None:
    """Print what the gateway counted, so that it is seen to have recorded every call."""
    with urllib.request.urlopen(f"{gateway.base_url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    print("\nthe gateway's own count:")
    for line in lines:
        if line.startswith(("journeyman_calls_total", "journeyman_records_total", "journeyman_escalations_total")):
            print(f"  {line}")


def main() -> None:
    """Parse the options, start everything, measure, show, end everything."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=int, default=5, help="length of one wrk run")
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES), help="measure these alone")
    chosen = options.parse_args()
    with children() as group:
        servers, scripts = start_all(group, chosen.only)
        medians = measure(servers, scripts, chosen.seconds, chosen.repeats)
        show(medians, chosen.only)
        if {"direct", "journeyman"} <= set(chosen.only):
            verdict(medians)
        if "journeyman" in servers:
            show_recording(servers["journeyman"])


if __name__ == "__main__":
    main()
