# ruff: noqa: E402 - what follows needs the engine extra
"""Streaming text: whole characters, and never a piece of a stop string."""

import pytest

tokenizers = pytest.importorskip("tokenizers", reason="the engine extra is not installed")

from hypothesis import given
from hypothesis import strategies as st

from specialists.engine.text_stream import TextStream


def byte_tokenizer():
    """One token a byte: every character beyond ASCII is split."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({character: i for i, character in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


TOKENIZER = byte_tokenizer()


def pieces(text, stops):
    stream = TextStream(TOKENIZER, stops)
    out = []
    for token in TOKENIZER.encode(text).ids:
        out.append(stream.push(token))
        if stream.stopped:
            return out
    return [*out, stream.finish()]


def test_a_split_character_comes_whole():
    assert [piece for piece in pieces("né 🙂", ()) if piece] == ["n", "é", " ", "🙂"]


def test_a_character_without_its_last_bytes_is_left_out():
    stream = TextStream(TOKENIZER, ())
    cut = TOKENIZER.encode("ab🙂").ids[:-1]
    assert "".join(stream.push(token) for token in cut) + stream.finish() == "ab"


def test_a_stop_string_is_withheld_from_its_first_letter():
    assert "".join(pieces("one END two", ("END",))) == "one "
    assert "".join(pieces("one EN two", ("END",))) == "one EN two"


def test_the_earliest_of_several_stops_counts():
    assert "".join(pieces("a<b>c", (">", "<b"))) == "a"


@given(st.text(alphabet="abé🙂", max_size=30), st.lists(st.text(alphabet="abé", min_size=1, max_size=3), max_size=3))
def test_what_is_sent_is_the_text_before_the_stop_that_completes_first(text, stops):
    grown = [text[:size] for size in range(len(text) + 1)]
    ended = next((part for part in grown if any(stop in part for stop in stops)), None)
    expected = text if ended is None else ended[: min(ended.find(stop) for stop in stops if stop in ended)]
    assert "".join(pieces(text, tuple(stops))) == expected
