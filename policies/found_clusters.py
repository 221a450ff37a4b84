"""The tasks that were found in the traffic, as far as serving needs them: which signature is which task's own.

A signature that several tasks share tells them apart no more; it is left to the learned model. Reads what the
clustering writes; knows nothing of files.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

import msgspec
from msgspec import Struct

from registry.errors import ConfigError


class FoundCluster(Struct, frozen=True):
    """One task. What else the file says of it is for people."""

    id: str
    signatures: tuple[str, ...] = ()


class FoundClusters(Struct, frozen=True):
    """The whole file."""

    version: Literal[1]
    clusters: tuple[FoundCluster, ...] = ()

    def by_signature(self) -> dict[str, str]:
        """Signature to cluster, of those that belong to one alone."""
        owners = Counter(signature for cluster in self.clusters for signature in set(cluster.signatures))
        return {s: cluster.id for cluster in self.clusters for s in cluster.signatures if owners[s] == 1}


def decode_found(content: bytes, where: str) -> FoundClusters:
    """Return the file's value. Raises ConfigError naming the place and the mend."""
    try:
        return msgspec.json.decode(content, type=FoundClusters)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where}: not a file of found clusters ({error}). Cluster again.") from None
