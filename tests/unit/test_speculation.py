# ruff: noqa: E402 - what follows needs the engine extra
"""Guessing ahead: what is guessed, when it pays, and that answers are those of one token a step."""

import threading

import pytest

torch = pytest.importorskip("torch", reason="the engine extra is not installed")

from hypothesis import given
from hypothesis import strategies as st

from specialists.engine.adapters import read_adapter
from specialists.engine.architecture import read_config, read_shape
from specialists.engine.growth import extend
from specialists.engine.guesses import COPIED, START, Guesser, copied
from specialists.engine.llama import LlamaModel
from specialists.engine.loop import EngineLoop
from specialists.engine.sampler import Choice
from specialists.engine.scheduler import Limits
from specialists.engine.sequence import Sampling, Sequence
from specialists.engine.speculation import TRUST, Speculation, least_chance
from specialists.engine.text_stream import TextStream
from tests.unit.tiny_model import write_tiny_model

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
    assert 0.2 < chances[0] < 0.5 < chances[-1] < 1


def greedy(prompt=(5, 6), **sampling):
    return Sequence(list(prompt), Sampling(**({"max_tokens": 20, "temperature": 0.0} | sampling)), None, text=None)


def finished(speculation, answer):
    sequence = greedy()
    sequence.tokens += answer
    speculation.learn(sequence)


@pytest.fixture
def speculation():
    taught = Speculation(8, (EOS,))
    for _ in range(3):
        finished(taught, [10, 11, 12, 13, 14, EOS])
    return taught


@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": 0.7},
        {"frequency_penalty": 0.5},
        {"presence_penalty": 0.5},
        {"logit_bias": ((3, 1.0),)},
        {"min_tokens": 1},
    ],
)
def test_only_what_the_models_own_logits_decide_is_guessed(speculation, sampling):
    assert speculation.guess(greedy(), 1, 99) == [10, 11, 12, 13, 14, EOS]
    assert speculation.guess(greedy(**sampling), 1, 99) == []


def test_a_guess_stays_within_the_steps_room_and_the_answers_bound_and_ends_with_it(speculation):
    assert speculation.guess(greedy(), 1, 2) == [10, 11]
    assert speculation.guess(greedy(max_tokens=3), 1, 99) == [10, 11]  # the third comes of itself
    assert speculation.guess(greedy(max_tokens=1), 1, 99) == []
    assert speculation.guess(greedy([EOS, 60, 61, 62]), 1, 99)[-1] == EOS
    assert Speculation(0, (EOS,)).guess(greedy(), 1, 99) == []


def test_an_adapter_whose_guesses_fail_is_left_alone_for_a_while(speculation):
    failed = 0
    while failed <= TRUST:
        guessed = speculation.guess(greedy(), 1, 99)
        assert guessed
        assert speculation.judge(greedy(), guessed, [99] * (len(guessed) + 1)) == 0
        failed += len(guessed)
    silent = [speculation.guess(greedy(), 1, 99) for _ in range(5)]
    assert silent == [[]] * 5
    assert any(speculation.guess(greedy(), 1, 99) for _ in range(200))


def test_only_the_guesses_before_the_first_wrong_one_count(speculation):
    assert speculation.judge(greedy(), [1, 2, 3], [1, 2, 9, 4]) == 2
    assert speculation.judge(greedy(), [1, 2, 3], [1, 2, 3, 4]) == 3
    assert (speculation.guessed_tokens, speculation.accepted_tokens) == (6, 5)


def test_an_unloaded_adapters_answers_are_forgotten(speculation):
    speculation.forget(0)
    assert speculation.guess(greedy(), 1, 99) == []


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A small random model whose answers wander, its tokenizer, and two adapters."""
    from peft import LoraConfig, get_peft_model
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM

    folder = write_tiny_model(tmp_path_factory.mktemp("tiny"))
    torch.manual_seed(5)
    bare = LlamaForCausalLM.from_pretrained(str(folder))
    for parameter in bare.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    bare.save_pretrained(str(folder))
    config = read_config(folder)
    model = LlamaModel(folder, config, read_shape(config, (0,)), 512)
    adapters = [None]
    for name in ("north", "south"):
        peft = get_peft_model(
            LlamaForCausalLM.from_pretrained(str(folder)), LoraConfig(r=4, target_modules="all-linear")
        )
        for key, parameter in peft.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, std=0.3)
        peft.save_pretrained(str(folder / name))
        adapters.append(read_adapter(name, str(folder / name), model.shape, 64))
    return model, Tokenizer.from_file(str(folder / "tokenizer.json")), adapters


class Asker:
    """A running loop, asked in process."""

    def __init__(self, parts, max_guesses):
        self.model, self.tokenizer, self.adapters = parts
        limits = Limits(max_running=6, max_waiting=100, max_step_tokens=40, max_cached_tokens=4000)
        self.loop = EngineLoop(self.model, limits, 512, 1 << 20, max_guesses)
        self.loop.start(lambda deltas: [sequence.sink(delta) for sequence, delta in deltas])

    def begin(self, number, adapter, **sampling):
        prompt = [(7 * number + 3 * place) % 250 + 2 for place in range(4 + 5 * number)]
        return self.submit(prompt, adapter, sampling)

    def submit(self, prompt, adapter, sampling):
        settings = {"max_tokens": 24, "temperature": 0.0, "top_logprobs": 2} | sampling
        text = TextStream(self.tokenizer, settings.get("stop", ()))
        sequence = Sequence(prompt, Sampling(**settings), self.adapters[adapter], text)
        sequence.deltas, sequence.done, sequence.begun = [], threading.Event(), threading.Event()

        def sink(delta):
            sequence.deltas.append(delta)
            sequence.begun.set()
            if delta.finish_reason:
                sequence.done.set()

        sequence.sink = sink
        self.loop.submit(sequence)
        return sequence

    def ask(self, jobs):
        """(text, tokens, log-probabilities, reason, counted) of each; a job is (number, adapter, sampling)."""
        return [self.answer(sequence) for sequence in [self.begin(n, a, **sampling) for n, a, sampling in jobs]]

    @staticmethod
    def answer(sequence):
        assert sequence.done.wait(60)
        deltas = sequence.deltas
        assert not any(delta.error for delta in deltas), deltas
        tokens = [one for delta in deltas for one in delta.logprobs]
        last = deltas[-1]
        text = "".join(delta.text for delta in deltas)
        return text, [one.token_id for one in tokens], tokens, last.finish_reason, last.completion_tokens


@pytest.fixture
def askers(parts):
    pair = Asker(parts, 8), Asker(parts, 0)
    yield pair
    for asker in pair:
        asker.loop.stop()


def assert_same(found, expected):
    for mine, theirs in zip(found, expected, strict=True):
        assert mine[:2] == theirs[:2]
        assert mine[3:] == theirs[3:]
        for one, other in zip(mine[2], theirs[2], strict=True):
            assert one.logprob == pytest.approx(other.logprob, abs=1e-3)
            assert [token for token, _ in one.top] == [token for token, _ in other.top]


def test_mixed_batches_answer_as_without_guessing_in_fewer_steps(askers):
    guessing, plain = askers
    jobs = [(number, number % 3, {}) for number in range(9)]
    expected = plain.ask(jobs)
    for _ in range(4):
        assert_same(guessing.ask(jobs), expected)
    before = plain.loop.counts().steps
    plain.ask(jobs)
    counts = guessing.loop.counts()
    assert 0 < counts.accepted_guesses <= counts.guessed_tokens
    steps = counts.steps
    assert_same(guessing.ask(jobs), expected)
    assert guessing.loop.counts().steps - steps < 0.6 * (plain.loop.counts().steps - before)


def test_an_answer_is_cut_at_the_same_place_inside_a_run_of_right_guesses(askers):
    guessing, plain = askers
    (whole,) = plain.ask([(3, 1, {})])
    for _ in range(3):
        assert_same(guessing.ask([(3, 1, {})]), [whole])
    text, tokens = whole[:2]
    cuts = [{"max_tokens": most} for most in range(1, 9)]
    cuts += [{"stop_token_ids": (token,)} for token in tokens[2:7]]
    cuts += [{"stop": (text[at : at + 2],)} for at in range(2, 9)]
    for cut in cuts:
        assert_same(guessing.ask([(3, 1, cut)]), plain.ask([(3, 1, cut)]))
    assert guessing.loop.counts().accepted_guesses > 50


@pytest.mark.parametrize(("ignore_eos", "said", "reason"), [(False, [7, EOS], "stop"), (True, [7, EOS, 8], None)])
def test_the_end_token_inside_a_run_ends_the_answer_unless_it_is_ignored(parts, ignore_eos, said, reason):
    sequence = Sequence([5], Sampling(max_tokens=9, ignore_eos=ignore_eos), None, TextStream(parts[1], ()))
    delta = extend(sequence, [Choice(token, None) for token in (7, EOS, 8)], (EOS,))
    assert sequence.output == said
    assert (delta.finish_reason, delta.completion_tokens) == (reason, len(said))


def test_what_is_kept_of_a_guessed_answer_serves_the_next_prompt(askers):
    answers = []
    for asker in askers:
        for _ in range(3):
            first = asker.begin(8, 1)
            asker.answer(first)
        longer = asker.submit([*first.tokens, 9, 9, 9], 1, {})
        answers.append(asker.answer(longer))
        assert longer.cached >= len(first.tokens) - 1
    assert_same(answers[:1], answers[1:])


def test_sampled_neighbours_keep_their_draws_beside_guessed_rows(askers):
    guessing, plain = askers
    for _ in range(3):
        guessing.ask([(1, 1, {}), (2, 2, {})])
    drawn = {"temperature": 1.0, "seed": 4}
    jobs = [(1, 1, {}), (4, 1, drawn), (2, 2, {}), (5, 0, drawn), (3, 0, {"frequency_penalty": 1.0})]
    assert_same(guessing.ask(jobs), plain.ask(jobs))
    assert guessing.loop.counts().accepted_guesses > 0


def test_one_that_leaves_in_the_middle_disturbs_nobody(askers):
    guessing, plain = askers
    jobs = [(1, 1, {"max_tokens": 40}), (2, 0, {"max_tokens": 40})]
    expected = plain.ask(jobs)
    for _ in range(3):
        guessing.ask(jobs)
        leaving = guessing.begin(6, 2, max_tokens=400)
        others = [guessing.begin(number, adapter, **sampling) for number, adapter, sampling in jobs]
        assert leaving.begun.wait(60)
        guessing.loop.cancel(leaving)
        assert_same([guessing.answer(other) for other in others], expected)
    assert not leaving.done.is_set()
