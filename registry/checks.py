"""What must hold between the entries of a registry: references, names, urls, adapters. Every finding at once.

Takes a file whose shape is right already (`registry.strict_yaml`). Looks at adapter folders and at which
environment variables exist; never reads a key's value, and never calls a backend.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from msgspec import Struct

from .adapter_checks import adapter_problems
from .catalog import AUTO
from .entries import BackendEntry, RegistryFile, SpecialistEntry
from .findings import Finding, Severity, Spot, did_you_mean
from .stages import serves_callers
from .url_checks import replica_problems, url_problems

LOADS_ADAPTERS = frozenset({"embedded", "vllm", "echo"})
EVERY_CLUSTER = "*"

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


class Subject(Struct):
    """The file under check, where its parts stand, and what has been found so far."""

    file: RegistryFile
    spots: Mapping[str, Spot]
    folder: Path
    """Where registry.yaml lies; adapters are relative to it."""
    environ: Mapping[str, str]
    findings: list[Finding]

    def add(self, path: str, message: str, hint: str = "", severity: Severity = "error") -> None:
        """Note a finding at the nearest part of the path that stands in the file."""
        at = path
        while at not in self.spots and at != "$":
            at = at[: max(at.rfind("."), at.rfind("["))] or "$"
        spot = self.spots.get(at, Spot(1, 1))
        self.findings.append(Finding(spot.line, spot.column, path, message, hint, severity))

    def warn(self, path: str, message: str, hint: str = "") -> None:
        """Note something that works but is probably not meant."""
        self.add(path, message, hint, "warning")


def check_registry(
    file: RegistryFile, spots: Mapping[str, Spot], folder: Path, environ: Mapping[str, str]
) -> list[Finding]:
    """Return every error and warning, in the file's order."""
    subject = Subject(file, spots, folder, environ, [])
    for rule in _RULES:
        rule(subject)
    return sorted(subject.findings, key=lambda finding: (finding.line, finding.column))


def _backends(subject: Subject) -> None:
    _unique(subject, "backends", [entry.name for entry in subject.file.backends], "name")
    for index, backend in enumerate(subject.file.backends):
        path = f"$.backends[{index}]"
        _address(subject, backend, path)
        if backend.kind == "embedded" and not backend.model:
            subject.add(f"{path}.model", "an embedded backend needs model", "e.g. model: smollm2-135m-instruct")
        if backend.kind != "embedded" and backend.model:
            subject.warn(f"{path}.model", f"has no effect on kind {backend.kind}", "name models under `models`")
        _key_name(subject, backend.api_key_env, f"{path}.api_key_env")


def _key_name(subject: Subject, name: str | None, path: str) -> None:
    if name is None:
        return
    if not _VARIABLE.match(name):  # perhaps the key itself, so it is not repeated
        subject.add(
            path, "is not a variable's name", "a key never stands in this file: export it, and name the variable"
        )
    elif not subject.environ.get(name):
        subject.warn(path, f"environment variable {name} is not set", "set it")


def _address(subject: Subject, backend: BackendEntry, path: str) -> None:
    if backend.kind in ("embedded", "echo"):
        for key in ("url", "urls"):
            if getattr(backend, key) not in (None, ()):
                said = f"kind {backend.kind} takes no {key}"
                subject.add(f"{path}.{key}", said, "remove it, or use kind vllm or openai")
    elif backend.url and backend.urls:
        mend = "write one of them: url for one server, urls for replicas"
        subject.add(f"{path}.urls", "there is a url as well", mend)
    elif backend.urls:
        _replicas(subject, backend, path)
    elif not backend.url:
        subject.add(f"{path}.url", f"kind {backend.kind} needs a url", "e.g. url: http://127.0.0.1:8000/v1")
    else:
        for severity, message, hint in url_problems(backend.url, backend.kind):
            subject.add(f"{path}.url", message, hint, severity)


def _replicas(subject: Subject, backend: BackendEntry, path: str) -> None:
    replicas = backend.replicas
    for index, replica in enumerate(replicas):
        for severity, message, hint in url_problems(replica.url, backend.kind):
            subject.add(f"{path}.urls[{index}]", message, hint, severity)
    for index, message, hint in replica_problems([replica.url for replica in replicas]):
        subject.add(f"{path}.urls[{index}]", message, hint)
    if all(replica.drain for replica in replicas):
        subject.warn(f"{path}.urls", "every replica is draining, so nobody answers", "leave one without drain")


def _models(subject: Subject) -> None:
    _unique(subject, "models", [entry.model_name for entry in subject.file.models], "model_name")
    backends = [entry.name for entry in subject.file.backends]
    for index, model in enumerate(subject.file.models):
        path = f"$.models[{index}]"
        if model.model_name == AUTO:
            subject.add(f"{path}.model_name", "auto is the router's own name", "choose another")
        if model.backend not in backends:
            subject.add(f"{path}.backend", f"no backend {model.backend}", did_you_mean(model.backend, backends))
        _scores(subject, path, model.eval_scores, model.supported_clusters)


def _specialists(subject: Subject) -> None:
    _unique(subject, "specialists", [entry.id for entry in subject.file.specialists], "digest")
    models = {entry.model_name: entry for entry in subject.file.models}
    backends = {entry.name: entry for entry in subject.file.backends}
    for index, specialist in enumerate(subject.file.specialists):
        path = f"$.specialists[{index}]"
        if specialist.name in models or specialist.name == AUTO:
            subject.add(f"{path}.name", f"{specialist.name} is a model's name already", "choose another")
        base = models.get(specialist.base)
        backend = backends.get(base.backend) if base else None
        if base is None:
            subject.add(f"{path}.base", f"no model {specialist.base}", did_you_mean(specialist.base, list(models)))
        elif backend is not None and backend.kind not in LOADS_ADAPTERS:
            mend = "serve the base from an embedded or vllm backend"
            subject.add(f"{path}.base", f"backend {backend.name} ({backend.kind}) cannot load adapters", mend)
        if not specialist.clusters:
            subject.add(f"{path}.clusters", "a specialist needs at least one cluster", "e.g. clusters: [banking]")
        _scores(subject, path, specialist.eval_scores, specialist.clusters)
        _adapter(subject, specialist, path)


def _adapter(subject: Subject, specialist: SpecialistEntry, path: str) -> None:
    for always, message, hint in adapter_problems(subject.folder / specialist.adapter):
        severity: Severity = "error" if always or serves_callers(specialist.stage) else "warning"
        subject.add(f"{path}.adapter", message, hint, severity)


def _serving(subject: Subject) -> None:
    """A short name has one active version, and one canary beside it; and a backend has room for all its adapters."""
    serving: dict[tuple[str, str], str] = {}
    for index, specialist in enumerate(subject.file.specialists):
        if not serves_callers(specialist.stage):
            continue
        other = serving.setdefault((specialist.name, specialist.stage), specialist.id)
        if other != specialist.id:
            said = f"{other} is {specialist.stage} under the name {specialist.name} too"
            subject.add(f"$.specialists[{index}].stage", said, "move one of them to shadow or deprecated")
    backend_of = {entry.model_name: entry.backend for entry in subject.file.models}
    live = [s for s in subject.file.specialists if s.stage in ("shadow", "canary", "active") or s.standby]
    loads = Counter(backend_of.get(specialist.base, "") for specialist in live)
    for index, backend in enumerate(subject.file.backends):
        if loads[backend.name] > backend.max_loras and backend.max_cpu_loras is None:
            message = f"{loads[backend.name]} adapters are live here, more than max_loras {backend.max_loras}"
            subject.warn(f"$.backends[{index}].max_loras", message, "raise it, and the server's own limit")


def _defaults(subject: Subject) -> None:
    defaults = subject.file.defaults
    models = {entry.model_name: entry for entry in subject.file.models}
    frontier = models.get(defaults.frontier)
    if frontier is None:
        subject.add(
            "$.defaults.frontier", f"no model {defaults.frontier}", did_you_mean(defaults.frontier, list(models))
        )
        return
    if EVERY_CLUSTER not in frontier.supported_clusters:
        subject.warn(
            "$.defaults.frontier", f"{defaults.frontier} does not answer every cluster", 'add "*" to its clusters'
        )
    if frontier.prices.output_usd_per_mtok == 0:
        subject.warn(
            "$.defaults.frontier", f"{defaults.frontier} has no price, so nothing is ever saved", "give its prices"
        )


def _aliases(subject: Subject) -> None:
    models = [entry.model_name for entry in subject.file.models]
    specialists = subject.file.specialists
    serving = [entry.name for entry in specialists if serves_callers(entry.stage)]
    targets = [AUTO, *models, *(entry.id for entry in specialists), *serving]
    taken = {AUTO, *models, *(entry.id for entry in specialists), *(entry.name for entry in specialists)}
    aliases = subject.file.defaults.aliases
    for alias, target in aliases.items():
        path = next((p for p in subject.spots if p in _alias_paths(alias)), "$.defaults.aliases")
        if alias in taken:
            subject.add(path, f"alias {alias} hides what has that name", "remove it or choose another")
        if target in aliases:
            subject.add(path, f"{target} is an alias itself", f"write {alias}: {aliases[target]}")
        elif target not in targets:
            subject.add(path, f"nothing is called {target}", did_you_mean(target, targets))


def _alias_paths(alias: str) -> tuple[str, str]:
    return f"$.defaults.aliases.{alias}", f'$.defaults.aliases["{alias}"]'


def _scores(subject: Subject, path: str, scores: Mapping[str, float], clusters: Iterable[str]) -> None:
    known = list(clusters)
    if EVERY_CLUSTER in known:
        return
    for cluster in scores:
        if cluster not in (*known, EVERY_CLUSTER):
            subject.add(f"{path}.eval_scores", f"cluster {cluster} is not among its own", did_you_mean(cluster, known))


def _unique(subject: Subject, section: str, names: list[str], key: str) -> None:
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        if first.setdefault(name, index) != index:
            message = f"{name} is there already, as {section}[{first[name]}]"
            subject.add(f"$.{section}[{index}].{key}", message, "each name once")


_RULES: tuple[Callable[[Subject], None], ...] = (_backends, _models, _specialists, _serving, _defaults, _aliases)
