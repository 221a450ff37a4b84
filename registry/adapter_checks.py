"""Whether a folder can be a PEFT adapter: its config, its weights, and nothing that would be unpickled.

Looks at names and the config's JSON only; never reads the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

Problem = tuple[bool, str, str]

_PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".ckpt"})


def adapter_problems(folder: Path) -> Iterator[Problem]:
    """Yield (always an error, message, hint) for everything that is wrong with an adapter's folder.

    What is not always an error is one only for a specialist that serves.
    """
    try:
        names = sorted(path.name for path in folder.iterdir() if path.is_file())
    except FileNotFoundError:
        yield False, f"no folder {folder}", "adapters are looked up relative to the registry's own folder"
        return
    except OSError as error:
        yield False, f"cannot read {folder}: {error.strerror}", "an adapter is a folder"
        return
    if not any(name.endswith(".safetensors") for name in names):
        yield False, f"no .safetensors file in {folder}", "save the adapter with safe_serialization=True"
    yield from _config_problems(folder)
    pickles = [name for name in names if Path(name).suffix in _PICKLES]
    if pickles:
        weights = any(name.startswith("adapter_model") for name in pickles)
        yield weights, f"holds {', '.join(pickles[:3])}, which loading could execute", "keep .safetensors only"


def _config_problems(folder: Path) -> Iterator[Problem]:
    try:
        config = msgspec.json.decode((folder / "adapter_config.json").read_bytes())
    except FileNotFoundError:
        yield False, f"no adapter_config.json in {folder}", "a PEFT adapter has one"
    except (OSError, msgspec.MsgspecError, UnicodeError) as error:
        yield False, f"adapter_config.json cannot be read: {error}", "save the adapter again"
    else:
        if not isinstance(config, dict) or config.get("peft_type") != "LORA":
            yield False, "adapter_config.json does not say peft_type LORA", "only LoRA adapters can be served"
