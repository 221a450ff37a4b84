"""How a gateway is set up: one frozen value, read from the environment and the command line by its caller.

Nothing here reads a file or opens a port.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from registry.errors import ConfigError

PREFIX = "JOURNEYMAN_"
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
POLICIES = Path(__file__).resolve().parent.parent / "policies"


class Settings(Struct, frozen=True, kw_only=True):
    """Every setting of the gateway; each is also the environment variable `JOURNEYMAN_<NAME>`."""

    registry: Path = Path("registry.yaml")
    """The operator's registry file; edits take effect within two seconds."""
    policies: Path = POLICIES
    """Folder with planner.yaml, clusters.yaml, access.yaml, redaction.yaml and promotion.yaml."""
    state: Path = Path(".journeyman")
    """Folder of the spool, the store, the keys and the logs; made with mode 0700."""
    host: str = "127.0.0.1"
    """Address to listen on. Anything but loopback needs API keys."""
    port: int = 8080
    """Port to listen on; 0 takes a free one and prints it."""
    max_body_bytes: int = 4 * 1024 * 1024
    """Larger request bodies get 413 before they are buffered."""
    receive_timeout_s: float = 15.0
    """How long a caller may take to send its body."""
    max_in_flight: int = 512
    """Calls answered at once; more get 429 with `retry-after`."""
    require_record: bool = False
    """True: a call whose record cannot be written is refused with 503. False: it is answered and counted."""
    reload_interval_s: float = 1.0
    """How often the registry file and the classifier's folder are looked at."""
    plans_kept: int = 2_000
    """Recent plans held in memory for `/v1/plans/{id}`; older ones come from the store."""
    segment_age_s: float = 2.0
    """Age at which a spool segment is closed and handed to the loader."""
    spool_max_bytes: int = 1024 * 1024 * 1024
    """Size at which the spool sheds records (counted) rather than fill the disk."""
    classifier: Path | None = None
    """Folder of the fitted classifier; `classifier` in the state folder by default. A new fit is taken up at once."""
    beliefs: Path | None = None
    """Folder of what routers have learned, a file each; `beliefs` in the state folder unless several share one."""
    router_name: str = "router"
    """This process among those that share `beliefs`: the name of its file."""
    beliefs_interval_s: float = 30.0
    """How often what was learned is written down, and the other routers' is read."""
    shadow_share: float = 1.0
    """Share of a cluster's calls that are mirrored to specialists in shadow, unseen by callers; 0 switches it off."""
    shadow_max_in_flight: int = 2
    """Mirrored calls answered at once; what comes beyond a short queue is left out and counted."""
    load_records: bool = True
    """Whether the gateway runs the loader that moves records from the spool into DuckDB."""
    log_level: str = "info"
    """debug, info, warning or error."""
    log_format: str = "json"
    """json or console."""

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the gateway."""
        return self.host in LOOPBACK

    @classmethod
    def from_env(cls, environment: Mapping[str, str], **overrides: Any) -> Settings:
        """Read `JOURNEYMAN_*`, then apply what the command line says (None: not said).

        Raises ConfigError that names every variable that is wrong.
        """
        values: dict[str, Any] = {}
        problems: list[str] = []
        for item in msgspec.structs.fields(cls):
            raw = environment.get(PREFIX + item.name.upper())
            if raw is not None:
                values[item.name] = _convert(raw, item, problems)
        if problems:
            raise ConfigError("\n".join(problems))
        values.update({key: value for key, value in overrides.items() if value is not None})
        return cls(**values)


def _convert(raw: str, item: Any, problems: list[str]) -> Any:
    if item.type in (Path, "Path", Path | None, "Path | None"):
        return Path(raw)
    if item.type in (bool, "bool"):
        raw = {"1": "true", "0": "false", "yes": "true", "no": "false"}.get(raw.lower(), raw.lower())
    try:
        return msgspec.convert(raw, type(item.default), strict=False)
    except msgspec.ValidationError as error:
        problems.append(f"{PREFIX}{item.name.upper()}={raw!r}: {error}")
        return item.default
