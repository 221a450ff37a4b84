"""The form of a text: which numbers move with what, for any text there is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.text_features import HEAD_CHARS, NAMES, text_features


def feature(name: str, text: str) -> float:
    return float(text_features(text)[NAMES.index(name)])


@pytest.mark.parametrize(
    ("name", "more", "less"),
    [
        ("length", "a long text of many words", "short"),
        ("digits", "12 + 30", "twelve and thirty"),
        ("capitals", "NASA", "nasa"),
        ("marks", "so, well; then!", "so well then"),
        ("options", "Which?\n(A) a cat\n(B) a dog", "Which of a cat and a dog"),
        ("options", "1. first\n2. second", "first second"),
        ("question", "Is it? Say.", "It is. Say."),
        ("lines", "a\nb\nc", "a b c"),
        ("notation", "x = {1}", "x is 1"),
        ("quotes", 'say "hello"', "say hello"),
        ("plain_start", "Write", "[Write]"),
        ("word_length", "internationalisation considered", "a to be or no"),
        ("ends_as_question", "Is it?", "It is."),
        ("ends_as_question", "Is it?  \n", "Is it? Say."),
    ],
)
def test_each_feature_moves_with_what_it_is_named_after(name: str, more: str, less: str) -> None:
    assert feature(name, more) > feature(name, less)


@given(st.text(st.characters(), max_size=300))
@settings(max_examples=200, deadline=None)
def test_any_text_has_a_vector_of_small_numbers(text: str) -> None:
    vector = text_features(text)
    assert vector.shape == (len(NAMES),)
    assert np.abs(vector).max() < 1.0


def test_a_very_long_text_counts_by_its_two_ends_and_its_length() -> None:
    middle = "x" * 1_000_000
    text = "Q" * HEAD_CHARS + middle + " and why?"
    assert feature("ends_as_question", text) > 0
    assert np.abs(text_features(text)).max() < 1.5


def test_letters_of_other_scripts_are_no_question_marks() -> None:
    assert feature("question", "日本語のテキスト") == feature("question", "plain words")
