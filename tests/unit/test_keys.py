"""Who a presented key belongs to, and what a tampered or broken key file does: never open the door."""

import json
import multiprocessing
import os
import stat

import pytest

from registry.errors import AuthenticationError, ConfigError, NotFoundError
from router_service import key_file
from router_service.keys import CHECK_EVERY_S, KeyRing


class Clock:
    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s

    def pass_check(self):
        self.now_s += CHECK_EVERY_S


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "keys.json"


@pytest.fixture
def clock():
    return Clock()


def load(path, clock=None, *, loopback=True):
    return KeyRing.load(path, loopback=loopback, **({"clock": clock} if clock else {}))


def refused(ring, presented):
    with pytest.raises(AuthenticationError) as caught:
        ring.authenticate(presented)
    return caught.value.message


def edit(path, **changes):
    content = json.loads(path.read_text())
    content["keys"][0].update(changes)
    path.write_text(json.dumps(content))


def test_a_key_stands_for_its_tenant_and_role(path):
    made = key_file.add(path, "acme", "operator")
    identity = load(path).authenticate(made.secret)
    assert (identity.tenant, identity.key_id, identity.role) == ("acme", made.entry.id, "operator")


def test_a_key_has_256_random_bits_and_is_not_in_the_file(path):
    first, second = key_file.add(path, "acme", "caller"), key_file.add(path, "acme", "caller")
    assert first.secret.startswith("jmk_") and len(first.secret) >= len("jmk_") + 43
    assert first.secret != second.secret and first.entry.id != second.entry.id
    assert first.secret.removeprefix("jmk_") not in path.read_text()


def test_the_file_is_the_owners_alone_and_nothing_is_left_beside_it(path):
    key_file.add(path, "acme", "caller")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert sorted(item.name for item in path.parent.iterdir()) == ["keys.json", "keys.lock"]


@pytest.mark.parametrize("presented", [None, "", "jmk_", "jmk_unknown", "Bearer x", "é\udcff", "x" * 100_000])
def test_unknown_missing_and_revoked_keys_get_the_same_answer(path, presented):
    made = key_file.add(path, "acme", "caller")
    key_file.revoke(path, made.entry.id)
    ring = load(path)
    assert refused(ring, presented) == refused(ring, made.secret)


def test_the_stored_digest_is_no_key(path):
    made = key_file.add(path, "acme", "caller")
    refused(load(path), made.entry.sha256)


def test_a_loopback_listener_without_keys_takes_its_caller_for_its_operator(path):
    assert load(path).authenticate(None).role == "operator"


def test_a_listener_that_others_can_reach_never_answers_without_a_key(path):
    refused(load(path, loopback=False), None)


def test_revoking_the_last_key_does_not_open_the_door(path):
    key_file.revoke(path, key_file.add(path, "acme", "caller").entry.id)
    ring = load(path)
    refused(ring, None)
    assert not ring.has_keys()


def test_a_new_key_works_and_a_revoked_one_stops_within_a_second(path, clock):
    first = key_file.add(path, "acme", "caller")
    ring = load(path, clock)
    second = key_file.add(path, "beta", "caller")
    refused(ring, second.secret)
    clock.pass_check()
    assert ring.authenticate(second.secret).tenant == "beta"
    key_file.revoke(path, first.entry.id)
    clock.pass_check()
    refused(ring, first.secret)


def test_the_first_key_shuts_the_door_that_was_open(path, clock):
    ring = load(path, clock)
    ring.authenticate(None)
    key_file.add(path, "acme", "caller")
    clock.pass_check()
    refused(ring, None)


@pytest.mark.parametrize("damage", ["delete", "empty", "cut", "no keys left"])
def test_a_file_that_turns_bad_while_serving_never_opens_the_door(path, clock, damage):
    made = key_file.add(path, "acme", "caller")
    ring = load(path, clock)
    text = path.read_text()
    if damage == "delete":
        path.unlink()
    else:
        path.write_text({"empty": "", "cut": text[:-20], "no keys left": '{"version": 1, "keys": []}'}[damage])
    clock.pass_check()
    refused(ring, None)
    if damage == "no keys left":
        refused(ring, made.secret)
    else:
        assert ring.authenticate(made.secret).tenant == "acme"
        assert str(path) in ring.reload_error
    path.write_text(text)
    clock.pass_check()
    assert ring.authenticate(made.secret).tenant == "acme"
    assert ring.reload_error is None


def test_a_changed_digest_takes_the_key_out_of_force(path, clock):
    made = key_file.add(path, "acme", "caller")
    ring = load(path, clock)
    edit(path, sha256=key_file.digest("another"))
    clock.pass_check()
    refused(ring, made.secret)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "truncated"),
        ("[]", "array"),
        ('{"keys": [{"id": "a"}]}', "$.keys[0]"),
        ('{"keys": [{"id": "a", "sha256": "ABC"}]}', "$.keys[0].sha256"),
        ('{"keys": [{"id": "../a", "sha256": "%s"}]}' % ("0" * 64), "$.keys[0].id"),
        ('{"keys": [{"id": "a", "sha256": "%s", "role": "root"}]}' % ("0" * 64), "$.keys[0].role"),
        ('{"keys": [{"id": "a", "sha256": "%s", "tenat": "x"}]}' % ("0" * 64), "tenat"),
        ('{"keys": [{"id": "a", "sha256": "%s", "tenant": "a\\nb"}]}' % ("0" * 64), "$.keys[0].tenant"),
        ('{"version": 2, "keys": []}', "$.version"),
    ],
)
def test_a_bad_file_is_named_with_the_place_in_it_and_the_mend(path, content, named):
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(path) in caught.value.message and named in caught.value.message
    assert "journeyman keys add" in caught.value.message


@pytest.mark.parametrize("twice", ["id", "sha256"])
def test_two_entries_may_not_share_an_id_or_a_digest(path, twice):
    first, second = key_file.add(path, "acme", "caller").entry, key_file.add(path, "beta", "operator").entry
    edit(path, **{twice: getattr(second, twice)})
    assert getattr(first, twice) not in path.read_text()
    with pytest.raises(ConfigError, match="is there twice"):
        load(path)


def test_a_file_that_others_may_write_to_is_refused(path):
    key_file.add(path, "acme", "caller")
    path.chmod(0o620)
    with pytest.raises(ConfigError, match="chmod 600"):
        load(path)


def test_a_bad_file_is_not_overwritten_by_a_change(path):
    made = key_file.add(path, "acme", "caller")
    path.write_text(path.read_text()[:-20])
    before = path.read_bytes()
    with pytest.raises(ConfigError):
        key_file.add(path, "beta", "caller")
    with pytest.raises(ConfigError):
        key_file.revoke(path, made.entry.id)
    assert path.read_bytes() == before


def test_a_key_that_is_not_there_cannot_be_revoked(path):
    key_file.add(path, "acme", "caller")
    with pytest.raises(NotFoundError, match="journeyman keys ls"):
        key_file.revoke(path, "key_00000000")


@pytest.mark.parametrize("tenant", ["", " ", "a b", "a/b", "../x", "a\n", "x" * 129])
def test_a_bad_tenant_name_makes_no_key(path, tenant):
    with pytest.raises(ConfigError, match="tenant name"):
        key_file.add(path, tenant, "caller")
    assert not path.exists()


def _add_some(path, count):
    for _ in range(count):
        key_file.add(path, f"tenant-{os.getpid()}", "caller")


def test_writers_at_the_same_time_lose_no_key(path):
    spawn = multiprocessing.get_context("fork")
    writers = [spawn.Process(target=_add_some, args=(path, 10)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(key_file.read(path).keys) == 40
