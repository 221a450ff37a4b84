import asyncio

from pipelines.asking import AT_ONCE, ask_each
from pipelines.evaluation import Answered
from registry.entries import TemplateEntry
from specialists.calls import Completion


def test_what_was_asked_first_has_the_earlier_time_however_late_it_answers():
    heard = []

    async def ask(prompt):
        await asyncio.sleep(0.05 if prompt == "slow" else 0.0)
        return Answered(Completion(prompt), latency_ms=1.0)

    prompts = ["alone", "slow", *("quick" for _ in range(2 * AT_ONCE))]
    given = asyncio.run(ask_each(ask, TemplateEntry(), prompts, 1, lambda number, _: heard.append(number)))
    assert heard[0] == 0 and heard.index(1) > AT_ONCE
    assert [one.completion.text for one in given] == prompts
    times = [one.asked_at_ms for one in given]
    assert times == sorted(times) and times[0] > 0
    assert [one.latency_ms for one in given] == [1.0, *(None for _ in prompts[1:])]
