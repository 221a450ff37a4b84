"""`python -m benchmarks.gpu`: what training and generation cost on one GPU, each beside an alternative in the same run.

LoRA and QLoRA train SmolLM2-135M and a random model of 7B shape, with and without gradient checkpointing, through our
trainer and through a bare PyTorch loop. Generation mixes adapters in one batch. Needs no network. A measurement that
does not fit, or whose package is not there, leaves a row with the reason.

    python -m benchmarks.gpu --quick                # about 3 minutes on a large GPU
    python -m benchmarks.gpu --model DIR --json     # SmolLM2's own weights
    python -m benchmarks.gpu --device cpu --tiny    # the same steps on toy shapes: no figures, only whether it runs
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any


def main(arguments: list[str] | None = None) -> int:
    """Print the table. Returns 3 where the device is not there."""
    options = _options(arguments)
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks: the trainer takes a GPU that it sees
    import torch  # noqa: PLC0415 - after the line above

    if options.device == "cuda" and not torch.cuda.is_available():
        print("torch finds no CUDA device; --device cpu --tiny runs the steps on toy shapes.", file=sys.stderr)
        return 3
    from benchmarks.gpu.measurements import every_row  # noqa: PLC0415 - likewise
    from benchmarks.gpu.rows import as_table  # noqa: PLC0415 - likewise

    rows = every_row(options.device, tiny=options.tiny, quick=options.quick, folder=options.model)
    if options.json:
        import msgspec  # noqa: PLC0415 - beside the others

        plain: Any = [msgspec.to_builtins(row) | {"ratio": row.ratio} for row in rows]
        print(json.dumps({"machine": _machine(options.device), "rows": plain}, indent=1))
    else:
        print(f"{_machine(options.device)}\n\n{as_table(rows)}")
    return 0


def _machine(device: str) -> str:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - for this line alone

    import torch  # noqa: PLC0415 - after main has chosen the device

    what = platform.processor() or platform.machine()
    if device == "cuda":
        facts = torch.cuda.get_device_properties(0)
        what = f"{facts.name}, {facts.total_memory / (1 << 30):.0f} GiB"
    found = []
    for package in ("torch", "transformers", "peft", "trl", "bitsandbytes"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"no {package}")
    return f"{what}; {', '.join(found)}"


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer steps, one block")
    parser.add_argument("--json", action="store_true", help="JSON instead of the table")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="toy shapes")
    parser.add_argument("--model", type=Path, help="folder with SmolLM2's weights")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
