"""Operators' settings: the shipped file is the default, and a wrong one says everything that is wrong with it."""

from pathlib import Path

import pytest
import yaml

from policies.redaction import ExtraPattern, RedactionPolicy, policy_from_mapping
from registry.errors import ConfigError

SHIPPED = Path(__file__).resolve().parents[2] / "policies" / "redaction.yaml"


def test_the_shipped_file_is_the_default_and_names_every_kind():
    mapping = yaml.safe_load(SHIPPED.read_text())
    policy = policy_from_mapping(mapping)
    assert policy == RedactionPolicy()
    assert set(mapping["kinds"]) == policy.kinds


def test_settings_are_taken_over():
    policy = policy_from_mapping(
        {
            "kinds": {"URL": False},
            "extra": [{"kind": "EMPLOYEE_ID", "pattern": "E[0-9]{6}"}],
            "phone_regions": ["de"],
            "max_chars": 9,
        }
    )
    assert "URL" not in policy.kinds
    assert "EMAIL" in policy.kinds
    assert policy.extra == (ExtraPattern("EMPLOYEE_ID", "E[0-9]{6}"),)
    assert policy.phone_regions == ("DE",)
    assert policy.max_chars == 9


def test_every_mistake_is_named_with_its_place_and_the_nearest_name():
    with pytest.raises(ConfigError) as caught:
        policy_from_mapping(
            {
                "kind": {},
                "kinds": {"EMIAL": True, "URL": "yes"},
                "extra": [
                    {"kind": "lower", "pattern": "(a"},
                    {"kind": "ANY", "pattern": "x*"},
                    7,
                    {"kind": "K1", "pattern": "x", "flag": 1},
                ],
                "allow_hosts": "example.com",
                "phone_regions": ["Germany"],
                "max_depth": 0,
                "max_nodes": True,
            }
        )
    lines = str(caught.value).splitlines()
    for start in (
        "$.kind: unknown name; did you mean kinds?",
        "$.kinds.EMIAL: unknown name; did you mean EMAIL?",
        "$.kinds.URL: must be true or false",
        "$.extra[0].kind:",
        "$.extra[0].pattern: not an RE2 pattern",
        "$.extra[1].pattern: matches the empty text",
        "$.extra[2]:",
        "$.extra[3].flag:",
        "$.allow_hosts:",
        "$.phone_regions[0]:",
        "$.max_depth:",
        "$.max_nodes:",
    ):
        assert any(line.startswith(start) for line in lines), start
    with pytest.raises(ConfigError, match="mapping"):
        policy_from_mapping([])  # type: ignore[arg-type]
