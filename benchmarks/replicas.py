"""What replicas cost a call, and what a dying one costs its callers.

First the same calls through one server's backend and through a list of that one server, in turn. Then three servers
under constant load: one is killed by its process id and comes back after a while; every call is counted.

    python benchmarks/replicas.py --calls 3000 --rounds 5 --callers 200 --seconds 12
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
import time
from pathlib import Path

import uvloop

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from registry.entries import BackendEntry  # noqa: E402
from registry.errors import BackendError  # noqa: E402
from specialists.backend import Backend  # noqa: E402
from specialists.backends import BackendContext, make_backend  # noqa: E402
from specialists.calls import Call, Message  # noqa: E402
from tests.e2e.stub_replica import stub_replica  # noqa: E402

ASK = Call("base", (Message("user", "who are you?"),))


def backend_of(**where: object) -> Backend:
    """A backend with a `url`, or with `urls`."""
    entry = BackendEntry(name="many", kind="vllm", **where)  # type: ignore[arg-type]
    return make_backend(entry, BackendContext(state=Path("unused")))


async def overhead(calls: int, rounds: int) -> None:
    """CPU of this process for a call, one after the other, the two in turn."""
    with stub_replica() as server:
        ways = {"url": backend_of(url=server.url), "urls of one": backend_of(urls=(server.url,))}
        spent: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, backend in ways.items():
                began = time.process_time()
                for _ in range(calls):
                    await backend.complete(ASK, 5000)
                spent[name].append((time.process_time() - began) / calls * 1e6)
        for name, figures in spent.items():
            middle = statistics.median(figures)
            print(f"{name:<12} {middle:7.1f} us CPU a call  (rounds {min(figures):.1f} .. {max(figures):.1f})")
        ratio = statistics.median(spent["urls of one"]) / statistics.median(spent["url"])
        print(f"ratio        {ratio:7.2f}")
        for backend in ways.values():
            await backend.close()


async def death(callers: int, seconds: float) -> None:
    """A third of the time all are there, a third without the victim, a third with it back."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(stub_replica(0.02)) for _ in range(3)]
        backend = backend_of(urls=tuple(server.url for server in servers))
        calls: list[tuple[float, float, str]] = []
        began = time.monotonic()

        async def caller() -> None:
            while time.monotonic() - began < seconds:
                at = time.monotonic()
                try:
                    said = (await backend.complete(ASK, 10_000)).text or ""
                except BackendError as error:
                    said = f"error {type(error).__name__}"
                calls.append((at - began, (time.monotonic() - at) * 1e3, said))

        asking = [asyncio.create_task(caller()) for _ in range(callers)]
        await asyncio.sleep(seconds / 3)
        servers[0].kill()
        await asyncio.sleep(seconds / 3)
        stack.enter_context(stub_replica(0.02, servers[0].port))
        for replica in backend.replicas:  # type: ignore[attr-defined]
            await replica.probe()  # as a gateway does every five seconds
        await asyncio.gather(*asking)
        _table(calls, seconds, str(servers[0].port))
        await backend.close()


def _table(calls: list[tuple[float, float, str]], seconds: float, victim: str) -> None:
    print(f"{'':<12} {'calls':>7} {'failed':>7} {'p50 ms':>8} {'p99 ms':>8} {'max ms':>8} {'on the victim':>14}")
    for number, name in enumerate(("all three", "one killed", "back again")):
        part = [one for one in calls if number * seconds / 3 <= one[0] < (number + 1) * seconds / 3]
        took = sorted(one[1] for one in part)
        failed = sum(one[2].startswith("error") for one in part)
        share = sum(one[2] == victim for one in part) / max(1, len(part))
        p50, p99 = took[len(took) // 2], took[int(len(took) * 0.99)]
        print(f"{name:<12} {len(part):>7} {failed:>7} {p50:>8.1f} {p99:>8.1f} {took[-1]:>8.1f} {share:>14.1%}")


def main() -> None:
    """Both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--callers", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=12.0)
    arguments = parser.parse_args()
    uvloop.run(overhead(arguments.calls, arguments.rounds))
    uvloop.run(death(arguments.callers, arguments.seconds))


if __name__ == "__main__":
    main()
