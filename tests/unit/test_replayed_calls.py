import json

import pytest

from pipelines.asking import refused
from pipelines.evaluation import Answered
from pipelines.render import Example, Shape
from pipelines.replayed_calls import Asked, Origin, ReplayRecorder
from policies.redaction import Redactor
from policies.redaction_policy import RedactionPolicy
from registry.entries import Prices, TemplateEntry
from specialists.calls import Completion, ToolCall

SECRET = "jane.roe@corp-mail.com"
NO_NUMBER = {"type": "object", "properties": {"stars": {"type": "integer"}}, "additionalProperties": False}
TOOLS = Shape(None, ({"type": "function", "function": {"name": "rate", "parameters": NO_NUMBER}},))


def recorder(*, kept=True, **more):
    given = {"specialist": "bank@0123456789ab", "cluster": "bank", "template": TemplateEntry(), "threshold": None}
    known = {"prices": Prices(), "asked": Asked(0), "origins": {"c": Origin("acme", kept)}}
    return ReplayRecorder(**given, **known, shapes={"": Shape(), "t": TOOLS}, **more)


def recorded(completion, shape="", **more):
    example = Example(call_id="c", prompt="p", completion="yes", shape=shape)
    return recorder(**more).record(example, Answered(completion, asked_at_ms=77))


@pytest.mark.parametrize(
    "said",
    [
        Completion(f"write to {SECRET}"),
        Completion(json.dumps({"mail": SECRET})),
        Completion(None, (ToolCall("", "rate", json.dumps({"mail": SECRET})),)),
    ],
)
def test_an_answer_is_redacted_whatever_the_model_says(said):
    kept = recorded(said, shape="t" if said.tool_calls else "")
    assert "<EMAIL_1>" in f"{kept.answer_text}{kept.answer_tool_calls}"
    assert SECRET not in repr(kept) and kept.content_mode == "redacted"


def test_nothing_is_kept_of_a_call_whose_text_has_gone_nor_of_what_cannot_be_redacted():
    late = Answered(Completion(None, finish_reason="timed_out", refusal=f"no answer for {SECRET}"), asked_at_ms=77)
    example = Example(call_id="c", prompt="p", completion="yes")
    assert recorder().record(example, late).reason == "no answer for <EMAIL_1>"
    gone = recorder(kept=False).record(example, late)
    assert (gone.reason, gone.content_mode, gone.outcome) == ("", "none", "timed_out")
    long = recorded(Completion("words " * 10), redactor=Redactor(RedactionPolicy(max_chars=20)))
    assert (long.answer_text, long.outcome) == (None, "verified")


def test_a_record_has_the_time_at_which_it_was_asked():
    assert recorded(Completion("yes")).at_ms == 77


def test_a_prompt_that_cannot_be_asked_has_failed_as_it_would_live():
    example = Example(call_id="c", prompt="p", completion="yes", answer_source="feedback")
    kept = recorder().record(example, refused("it is too long"))
    assert (kept.outcome, kept.reason, kept.agrees, kept.right) == ("failed", "it is too long", None, False)
