"""Guessing ahead: what is guessed, when it pays, and that answers are those of one token a step."""


import pytest

torch = pytest.importorskip("torch", reason="the engine extra is not installed")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from specialists.engine.guesses import COPIED, START, Guesser, copied  # noqa: E402
from specialists.engine.speculation import least_chance  # noqa: E402

EOS = 2
SKELETON = [10, 11, 12]  # {"intent":"
CLASSES = ([20, 21, 22], [30, 31], [40, 41, 42])  # the first token settles the rest
END = [13, EOS]  # "}


def taught(times=8):
    guesser = Guesser()
    for _ in range(times):
        for name in CLASSES:
            guesser.learn(1, SKELETON + name + END)
    return guesser


def guess(guesser, answer, *, adapter=1, prompt=(5, 6), most=8, least=0.4):
    return guesser.guess(adapter, list(prompt), answer, most, least)


def test_the_skeleton_is_guessed_before_the_first_token_and_the_class_is_left_open():
    assert guess(taught(), []) == SKELETON


def test_the_first_token_of_a_class_brings_its_rest_and_the_end():
    assert guess(taught(), [*SKELETON, 20]) == [21, 22, *END]
    assert guess(taught(), [*SKELETON, 30]) == [31, *END]


def test_an_adapter_never_guesses_from_another_ones_answers_and_forgets_its_own():
    guesser = taught()
    assert guess(guesser, [], adapter=2) == []
    guesser.forget(1)
    assert guess(guesser, []) == []
    assert len(guesser) == 0


def test_words_of_the_prompt_are_copied():
    prompt = [50, 60, 61, 62, 63, 64, 51]
    assert guess(Guesser(), [9, 60, 61], prompt=prompt, most=3) == [62, 63, 64]
    assert guess(Guesser(), [9, 9], prompt=prompt) == []


def test_the_longest_repetition_in_the_prompt_is_the_one_that_goes_on():
    prompt = [7, 1, 7, 8, 2, 6, 7, 8, 3]
    assert copied(prompt, [9, 7, 8]) == (2, COPIED[1])
    assert copied(prompt, [6, 7, 8]) == (3, COPIED[2])
    assert copied(prompt, [3]) == (START, 0.0)  # nothing follows it
    assert copied(prompt, []) == copied([], [1]) == (START, 0.0)


def test_answers_that_change_are_followed():
    guesser = Guesser()
    for _ in range(60):
        guesser.learn(1, [10, 20, EOS])
    for _ in range(40):
        guesser.learn(1, [10, 30, EOS])
    assert guess(guesser, [10]) == [30, EOS]


def test_the_memory_is_bounded_and_keeps_what_repeats():
    guesser = Guesser(most_contexts=60)
    for number in range(200):
        guesser.learn(1, [*SKELETON, 1000 + number, *END])
    assert len(guesser) <= 60
    assert guess(guesser, []) == SKELETON


@given(st.lists(st.lists(st.integers(3, 6), max_size=9), max_size=6), st.lists(st.integers(3, 6), max_size=6))
def test_no_more_is_guessed_than_asked_for_and_only_what_was_seen(answers, prompt):
    guesser = Guesser()
    for answer in answers:
        guesser.learn(1, answer)
    found = guess(guesser, prompt[:2], prompt=prompt, most=3, least=0.0)
    assert len(found) <= 3
    assert set(found) <= {*prompt, *(token for answer in answers for token in answer)}


def test_a_guess_must_be_surer_the_more_sequences_share_a_step():
    chances = [least_chance(running) for running in (1, 4, 16, 64)]
    assert chances == sorted(chances)
    assert 0.2 < chances[0] < chances[-1] < 1
