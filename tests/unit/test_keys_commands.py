"""`journeyman keys`: what an operator types and sees."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from router_service.keys import KeyRing
from router_service.keys_commands import keys


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


def run(state, *arguments):
    result = CliRunner().invoke(keys, [*arguments, "--state", str(state)])
    assert result.exit_code == 0, result.output
    return result


def made(state, *arguments):
    return json.loads(run(state, "add", "--json", *arguments).stdout)


def test_add_prints_the_key_alone_on_stdout_so_that_it_can_be_piped(state):
    result = run(state, "add", "--tenant", "acme")
    secret = result.stdout.strip()
    assert KeyRing.load(state / "keys.json", loopback=False).authenticate(secret).tenant == "acme"
    assert secret not in result.stderr


def test_ls_shows_whose_keys_there_are_but_neither_keys_nor_digests(state):
    first = made(state, "--tenant", "acme", "--role", "operator")
    made(state)
    text = run(state, "ls", "--json").stdout
    assert [(row["tenant"], row["role"], row["revoked"]) for row in json.loads(text)] == [
        ("acme", "operator", False),
        ("default", "caller", False),
    ]
    stored = (state / "keys.json").read_text()
    assert first["key"] not in text + stored
    assert all(entry["sha256"] not in text for entry in json.loads(stored)["keys"])


def test_ls_without_keys_says_how_to_make_one(state):
    assert "journeyman keys add" in run(state, "ls").output
    assert json.loads(run(state, "ls", "--json").output) == []
    assert not state.exists()


def test_a_revoked_key_is_listed_as_revoked_and_may_be_revoked_again(state):
    key = made(state)
    assert json.loads(run(state, "revoke", key["id"], "--json").stdout)["revoked"] is True
    assert "is revoked" in run(state, "revoke", key["id"]).output
    assert "revoked" in run(state, "ls").output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["revoke", "key_00000000"], "journeyman keys ls"),
        (["add", "--tenant", "a b"], "no tenant name"),
        (["add", "--role", "root"], "'root' is not one of"),
    ],
)
def test_bad_input_ends_with_2_and_a_line_that_says_why(state, arguments, said):
    command = [sys.executable, "-m", "router_service.cli", "keys", *arguments, "--state", str(state)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert said in done.stderr and "Traceback" not in done.stderr
