"""Reads the operators' policy files: planner.yaml, clusters.yaml, access.yaml, redaction.yaml, promotion.yaml.

A file that is missing means the shipped defaults; a file that is wrong stops the start with every finding.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import yaml
from msgspec import Struct, to_builtins

from policies.access import AccessPolicy
from policies.classify import ClusterTable, TableClassifier
from policies.promotion import PromotionPolicy
from policies.redaction_policy import RedactionPolicy, policy_from_mapping
from policies.terms import PlannerPolicy
from policies.two_stage import TwoStageClassifier
from registry.errors import ConfigError
from registry.identifiers import digest_of
from registry.strict_yaml import load_strict

from .gateway import Policies

T = TypeVar("T")


class PolicyFiles(Struct, frozen=True):
    """Every policy in force."""

    decisions: Policies
    access: AccessPolicy
    redaction: RedactionPolicy
    promotion: PromotionPolicy


def load_policies(folder: Path) -> PolicyFiles:
    """Load a folder of policy files. Raises ConfigError with all findings of the first file that is wrong."""
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder of policy files; set JOURNEYMAN_POLICIES or --policies.")
    planner = _load(folder / "planner.yaml", PlannerPolicy)
    clusters = _load(folder / "clusters.yaml", ClusterTable)
    access = _load(folder / "access.yaml", AccessPolicy)
    digest = "sha256:" + digest_of([to_builtins(planner), to_builtins(clusters)])
    return PolicyFiles(
        decisions=Policies(planner=planner, classifier=TwoStageClassifier(TableClassifier(clusters)), digest=digest),
        access=access,
        redaction=_redaction(folder / "redaction.yaml"),
        promotion=_load(folder / "promotion.yaml", PromotionPolicy),
    )


def _load(path: Path, kind: type[T]) -> T:
    if not path.exists():
        return kind()
    return load_strict(path.read_text(encoding="utf-8"), kind, str(path))


def _redaction(path: Path) -> RedactionPolicy:
    if not path.exists():
        return RedactionPolicy()
    try:
        mapping = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {error}") from None
    return policy_from_mapping(mapping)
