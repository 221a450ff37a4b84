"""Guesses an answer's next tokens from what it may repeat: the adapter's recent answers and its own prompt. Pure.

A specialist's answers are much alike: the same keys, a class name that its first token settles, words of the prompt.
Whoever uses the guesses checks them, so a wrong one costs time and never changes a text. Knows nothing of the model.

The memory is shared by everybody who uses an adapter, as cached prefixes are. Sources: prompt lookup after Saxena,
"Prompt Lookup Decoding" (2023); contexts of several lengths mixed as in Cleary and Witten, "Data Compression Using
Adaptive Coding and Partial String Matching" (1984).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

START = -1
"""Stands before an answer's first token, so that beginnings are contexts of their own."""
OTHERS = -2
"""Stands for the tokens that followed a context too seldom to be told apart."""
LENGTHS = (1, 2, 4)
"""Tokens of the contexts, the shortest first. Longer ones are right more often, shorter ones known more often."""
MOST_CONTEXTS = 1 << 15
"""Kept over all adapters, the least recently learnt dropped first: about 12 MiB."""
MOST_LEARNT = 512
"""Tokens of one answer that are learnt: bounds the pause when it ends."""
MOST_COUNTED = 32
"""Counts of a context are halved beyond this, so that what came lately weighs more."""
DOUBT = 2.0
"""How many sightings in a context weigh as much as what the shorter contexts say."""
COPIED = (0.35, 0.6, 0.8, 0.9)
"""The chance that the prompt goes on as it did there, when the last 1, 2, 3, 4 tokens are the same."""
MOST_SEARCHED = 1024
"""Tokens at the prompt's end in which repeated ones are looked for."""

Context = tuple[int, ...]
"""The adapter's identity, then tokens."""


class Guesser:
    """What followed what in recent answers of each adapter. `guess` may run beside `forget` on another thread."""

    def __init__(self, most_contexts: int = MOST_CONTEXTS) -> None:
        self._most = most_contexts
        self._followers: OrderedDict[Context, dict[int, int]] = OrderedDict()

    def __len__(self) -> int:
        """Contexts that are known."""
        return len(self._followers)

    def learn(self, adapter: int, answer: list[int]) -> None:
        """Takes in the tokens of an answer, the one that ended it too."""
        begun = [START]
        for token in answer[:MOST_LEARNT]:
            for context in _contexts(adapter, begun):
                _count(self._followers.setdefault(context, {}), token)
                self._followers.move_to_end(context)
            begun.append(token)
        while len(self._followers) > self._most:
            self._followers.popitem(last=False)

    def forget(self, adapter: int) -> None:
        """Drops what an unloaded adapter left."""
        for context in [context for context in list(self._followers) if context[0] == adapter]:
            self._followers.pop(context, None)

    def guess(self, adapter: int, prompt: list[int], answer: list[int], most: int, least_chance: float) -> list[int]:
        """Up to `most` tokens that may follow `answer`, as far as all of them together have `least_chance` (0 to 1)."""
        begun, chance, guessed = [START, *answer[-max(LENGTHS) :]], 1.0, 0
        searched = prompt[-MOST_SEARCHED:]
        while guessed < most:
            token, alone = self._likeliest(adapter, begun, copied(searched, begun[1:]))
            chance *= alone
            if token == START or chance < least_chance:
                break
            begun.append(token)
            guessed += 1
        return begun[len(begun) - guessed :]

    def _likeliest(self, adapter: int, begun: list[int], copy: tuple[int, float]) -> tuple[int, float]:
        """The best next token with its chance: what longer contexts saw, leaning on the shorter and on the copy."""
        known = [seen for context in _contexts(adapter, begun) if (seen := self._followers.get(context))]
        chances = dict([copy])
        for seen in known:
            chances.setdefault(max(seen.keys() - {OTHERS}, key=seen.__getitem__, default=START), 0.0)
        for seen in known:
            total = sum(seen.values()) + DOUBT
            chances = {token: (seen.get(token, 0) + DOUBT * chance) / total for token, chance in chances.items()}
        return max(chances.items(), key=lambda found: found[1])


def copied(prompt: list[int], answer: list[int]) -> tuple[int, float]:
    """What follows the longest piece of `prompt` that `answer` ends with, and the chance of it; (START, 0) for none."""
    longest, best, at = 0, START, -1
    last = answer[-1] if answer else START
    for _ in range(prompt[:-1].count(last)):
        at = prompt.index(last, at + 1)
        size = _shared_end(prompt, at, answer)
        if size > longest:
            longest, best = size, prompt[at + 1]
    return (best, COPIED[longest - 1]) if longest else (START, 0.0)


def _shared_end(prompt: list[int], at: int, answer: list[int]) -> int:
    """How many tokens up to place `at` are the answer's last; at most as many as COPIED tells apart."""
    most = min(len(COPIED), len(answer), at + 1)
    return next((size for size in range(1, most) if prompt[at - size] != answer[-1 - size]), most)


def _contexts(adapter: int, begun: list[int]) -> Iterator[Context]:
    return ((adapter, *begun[-size:]) for size in LENGTHS if size <= len(begun))


def _count(seen: dict[int, int], token: int) -> None:
    seen[token] = seen.get(token, 0) + 1
    total = sum(seen.values())
    if total > MOST_COUNTED:
        halved = {key: count // 2 for key, count in seen.items() if count > 1}
        halved[OTHERS] = halved.get(OTHERS, 0) + total // 2 - sum(halved.values())
        seen.clear()
        seen.update(halved)
