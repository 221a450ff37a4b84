"""The report: verdict first, every gate, safe whatever models wrote, the same in HTML, Markdown and JSON."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from pipelines.promotion_report import MOST_CHARS, MOST_EXAMPLES, TITLES, Example, Examples, report_of
from policies.promotion import GATES, Gates, PromotionPolicy, ShadowOutcome, TrialState, decide

HOSTILE = (
    """</pre><script src="https://evil.example/x.js"></script>```\n# I am a heading\n| a | <img src=x onerror=y>"""
)
VOID = {"meta", "rect", "line", "circle"}


class Tree(HTMLParser):
    """Checks that tags close in order; keeps names, attributes and text."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        self.text.append(data)


def trial(calls, cost=0.1, well_formed=1.0):
    rng, state = np.random.default_rng(0), TrialState(specialist="intents@0123456789ab")
    for call in range(calls):
        reference_ms = 100 * rng.lognormal(0.0, 0.3)
        state.observe(
            ShadowOutcome(
                call_id=str(call),
                well_formed=bool(rng.random() < well_formed),
                success=bool(rng.random() < 0.97),
                reference_success=bool(rng.random() < 0.94),
                latency_ms=reference_ms * 0.4,
                reference_latency_ms=reference_ms,
                cost_usd=cost * 1e-3,
                reference_cost_usd=1e-3,
                escalated=False,
                accepted_wrong=False,
            )
        )
    return state


def report(state=None, policy=None, examples=None, made_at="2026-11-21 18:00 UTC"):
    state, policy = state or trial(600), policy or PromotionPolicy()
    return report_of(state, decide(state, policy), policy, examples or Examples(), made_at)


def parsed(text):
    tree = Tree()
    tree.feed(text)
    tree.close()
    assert tree.open == []
    return tree


def example(text, call_id="c1"):
    return Example(call_id=call_id, input=text, served=text, answered=text)


@pytest.mark.parametrize(
    ("state", "first_word"),
    [(trial(600), "Promote"), (trial(100), "Wait"), (trial(300, cost=1.2), "Do not promote")],
    ids=["promote", "wait", "reject"],
)
def test_the_verdict_comes_first_in_every_form(state, first_word):
    made = report(state)
    heading = "".join(parsed(made.as_html()).text).split("Trial of intents@0123456789ab")[1].split("Gates")[0]
    assert heading.split("\n", 1)[1].strip().startswith(first_word)
    assert made.as_markdown().startswith(f"# {first_word}")
    assert made.as_json()["headline"].startswith(first_word)
    for reason in made.decision.reasons:
        assert reason in heading


def test_the_three_forms_say_the_same_of_every_gate():
    made = report()
    page, markdown = "".join(parsed(made.as_html()).text), made.as_markdown()
    gates = {gate["name"]: gate for gate in json.loads(json.dumps(made.as_json()))["decision"]["gates"]}
    assert set(gates) == set(GATES)
    for name, gate in gates.items():
        row = next(line for line in markdown.splitlines() if line.startswith(f"| {TITLES[name]} |"))
        sign = "+" if name == "latency_increase" else ""
        interval = f"{gate['lower']:{sign}.1%} to {gate['upper']:{sign}.1%}"
        assert TITLES[name] in page and interval in page and interval in row
        assert f"{gate['value']:{sign}.1%}" in row and f"{gate['n']:,}" in row


def test_what_models_wrote_stays_text():
    examples = Examples(fixed=[example(HOSTILE)], broken=[example(HOSTILE, call_id="<b>id</b>")])
    made = report(examples=examples)
    tree = parsed(made.as_html())
    assert {"script", "img", "b"} & set(tree.tags) == set()
    assert "".join(tree.text).count(HOSTILE) == 6
    markdown = made.as_markdown()
    outside = re.sub(r"^(`{3,})text\n.*?^\1$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    assert "I am a heading" in markdown and "I am a heading" not in outside and "<img" not in outside


def test_the_page_is_one_file_that_loads_nothing():
    text = report(examples=Examples(fixed=[example("hello")])).as_html()
    tree = parsed(text)
    assert {"script", "link", "img", "iframe", "object", "base"} & set(tree.tags) == set()
    assert [value for name, value in tree.attributes if name in ("src", "href", "action")] == []
    assert "url(" not in text and "@import" not in text
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in tree.attributes
    assert "prefers-color-scheme:dark" in text and "@media print" in text


def test_examples_are_few_and_long_ones_are_cut():
    many = [example("x" * (MOST_CHARS + 500), call_id=str(n)) for n in range(MOST_EXAMPLES + 5)]
    made = report(examples=Examples(broken=many))
    assert len(made.broken_examples) == MOST_EXAMPLES
    assert made.broken_examples[0].input == "x" * MOST_CHARS + f" … ({MOST_CHARS + 500:,} characters)"


def test_it_says_what_cannot_be_decided():
    state, policy = TrialState(specialist="s"), PromotionPolicy(gates=Gates(escalations="off"))
    for _ in range(50):
        state.observe(ShadowOutcome(call_id="", well_formed=True))
    lines = "\n".join(report(state, policy).undecided)
    assert "Right answers against what was served: no call bears on it." in lines
    assert re.search(r"Well-formed answers: about \d+ more calls at this rate\.", lines)
    assert "Escalated calls: switched off in promotion.yaml." in lines
    assert "not known" in report(state, policy).as_markdown()


def test_money_is_what_was_saved_in_the_trial():
    made = report(trial(500, cost=0.25))
    assert made.money.saved_usd == pytest.approx(500 * 0.75e-3)
    assert "$0.375000 (75%)" in made.as_html() and "$0.375000 (75%)" in made.as_markdown()
    assert "-$0.100000 (-20%)" in report(trial(500, cost=1.2)).as_html()
