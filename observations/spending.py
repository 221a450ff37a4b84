"""What tenants have spent already: a gateway that starts asks once, so that a restart does not renew anybody's budget.

Run as a process of its own (`python -m observations.spending`), because the serving process should not hold DuckDB.
Loads what the spool still holds first: a killed gateway's last calls count too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from pathlib import Path

import msgspec
from msgspec import Struct

from registry.errors import JourneymanError, NotFoundError, StorageError

from .state import StatePaths

_QUERY = """
    SELECT tenant, max(at_ms) AS at_ms, sum(cost_usd) AS usd FROM slm_observation_raw
    WHERE at_ms >= ? GROUP BY tenant, date_trunc('day', make_timestamp(at_ms * 1000)) HAVING sum(cost_usd) > 0
"""


class Spending(Struct, frozen=True):
    """What one tenant spent on one UTC day; `at_ms` is a moment of that day."""

    tenant: str
    at_ms: int
    usd: float


def spending_since(state: StatePaths, since_ms: int) -> list[Spending]:
    """Return the spending by tenant and day. Blocking; raises StorageError."""
    from .loading import load_once  # noqa: PLC0415  DuckDB is loaded when it is needed
    from .store import open_reader  # noqa: PLC0415

    load_once(state)
    try:
        store = open_reader(state)
    except NotFoundError:
        return []
    with contextlib.closing(store):
        return [Spending(*row) for row in store.execute(_QUERY, [since_ms]).fetchall()]


async def ask_spending(state: StatePaths, since_ms: int) -> list[Spending]:
    """The same, in a process of its own. Raises StorageError with what it said."""
    command = [sys.executable, "-m", "observations.spending", "--state", str(state.root), "--since-ms", str(since_ms)]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    said, trouble = await process.communicate()
    if process.returncode:
        raise StorageError(f"What was spent before cannot be read: {trouble.decode(errors='replace').strip()[-300:]}")
    return msgspec.json.decode(said, type=list[Spending])


def main(arguments: list[str] | None = None) -> int:
    """Print the spending as one JSON array."""
    parser = argparse.ArgumentParser(prog="python -m observations.spending", description="What tenants have spent.")
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--since-ms", type=int, required=True)
    options = parser.parse_args(arguments)
    try:
        rows = spending_since(StatePaths(options.state), options.since_ms)
    except JourneymanError as error:
        print(error.message, file=sys.stderr)
        return 3
    sys.stdout.buffer.write(msgspec.json.encode(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
