"""From recorded calls to a classifier in force: redacted records in, an artifact out, answers to what people send."""

import json

import pytest
from click.testing import CliRunner

from observations.records import CallRecord, SignatureRecord
from pipelines.classifier_command import classifier
from pipelines.workload import Workload
from policies.redaction import Redactor
from registry.errors import BadInputError, NotFoundError
from specialists.classifier import LearnedClassifier, digest_at
from tests.flows.recorded_state import recorded

FAMILIES = ("order_forms", "desk_triage", "office_actions", "comment_checks")
"""Texts with names, e-mail addresses and numbers in them."""


def records(workload, source="signature", hint_agrees=None, **said):
    redactor = Redactor()
    for family in FAMILIES:
        app = workload.app(family)
        yield SignatureRecord(
            id=f"default:{family}",
            at_ms=1,
            signature=family,
            system=app.system,
            tool_names=tuple(tool["function"]["name"] for tool in app.tools),
            response_format=app.response_format,
        )
    for number, row in enumerate(workload.rows(FAMILIES, ["train"])):
        yield CallRecord(
            id=f"chatcmpl-{number:026d}",
            at_ms=1_790_000_000_000 + number,
            signature=row.family,
            cluster=row.family,
            cluster_source=source,
            hint_agrees=hint_agrees,
            messages=[{"role": "user", "content": redactor.redact(row.text).text}],
            outcome="verified",
            **{name: value(number) for name, value in said.items()},
        )


def run(*arguments):
    return CliRunner().invoke(classifier, [*map(str, arguments)], catch_exceptions=False)


@pytest.fixture(scope="module")
def workload():
    return Workload.own(11, 90)


@pytest.fixture(scope="module")
def state(workload, tmp_path_factory):
    return recorded(tmp_path_factory.mktemp("state"), records(workload))


def test_recorded_calls_become_a_classifier_that_knows_what_people_send(state, workload, tmp_path):
    done = run("fit", "--state", state.root, "--out", tmp_path / "c", "--dimension", 64, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert set(report["calls"]) == set(FAMILIES)
    assert "fold 5 of 5" in done.stderr
    loaded = LearnedClassifier.load(tmp_path / "c")
    assert report["name"] == loaded.name
    # Sent, not redacted, and worded as no recorded call was.
    rows = list(workload.rows(FAMILIES, ["dev"]))
    right = [loaded.posterior(row.text).nearest == row.family for row in rows]
    assert sum(right) / len(right) > 0.7
    row = rows[0]
    assert loaded.posterior(row.text, workload.app(row.family).system).cluster == row.family
    shown = run("show", tmp_path / "c")
    assert loaded.name in shown.output
    assert run("report", "--state", state.root, "--dimension", 64, "--json").exit_code == 0


def test_a_second_fit_replaces_the_first_at_once(state, tmp_path):
    run("fit", "--state", state.root, "--out", tmp_path, "--dimension", 16, "--json")
    first = digest_at(tmp_path)
    run("fit", "--state", state.root, "--out", tmp_path, "--dimension", 24, "--json")
    assert digest_at(tmp_path) != first
    assert LearnedClassifier.load(tmp_path).embedder.dimension == 24


@pytest.mark.parametrize(
    ("source", "hint_agrees", "learns"),
    [
        ("pattern", None, True),
        ("pattern", False, False),
        ("keyword", None, False),
        ("keyword", True, True),
        ("none", None, False),
    ],
)
def test_only_calls_whose_cluster_is_sure_are_learned_from(workload, tmp_path, source, hint_agrees, learns):
    state = recorded(tmp_path / "s", list(records(workload, source, hint_agrees))[:120])
    if learns:
        assert run("fit", "--state", state.root, "--out", tmp_path / "c", "--dimension", 8).exit_code == 0
    else:
        with pytest.raises(BadInputError, match="the largest has 0"):
            run("fit", "--state", state.root, "--out", tmp_path / "c")
        assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("said", "counted_by", "callers"),
    [
        ({}, "text", 1),
        ({"key_id": lambda n: f"k{n % 2}"}, "text", 1),
        ({"key_id": lambda n: f"k{n % 4}"}, "caller", 4),
        ({"end_user": lambda n: f"hash{n % 50}"}, "caller", 50),
        ({"end_user": lambda n: f"hash{n % 6}", "tenant": lambda n: ("a", "b")[n % 2]}, "caller", 6),
        ({"end_user": lambda n: "" if n % 2 else f"hash{n % 4}", "key_id": lambda n: "k"}, "caller", 3),
    ],
)
def test_callers_are_tenant_and_end_user_or_key(workload, tmp_path, said, counted_by, callers):
    state = recorded(tmp_path / "s", records(workload, **said))
    done = run("report", "--state", state.root, "--dimension", 8, "--json")
    report = json.loads(done.stdout)
    assert (report["counted_by"], report["callers"]) == (counted_by, callers)
    assert report["words_left_out"] > 0


def test_two_tenants_without_end_users_are_too_few_callers(workload, tmp_path):
    state = recorded(tmp_path / "s", records(workload, tenant=lambda n: ("a", "b")[n % 2]))
    with pytest.raises(BadInputError, match="2 callers"):
        run("fit", "--state", state.root, "--out", tmp_path / "c")


def test_bad_input_is_told_before_anything_is_written(state, tmp_path):
    with pytest.raises(NotFoundError, match="no loader has run"):
        run("fit", "--state", tmp_path / "empty", "--out", tmp_path / "c")
    with pytest.raises(BadInputError, match="not both"):
        run("fit", "--state", state.root, "--workload", "own", "--out", tmp_path / "c")
    with pytest.raises(BadInputError, match="give --workload"):
        run("fit", "--state", state.root, "--family", "x", "--out", tmp_path / "c")
    (tmp_path / "file").write_text("")
    refused = run("fit", "--state", state.root, "--out", tmp_path / "file")
    assert refused.exit_code == 2
    assert "is a file" in refused.output
    assert not (tmp_path / "c").exists()


def test_a_workload_can_be_learned_from_too(tmp_path):
    out = run("fit", "--workload", "own:3:60", "--family", "order_forms", "--family", "desk_triage", "--out", tmp_path)
    assert out.exit_code == 0
    assert LearnedClassifier.load(tmp_path).clusters == ("desk_triage", "order_forms")
