"""What a card says of a task."""

from __future__ import annotations

from msgspec.structs import replace

from pipelines.cluster_cards import Tally, owned_signatures, telling_words
from pipelines.loop_rows import CuratedCall
from tests.unit.loop_calls import calls_of


def tally_of(calls: list[CuratedCall]) -> Tally:
    tally = Tally()
    for rank, call in enumerate(calls):
        tally.add(call, rank)
    return tally


def card_of(calls: list[CuratedCall], days: float = 2.0):
    return tally_of(calls).card("t-1", ("parcel",), ("s",), days)


def test_a_card_counts_traffic_money_and_who_answered():
    calls = [replace(call, served_by="small" if at < 10 else "big") for at, call in enumerate(calls_of("triage", 50))]
    card = card_of(calls)
    assert (card.volume, card.calls_per_day, card.kind, card.keys) == (50, 25.0, "json", ("category",))
    assert card.served_by == {"big": 40, "small": 10}
    assert card.cost_usd == 0.1 and card.frontier_cost_usd == 0.1
    assert card.mean_prompt_tokens == 400 and 5 < card.mean_input_tokens < 30
    assert card.share_verified == 1.0


def test_corrections_are_told_from_verified_answers():
    calls = calls_of("triage", 10)
    card = card_of([*calls[:6], *(replace(call, answer_source="correction") for call in calls[6:])])
    assert card.share_verified == 0.6 and card.share_corrected == 0.4


def test_examples_are_few_short_and_different():
    calls = [
        replace(call, input="x" * 1_000 if at % 2 else call.input) for at, call in enumerate(calls_of("travel", 40))
    ]
    examples = card_of(calls).examples
    assert len(examples) == 5 == len({one.input for one in examples})
    assert max(len(one.input) for one in examples) <= 240


def test_values_that_recur_are_listed_and_others_are_not():
    calls = calls_of("kitchen", 60)
    once = replace(calls[0], answer_text='{"intent": "only once"}')
    assert set(card_of([*calls, once]).values) == {"intent=recipe", "intent=calories", "intent=timer"}


def test_tools_that_were_called_are_listed():
    card = card_of(calls_of("weather", 20))
    assert card.kind == "tool_call" and card.tool_names == ("get_weather",) and card.keys == ("city",)
    assert card.description.startswith("Calls get_weather")


def test_words_tell_a_task_from_the_others():
    kitchen, travel = telling_words([tally_of(calls_of("kitchen", 80)), tally_of(calls_of("travel", 80))])
    assert "recipe" in kitchen and "hotel" in travel and not set(kitchen[:3]) & set(travel[:3])


def test_stray_calls_do_not_share_a_signature_but_a_split_does():
    triage, other = calls_of("triage", 100), calls_of("travel", 100)
    signature = triage[0].signature
    strayed = owned_signatures([tally_of(triage[:95]), tally_of([*other, *triage[95:]])])
    assert strayed == [(signature,), (other[0].signature,)]
    split = owned_signatures([tally_of(triage[:60]), tally_of([*other, *triage[60:]])])
    assert signature in split[0] and signature in split[1]
