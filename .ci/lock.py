"""Writes requirements.lock: the exact version of everything that the project needs, found by pip's own resolver.

    make lock

torch is left out, and what only its CUDA build pulls in: its version is in pyproject.toml and the Makefile, and which
build of it fits is the machine's affair.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
LEFT_OUT = re.compile(r"^(journeyman|torch|triton|nvidia-.*|cuda-.*)$")
HEAD = """\
# Every package of the core, the engine, the pipelines and the tests, at the version that was tested. Made by
# `make lock`; edit pyproject.toml instead. torch is installed on a line of its own (see the Makefile).
"""


def resolved() -> list[tuple[str, str]]:
    """Names and versions as pip would install them into an empty environment."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-"]
    done = subprocess.run([*pip, f"{ROOT}[engine,pipelines,training,dev]"], capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        sys.exit(f"pip could not resolve pyproject.toml:\n{done.stderr}")
    found = [item["metadata"] for item in json.loads(done.stdout)["install"]]
    return sorted((normal(item["name"]), item["version"]) for item in found)


def normal(name: str) -> str:
    """A name as the index spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    """Write the file."""
    lines = [f"{name}=={version}" for name, version in resolved() if not LEFT_OUT.match(name)]
    LOCK.write_text(HEAD + "\n".join(lines) + "\n")
    print(f"{LOCK.name}: {len(lines)} packages")


if __name__ == "__main__":
    main()
