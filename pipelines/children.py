"""Our own commands as child processes: servers that say on stdout, as one JSON line, when and where they are ready.

Knows how they are started, waited for and ended; not what they do.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final

from registry.errors import EnvironmentFaultError

GATEWAY_WAIT_S: Final = 180.0
"""An engine on a busy CPU loads its weights in half a minute."""


class Child:
    """One process of ours; ended by its own id, never by its name."""

    def __init__(self, name: str, command: list[str], log: Path, environment: dict[str, str] | None = None) -> None:
        self.name = name
        self._log_path = log
        self._log = log.open("ab")
        self.process = subprocess.Popen(  # noqa: S603  the caller's own programs
            command,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=os.environ | (environment or {}),
            bufsize=0,  # a second line that came with the first must not wait in a buffer that `select` does not see
        )

    def wait_ready(self, timeout_s: float) -> dict[str, Any]:
        """Return the line with `"event": "ready"`. Raises EnvironmentFaultError with the end of its log."""
        end_s = time.monotonic() + timeout_s
        while (left_s := end_s - time.monotonic()) > 0:
            line = self._line(left_s)
            if line.startswith(b"{") and json.loads(line).get("event") == "ready":
                ready: dict[str, Any] = json.loads(line)
                return ready
            if not line and self.process.poll() is not None:
                break
        state = "ended" if self.process.poll() is not None else f"was not ready after {timeout_s:g} s"
        raise EnvironmentFaultError(f"{self.name} {state}. The end of {self._log_path}:\n{self._log_end()}")

    def _line(self, left_s: float) -> bytes:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], left_s)
        return self.process.stdout.readline() if ready else b""

    def _log_end(self) -> str:
        return "\n".join(self._log_path.read_text(errors="replace").splitlines()[-12:])

    def stop(self) -> None:
        """Ask it to end, and end it if it does not."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._log.close()
        if self.process.stdout is not None:
            self.process.stdout.close()


def command_of(arguments: list[str]) -> list[str]:
    """Return how `journeyman ARGUMENTS` is called in this environment."""
    return [sys.executable, "-m", "router_service.cli", *arguments]


def wait_until_ready(url: str, timeout_s: float = GATEWAY_WAIT_S) -> None:
    """Wait for a gateway's backends and adapters. Raises EnvironmentFaultError with what is missing."""
    end_s = time.monotonic() + timeout_s
    while (report := readiness(url))["status"] != "ready":
        if time.monotonic() > end_s:
            trouble = "; ".join(report["trouble"])
            raise EnvironmentFaultError(f"The gateway is not ready after {timeout_s:g} s: {trouble}")
        time.sleep(0.2)


def readiness(url: str) -> dict[str, Any]:
    """Return what a gateway says of its readiness; `unavailable` when it says nothing."""
    try:
        with urllib.request.urlopen(url + "/readyz", timeout=5) as response:  # noqa: S310  our own gateway
            report: dict[str, Any] = json.load(response)
    except urllib.error.HTTPError as error:
        report = json.load(error)
    except OSError as error:
        report = {"status": "unavailable", "trouble": [str(error)]}
    return report
