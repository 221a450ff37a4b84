"""Surrogates: natural, consistent in a call, different between calls, and nobody's."""

import ipaddress
import re

import pytest

from pipelines.surrogates import PLACEHOLDER, Surrogates, placeholders_in
from policies.redaction import KINDS, Redactor, residual_scan

MANY = [f"chatcmpl-{number:026d}" for number in range(400)]


def made(kind, calls=MANY):
    return [Surrogates(call).fill(f"<{kind}_1>") for call in calls]


def test_one_placeholder_is_one_value_in_input_and_answer():
    call = Surrogates("call-1")
    asked = call.fill("Write to <EMAIL_1>, not to <EMAIL_2>.")
    told = call.fill('{"to": "<EMAIL_1>"}')
    address = told.split('"')[3]
    assert asked.startswith(f"Write to {address}, not to ")
    assert asked.count(address) == 1


def test_the_same_call_always_gets_the_same_and_another_call_another():
    assert Surrogates("a").fill("<ADDRESS_1>") == Surrogates("a").fill("<ADDRESS_1>")
    assert len(set(made("EMAIL"))) > 390


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_one_and_it_breaks_no_json(kind):
    values = made(kind)
    assert not any(PLACEHOLDER.search(value) for value in values)
    assert not any(char in value for value in values for char in '"\\\n<>')
    assert len(set(values)) > 100


@pytest.mark.parametrize("kind", KINDS)
def test_two_data_of_a_call_are_two(kind):
    for call in MANY[:100]:
        one, other = Surrogates(call).fill(f"<{kind}_1>|<{kind}_2>").split("|")
        assert one != other


def test_no_surrogate_could_be_real():
    assert all(re.search(r"@example\.(com|org|net)\Z", value) for value in made("EMAIL"))
    assert all(re.search(r"555[ -]?-?01\d\d\Z", value) for value in made("PHONE"))
    assert all(value.startswith("https://www.example.") for value in made("URL"))
    reserved = [ipaddress.ip_network(net) for net in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")]
    assert all(any(ipaddress.ip_address(value) in net for net in reserved) for value in made("IP_ADDRESS"))
    for kind in ("CREDIT_CARD", "IBAN", "API_KEY", "PRIVATE_KEY"):
        assert not any(residual_scan(value) for value in made(kind)), kind


def test_what_only_looks_like_a_placeholder_stays():
    assert Surrogates("a").fill("a <b> <FOO_1> <EMAIL_x> <email_1>") == "a <b> <FOO_1> <EMAIL_x> <email_1>"


def test_an_operators_own_kind_is_filled_when_the_record_names_it():
    assert re.fullmatch(r"EI-0\d{5}", Surrogates("a", ["EMPLOYEE_ID"]).fill("<EMPLOYEE_ID_1>"))
    assert placeholders_in("<EMPLOYEE_ID_1> <FOO_2> <EMAIL_3>", ["EMPLOYEE_ID"]) == {("EMPLOYEE_ID", 1), ("EMAIL", 3)}


def test_what_the_redactor_writes_is_what_is_filled():
    redacted = Redactor().redact("Mail nora@corp.de and call +49 30 901820, card 4111 1111 1111 1111.").text
    filled = Surrogates("a").fill(redacted)
    assert "<" in redacted
    assert "<" not in filled
    assert filled.startswith("Mail ")
