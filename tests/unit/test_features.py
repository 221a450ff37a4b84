import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.features import FeatureInput, estimate_tokens, features_of, sampling_key_of, signature_of

TOOLS = [{"type": "function", "function": {"name": "rate", "parameters": {"type": "object"}}}]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}


def test_equal_calls_have_equal_signatures_whatever_the_order_of_keys():
    turned = [{"function": {"parameters": {"type": "object"}, "name": "rate"}, "type": "function"}]
    assert signature_of("s", TOOLS, SCHEMA) == signature_of("s", turned, dict(reversed(SCHEMA.items())))


def test_what_means_the_same_is_the_same():
    assert signature_of("s", [], {"type": "text"}) == signature_of("s", None, None)
    assert signature_of("s", None, None, sampling_key_of(temperature=0)) == signature_of(
        "s", None, None, sampling_key_of(temperature=0.0)
    )
    assert signature_of("s", None, None, None) == signature_of("s", None, None, sampling_key_of())


def test_every_fixed_part_changes_the_signature():
    two_tools = [*TOOLS, {"type": "function", "function": {"name": "other"}}]
    signatures = {
        signature_of("s", None, None),
        signature_of("t", None, None),
        signature_of("s", TOOLS, None),
        signature_of("s", two_tools, None),
        signature_of("s", two_tools[::-1], None),
        signature_of("s", None, SCHEMA),
        signature_of("s", None, {"type": "json_object"}),
        signature_of("s", None, None, sampling_key_of(temperature=0)),
        signature_of("s", None, None, sampling_key_of(top_p=0.5)),
        signature_of("s", None, None, sampling_key_of(stop=["\n"])),
    }
    assert len(signatures) == 10


@given(st.text(), st.text())
def test_system_prompts_never_collide(one, other):
    assert (signature_of(one, None, None) == signature_of(other, None, None)) == (one == other)


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("", 0, 0),
        ("a", 1, 1),
        ("The quick brown fox jumps over the lazy dog.", 9, 13),
        ("日本語のテキスト", 8, 9),
        ("Grüße aus München", 4, 7),
        ("\ud800", 1, 2),
    ],
)
def test_token_estimates_are_near(text, least, most):
    assert least <= estimate_tokens(text) <= most


def test_features_count_what_is_sent_and_what_varies():
    features = features_of(
        FeatureInput(
            signature="s", system="x" * 400, variable="y" * 80, last_user="z" * 40, tools=TOOLS, max_tokens=30, turns=3
        )
    )
    assert features.variable_tokens == 10
    assert 120 + 16 < features.prompt_tokens < 120 + 60
    assert features.needs_tools and not features.needs_json
    assert features.turns == 3
    assert features.max_tokens == 30
    assert features.expected_output_tokens == 30, "never more than the call allows"


def test_the_default_limit_holds_where_the_call_sets_none_and_known_lengths_win():
    features = features_of(
        FeatureInput("s", "", "hi", response_format=SCHEMA, default_max_tokens=99, expected_output_tokens=7)
    )
    assert (features.max_tokens, features.expected_output_tokens, features.needs_json) == (99, 7, True)
