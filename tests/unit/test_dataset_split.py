import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.dataset_split import (
    PARTS,
    SplitShares,
    held_back_share,
    judged_part_of,
    normal_form,
    part_of,
    settled_part,
    unjudged_part_of,
)
from registry.errors import BadInputError

SHARES = SplitShares()


@given(st.text(max_size=60))
def test_a_text_and_its_variants_in_case_spaces_and_punctuation_stay_together(text):
    # Some letters change length or kind when their case changes; those are no plain variants.
    variants = [f"  {text}\n", f"{text}!"]
    if text.isascii():
        variants += [text.upper(), text.replace(" ", "  ")]
    if any(char.isalnum() for char in text):
        assert all(part_of("t", variant, SHARES) == part_of("t", text, SHARES) for variant in variants)


def test_texts_that_ask_for_something_else_are_not_the_same():
    assert normal_form("Pay $120.50!") == normal_form("pay 120 50")
    assert normal_form("status of order 1234") != normal_form("status of order 1235")
    assert normal_form("???") != normal_form("!!!")


def test_the_parts_have_the_shares_that_were_asked_for():
    found = [part_of("t", f"text {'x' * (i % 97)} {chr(97 + i % 26)} {bin(i)} {_word(i)}", SHARES) for i in range(4000)]
    shares = {part: found.count(part) / len(found) for part in PARTS}
    assert shares["test"] == pytest.approx(0.15, abs=0.03)
    assert shares["dev"] == pytest.approx(0.1, abs=0.03)
    assert shares["shadow"] == pytest.approx(0.2, abs=0.03)


def _word(number):
    return "".join(chr(97 + int(digit)) for digit in str(number))


def test_templates_have_splits_of_their_own():
    texts = [_word(i) for i in range(500)]
    assert [part_of("a", t, SHARES) for t in texts] != [part_of("b", t, SHARES) for t in texts]


def test_the_place_of_a_text_is_the_same_on_every_machine_and_in_every_release():
    assert [part_of("{input}\n", text, SHARES) for text in ("what is my balance", "freeze it", "pay my bill")] == PLACES


PLACES = ["train", "test", "train"]


def test_from_150_judged_examples_on_these_are_held_back_but_never_more_than_half_of_all():
    assert [held_back_share(judged, 1000) for judged in (0, 149, 150, 500, 1000)] == [0, 0, 1, 1, 0.5]
    texts = [_word(i) for i in range(4000)]
    for held_back, train, test, shadow in ((1.0, 0.0, 0.4, 0.6), (0.5, 0.45, 0.2, 0.3)):
        found = [judged_part_of("t", text, SHARES, held_back) for text in texts]
        shares = {part: found.count(part) / len(found) for part in PARTS}
        assert shares == pytest.approx(
            {"train": train, "dev": 1 - train - test - shadow, "test": test, "shadow": shadow}, abs=0.03
        )
    others = [unjudged_part_of("t", text, SHARES) for text in texts]
    assert set(others) == {"train", "dev"} and others.count("dev") / len(others) == pytest.approx(0.1, abs=0.03)


def test_without_a_shadow_share_nothing_is_held_back_for_the_shadow():
    none = SplitShares(shadow=0.0)
    texts = [_word(i) for i in range(1000)]
    assert "shadow" not in {part_of("t", text, none) for text in texts}
    assert {judged_part_of("t", text, none, 1.0) for text in texts} == {"test"}


def test_a_call_that_was_tested_on_never_comes_to_be_trained_on():
    assert settled_part("train", {"a": "test"}, ("a", "b")) == "test"
    assert settled_part("test", {"a": "train"}, ("a",)) == "train"
    assert settled_part("train", {"a": "train", "b": "dev"}, ("a", "b")) == "dev"
    assert settled_part("dev", {"z": "train"}, ("a",)) == "dev"
    assert settled_part("train", {"a": "test", "b": "shadow"}, ("a", "b")) == "shadow"


@pytest.mark.parametrize(
    "shares", [SplitShares(0.0, 0.2), SplitShares(0.2, 0.0), SplitShares(0.2, 0.3), SplitShares(shadow=-0.1)]
)
def test_shares_that_leave_a_part_without_examples_are_refused(shares):
    with pytest.raises(BadInputError, match="shares of dev"):
        shares.check()
