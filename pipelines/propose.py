"""The step `propose` of a run: the found tasks in, `proposals.json` out.

It knows files, cards and the registry; the decision is `policies.proposals`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from pipelines.cluster_cards import ClusterCard
from pipelines.cluster_step import CLUSTERS, STEP, read_cluster_file
from pipelines.run import Run, Step, sha256_of, write_atomically
from policies.proposals import Proposal, ProposalPolicy, TaskFacts, propose, ranked
from registry.catalog import Catalog
from registry.errors import BadInputError
from registry.identifiers import digest_of
from registry.strict_yaml import load_strict

PROPOSALS: Final = "proposals.json"
_VERSION: Final = 1


class ProposedTask(Struct, frozen=True, kw_only=True):
    """A verdict beside what a person needs to judge it."""

    description: str
    volume: int
    calls_per_day: float
    verdict: Proposal
    saved_usd_per_month: float = 0.0
    regret: float = 0.0


class ProposalFile(Struct, frozen=True, kw_only=True):
    """proposals.json."""

    version: int = 1
    clusters_digest: str
    registry_digest: str
    frontier: str
    tasks: tuple[ProposedTask, ...]

    @property
    def proposed(self) -> tuple[ProposedTask, ...]:
        """Those that deserve a specialist, the one that saves most first."""
        return tuple(task for task in self.tasks if task.verdict.proposed)


def run_propose(run: Run, catalog: Catalog, policy: ProposalPolicy) -> Step:
    """Do the step in an open run, unless it is done. Raises BadInputError when the run has no clusters."""
    clusters = run.folder / STEP / CLUSTERS
    if not clusters.is_file():
        raise BadInputError(f"{clusters} is not there. Run `journeyman flywheel cluster --run {run.run_id}` first.")
    inputs = {
        "clusters": sha256_of(clusters),
        "registry": catalog.digest,
        "policy": digest_of(msgspec.to_builtins(policy)),
    }
    step = run.step("propose", inputs, version=_VERSION)
    if step.done:
        run.progress(f"propose: done already, in {step.folder}")
        return step
    file = read_cluster_file(clusters)
    made = ProposalFile(
        clusters_digest=file.digest,
        registry_digest=catalog.digest,
        frontier=catalog.frontier.model_name,
        tasks=tuple(judged(file.clusters, catalog, policy)),
    )
    path = step.folder / PROPOSALS
    write_atomically(path, msgspec.json.format(msgspec.json.encode(made)))
    run.progress(f"propose: {len(made.proposed)} of {len(made.tasks)} tasks deserve a specialist")
    step.finish([path], {"tasks": len(made.tasks), "proposed": [one.verdict.task for one in made.proposed]})
    return step


def judged(cards: Sequence[ClusterCard], catalog: Catalog, policy: ProposalPolicy) -> list[ProposedTask]:
    """Return a verdict on each task, proposed ones first."""
    by_id = {card.id: card for card in cards}
    verdicts = ranked([propose(facts_of(card), catalog, policy) for card in cards])
    return [_task(by_id[verdict.task], verdict) for verdict in verdicts]


def facts_of(card: ClusterCard) -> TaskFacts:
    """Return what the decision needs of a card."""
    return TaskFacts(
        id=card.id,
        examples=card.volume,
        calls_per_day=card.calls_per_day,
        cost_usd=card.cost_usd,
        frontier_cost_usd=card.frontier_cost_usd,
        mean_prompt_tokens=card.mean_prompt_tokens,
        mean_input_tokens=card.mean_input_tokens,
        mean_completion_tokens=card.mean_completion_tokens,
        p99_tokens=card.p99_input_tokens + card.p99_completion_tokens,
        answers_counted=card.answers_counted,
        distinct_answers=card.distinct_answers,
        is_text=card.kind == "text",
        tools_called=card.tools_called,
    )


def load_proposal_policy(path: Path | None) -> ProposalPolicy:
    """Read proposals.yaml; the built-in policy for None or a file that is not there. Raises ConfigError."""
    if path is None or not path.exists():
        return ProposalPolicy()
    return load_strict(path.read_text(encoding="utf-8"), ProposalPolicy, str(path))


def read_proposals(path: Path) -> ProposalFile:
    """Return what a proposals.json says. Raises BadInputError naming the place and the mend."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=ProposalFile)
    except OSError as error:
        raise BadInputError(f"Cannot read {path}: {error.strerror}. Run `journeyman flywheel propose` first.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path}: not a file of proposals ({error}). Propose again.") from None


def _task(card: ClusterCard, verdict: Proposal) -> ProposedTask:
    saving = verdict.saving
    return ProposedTask(
        description=card.description,
        volume=card.volume,
        calls_per_day=card.calls_per_day,
        verdict=verdict,
        saved_usd_per_month=round(saving.saved_usd, 6) if saving else 0.0,
        regret=round(saving.regret, 4) if saving else 0.0,
    )
