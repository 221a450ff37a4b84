"""What pyproject.toml asks for is what requirements.lock installs."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ASKED = [
    *PROJECT["dependencies"],
    *PROJECT["optional-dependencies"]["engine"],
    *PROJECT["optional-dependencies"]["pipelines"],
    *PROJECT["optional-dependencies"]["training"],
    *PROJECT["optional-dependencies"]["dev"],
]


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def locked():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


@pytest.mark.parametrize("requirement", [line for line in ASKED if not line.startswith("torch==")])
def test_a_requirement_is_locked_at_its_version(requirement):
    name, _, version = requirement.partition("==")
    assert normal(name) in locked(), "run `make lock`"
    assert not version or locked()[normal(name)] == version, "run `make lock`"


def test_torch_is_left_to_the_makefile_at_the_version_of_the_project():
    (torch,) = [line for line in ASKED if line.startswith("torch==")]
    assert f"TORCH := {torch}\n" in (ROOT / "Makefile").read_text()
    assert "torch" not in locked()
