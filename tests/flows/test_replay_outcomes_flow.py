"""`journeyman replay --outcomes` as a user runs it: a real process, real files, the product's own router."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from observations.state import StatePaths
from pipelines.outcomes import Outcomes
from pipelines.replay_streams import Topic, World, draw

LAW = Topic("clause tenant landlord notice breach lease liability deposit", {"small": 0.95, "large": 0.9})
SUMS = Topic("integer sum product divide fraction percent equation solve", {"small": 0.15, "large": 0.9})
TWO_KINDS = World((LAW, SUMS), {"small": 1e-5, "large": 1e-3})
BUDGET = 5e-4

DATA = os.environ.get("JOURNEYMAN_DATA")


def journeyman(*arguments: object, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "router_service.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)


def written(path: Path, outcomes: Outcomes) -> Path:
    lines = []
    for row, prompt in enumerate(outcomes.prompts):
        arms = {
            arm: {"reward": outcomes.rewards[row, k], "cost_usd": outcomes.costs_usd[row, k]}
            for k, arm in enumerate(outcomes.arms)
        }
        lines.append(json.dumps({"prompt": prompt, "source": "drawn", "arms": arms}))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("outcomes")
    both = (("judged", 300, 1), ("earlier", 200, 2))
    judged, earlier = (written(folder / f"{name}.jsonl", draw(TWO_KINDS, rows, seed)[0]) for name, rows, seed in both)
    return judged, earlier


@pytest.fixture(scope="module")
def printed(files: tuple[Path, Path]) -> dict[str, Any]:
    judged, earlier = files
    done = journeyman(
        "replay", "--outcomes", judged, "--warmup", earlier, "--budgets", "0.0005,0.000001", "--seeds", 2, "--json"
    )
    assert done.returncode == 0, done.stderr
    assert "4 of 4 passes" in done.stderr
    assert "a budget of $1e-06 a prompt" in done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_the_report_has_the_promised_shape(printed: dict[str, Any]) -> None:
    assert [set(point) for point in printed["curve"]] == [
        {"budget_usd", "mean_reward", "mean_cost_usd", "reward_stderr"}
    ] * 2
    assert [point["budget_usd"] for point in printed["curve"]] == [1e-6, 5e-4]
    base = printed["baselines"]
    assert {"best_single", "static_mix", "oracle", "shuffled"} <= set(base)
    assert base["best_single"]["model"] == "large"
    for name in ("static_mix", "oracle", "shuffled", "random"):
        assert len(base[name]) == 2
    assert 0 < printed["decision_ms"]["p50"] <= printed["decision_ms"]["p99"]
    assert (printed["rows"], printed["warmup_rows"], printed["seeds"]) == (300, 200, 2)


def test_the_router_learns_what_blind_policies_cannot(printed: dict[str, Any]) -> None:
    verdicts = {one["baseline"]: one for one in printed["details"][1]["comparisons"]}
    for name in ("static_mix", "shuffled", "random", "best_single"):
        assert verdicts[name]["difference"] > 2 * verdicts[name]["stderr"], name
    assert printed["curve"][1]["mean_reward"] < printed["baselines"]["oracle"][1]["mean_reward"]


def test_the_router_keeps_the_budget_and_where_it_cannot_takes_the_cheapest(printed: dict[str, Any]) -> None:
    assert printed["curve"][1]["mean_cost_usd"] <= BUDGET * 1.05
    assert printed["details"][0]["shares"]["small"] > 0.9
    assert not printed["baselines"]["static_mix"][0]["meets_budget"]


def test_the_logged_chances_are_those_of_the_picks(printed: dict[str, Any]) -> None:
    check = printed["propensities"]
    assert check["worst_sum_error"] < 1e-6
    assert check["picks_without_chance"] == 0
    assert check["largest_z"] < 4.5


def test_the_same_command_prints_the_same_figures(files: tuple[Path, Path]) -> None:
    command = ("replay", "--outcomes", files[1], "--budgets", BUDGET, "--seeds", 1, "--json")
    one, again = (json.loads(journeyman(*command).stdout) for _ in range(2))
    assert one["curve"] == again["curve"]


def test_the_table_reads_as_sentences(files: tuple[Path, Path]) -> None:
    done = journeyman("replay", "--outcomes", files[1], "--budgets", "0.0005", "--seeds", 1)
    assert done.returncode == 0, done.stderr
    for words in (
        "At $0.0005 a prompt the router earns",
        "the best static mix",
        "A decision took",
        "Share of the prompt",
    ):
        assert words in done.stdout


def test_two_models_marked_right_or_wrong_give_the_gap(tmp_path: Path) -> None:
    outcomes, _ = draw(TWO_KINDS, 300, seed=3)
    path = tmp_path / "marked.jsonl"
    rows = zip(outcomes.prompts, outcomes.rewards, strict=True)
    path.write_text(
        "\n".join(
            json.dumps({"prompt": prompt, "subject": "x", "correct": {"weak": bool(one[0]), "strong": bool(one[1])}})
            for prompt, one in rows
        )
    )
    bare = journeyman("replay", "--outcomes", path, "--json")
    assert bare.returncode == 2
    assert "--costs weak=USD,strong=USD" in bare.stderr
    done = journeyman("replay", "--outcomes", path, "--costs", "weak=0.001,strong=0.1", "--seeds", 1, "--json")
    assert done.returncode == 0, done.stderr
    gap = json.loads(done.stdout)["gap"]
    assert (gap["weak"], gap["strong"], len(gap["points"])) == ("weak", "strong", 7)
    assert gap["apgr"] > gap["random"]["apgr"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "--outcomes"),
        (("--outcomes", "gone.jsonl"), "gone.jsonl: No such file"),
        (("--outcomes", "{good}", "--budgets", "0.1,cheap"), "--budgets: 'cheap'"),
        (("--outcomes", "{good}", "--budgets", "0"), "above 0"),
        (("--outcomes", "{good}", "--budgets", "nan"), "--budgets: 'nan'"),
        (("--outcomes", "{good}", "--budgets", "1e300"), "at most 1,000,000"),
        (("--outcomes", "{good}", "--policy", "planner.yaml"), "--policy planner.yaml (recorded calls)"),
        (("--outcomes", "{good}", "--cluster", "x"), "--cluster does not go with --outcomes"),
        (("--policy", "gone.yaml"), "gone.yaml: No such file"),
        (("--policy", "gone.yaml", "--seeds", "3"), "--seeds does not go with --policy"),
        (("--outcomes", "{good}", "--costs", "small"), "MODEL=USD"),
        (("--outcomes", "{good}", "--costs", "small=1"), "leave --costs out"),
        (("--outcomes", "{good}", "--seeds", "0"), "--seeds"),
        (("--outcomes", "{good}", "--half-life", "0"), "--half-life"),
        (("--outcomes", "{bad}"), "bad.jsonl:2: "),
        (("--outcomes", "{good}", "--warmup", "{other}"), "unknown 'tiny'"),
    ],
)
def test_bad_input_is_named_and_exits_2(
    tmp_path: Path, files: tuple[Path, Path], options: tuple[str, ...], said: str
) -> None:
    good = files[1].read_text()
    (tmp_path / "bad.jsonl").write_text(good.splitlines()[0] + "\n{\n")
    (tmp_path / "other.jsonl").write_text(good.replace('"small"', '"tiny"'))
    paths = {"good": files[1], "bad": tmp_path / "bad.jsonl", "other": tmp_path / "other.jsonl"}
    done = journeyman("replay", *(option.format(**paths) for option in options), "--json")
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_policy_is_judged_on_the_record_of_a_state_directory(tmp_path: Path) -> None:
    (tmp_path / "planner.yaml").write_text("learning: {exploration_share: 0.1}\n")
    state = StatePaths(tmp_path / "state").create()
    done = journeyman("replay", "--policy", tmp_path, "--state", state.root, "--json")
    assert done.returncode == 0, done.stderr
    assert "nothing to judge by" in json.loads(done.stdout)["verdict"]
    (tmp_path / "planner.yaml").write_text("learning: {exploration: 0.1}\n")
    wrong = journeyman("replay", "--policy", tmp_path, "--state", state.root)
    assert wrong.returncode == 2
    assert "exploration_share" in wrong.stderr


@pytest.mark.data
@pytest.mark.skipif(not DATA, reason="JOURNEYMAN_DATA names no folder of workloads")
def test_three_public_models_are_replayed() -> None:
    path = Path(DATA or "") / "outcomes_three_models_val.jsonl"
    done = journeyman("replay", "--outcomes", path, "--budgets", "0.00066", "--seeds", 1, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["rows"] == 1785
    assert report["baselines"]["static_mix"][0]["mean_reward"] == pytest.approx(0.9249, abs=0.0005)
    assert 0.6 < report["curve"][0]["mean_reward"] < report["baselines"]["oracle"][0]["mean_reward"]
