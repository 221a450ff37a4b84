"""The files of deploy/ as values: every document, every pod, every container."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
MANIFESTS = sorted(path for path in (DEPLOY / "kubernetes").glob("*.yaml") if path.name != "kustomization.yaml")
KUSTOMIZATIONS = [DEPLOY / "kubernetes", DEPLOY / "config", ROOT / "policies", ROOT / "grafana"]


def load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


@cache
def documents() -> dict[str, dict[str, Any]]:
    """Every manifest by `file:kind/name`."""
    return {
        f"{path.name}:{document['kind']}/{document['metadata']['name']}": document
        for path in MANIFESTS
        for document in yaml.safe_load_all(path.read_text())
    }


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    """Name to document."""
    return {found["metadata"]["name"]: found for found in documents().values() if found["kind"] == kind}


def pods() -> dict[str, dict[str, Any]]:
    """Name of the workload to its pod template."""
    return {
        document["metadata"]["name"]: document["spec"]["template"]
        for document in documents().values()
        if "template" in document.get("spec", {})
    }


def containers() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """`workload/container` to (container, its pod's spec); those of initialisation too."""
    return {
        f"{workload}/{container['name']}": (container, pod["spec"])
        for workload, pod in pods().items()
        for container in [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]
    }


@cache
def compose() -> dict[str, Any]:
    """compose.yaml, its variables as they are."""
    return load(DEPLOY / "compose.yaml")


def bytes_of(quantity: str) -> float:
    """What a quantity of Kubernetes or Compose means."""
    number, unit = re.fullmatch(r"([\d.]+)([A-Za-z]*)", str(quantity)).groups()
    powers = {"": 1, "m": 1e-3, "M": 1e6, "G": 1e9, "Mi": 2**20, "Gi": 2**30}
    return float(number) * powers[unit]


def selects(policy: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a selector of pods takes a pod with these labels."""
    selector = policy["spec"]["podSelector"]
    by_label = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    return by_label and all(
        rule["operator"] == "In" and labels.get(rule["key"]) in rule["values"]
        for rule in selector.get("matchExpressions", ())
    )


def commands_of_vllm(path: Path) -> Iterator[str]:
    """Each line of a text that starts vLLM, put together where it is continued; comments and quotes looked through."""
    text = re.sub(r"\\\n[ \t]*#?[ \t]*", " ", path.read_text())
    for line in text.splitlines():
        if re.search(r"\bvllm serve\s+[\w./$-]|-m vllm\.entrypoints\.openai\.api_server\b", line):
            yield line.strip()
