# ruff: noqa: E402 - what follows needs the engine extra
"""Choosing tokens: the distribution, its cuts, and that a request's choices are its own."""

import pytest

torch = pytest.importorskip("torch", reason="the engine extra is not installed")

from specialists.engine.sampler import choose, draw
from specialists.engine.sequence import Sampling, Sequence

EOS = (2,)


def sequence(**sampling):
    return Sequence([5, 6], Sampling(**({"max_tokens": 8} | sampling)), None, text=None)


def test_draws_follow_the_probabilities():
    probabilities = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    drawn = [draw(probabilities, Sampling(max_tokens=1), u / 1000 + 0.0005) for u in range(1000)]
    assert [drawn.count(i) for i in range(3)] == [500, 300, 200]


@pytest.mark.parametrize(
    ("cut", "kept"),
    [({"top_p": 0.45}, {0}), ({"top_p": 0.6}, {0, 2}), ({"top_k": 2}, {0, 2}), ({"top_p": 0.999}, {0, 1, 2})],
)
def test_top_p_and_top_k_keep_the_likeliest(cut, kept):
    probabilities = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    assert {draw(probabilities, Sampling(max_tokens=1, **cut), u / 100) for u in range(100)} == kept


def test_a_flat_distribution_wider_than_the_guess_still_reaches_its_nucleus():
    flat = torch.full((4096,), 1 / 4096, dtype=torch.float64)
    drawn = {draw(flat, Sampling(max_tokens=1, top_p=0.9), u / 4096) for u in range(4096)}
    assert 3600 < len(drawn) <= 3688  # 0.9 of them, not the guess's 512


def test_a_seed_gives_the_same_tokens_alone_and_in_company():
    torch.manual_seed(0)
    logits = torch.randn(6, 50)

    def tokens(company):
        mine = sequence(temperature=1.0, seed=11)
        rows = [sequence(temperature=1.0) for _ in range(company)]
        return [choose(torch.cat([logits[:company], row[None]]), [*rows, mine], EOS)[-1].token_id for row in logits]

    assert tokens(0) == tokens(3)


def test_log_probabilities_are_the_models_whatever_the_temperature():
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    cold, hot = (choose(logits, [sequence(temperature=t, seed=1, top_logprobs=2)], EOS)[0] for t in (0, 1.5))
    expected = logits[0].log_softmax(0).tolist()
    for choice in (cold, hot):
        assert choice.logprob.logprob == pytest.approx(expected[choice.token_id], abs=1e-6)
        assert [token for token, _ in choice.logprob.top] == [3, 2]


def test_bias_penalties_and_min_tokens_change_the_choice():
    logits = torch.tensor([[0.0, 1.0, 3.0, 2.9]])
    assert choose(logits, [sequence(temperature=0)], EOS)[0].token_id == 2
    assert choose(logits, [sequence(temperature=0, min_tokens=1)], EOS)[0].token_id == 3
    assert choose(logits, [sequence(temperature=0, logit_bias=((0, 9.0),))], EOS)[0].token_id == 0
    repeating = sequence(temperature=0, frequency_penalty=1.0)
    repeating.tokens += [2, 2, 3]
    assert choose(logits, [repeating], EOS)[0].token_id == 3
