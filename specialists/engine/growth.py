"""What chosen tokens add to an answer, and whether it ends with them. Knows nothing of the cache or of how they were
chosen.
"""

from __future__ import annotations

import msgspec

from specialists.engine.sampler import Choice
from specialists.engine.sequence import Delta, Sequence


def extend(sequence: Sequence, choices: list[Choice], eos_token_ids: tuple[int, ...]) -> Delta:
    """Appends the tokens of one step, up to the one that ends the answer; the rest were never said."""
    parts: list[Delta] = []
    for choice in choices:
        parts.append(_append(sequence, choice, eos_token_ids))
        if parts[-1].finish_reason:
            break
    if len(parts) == 1:
        return parts[0]
    text, logprobs = "".join(part.text for part in parts), tuple(one for part in parts for one in part.logprobs)
    return msgspec.structs.replace(parts[-1], text=text, logprobs=logprobs)


def _append(sequence: Sequence, choice: Choice, eos_token_ids: tuple[int, ...]) -> Delta:
    s, token = sequence.sampling, choice.token_id
    sequence.tokens.append(token)
    if sequence.constraint:
        sequence.constraint.accept(token)
    ends = token in s.stop_token_ids or (token in eos_token_ids and not s.ignore_eos)
    text = "" if ends else sequence.text.push(token)
    complete = sequence.constraint is not None and sequence.constraint.complete
    reason = "stop" if ends or complete or sequence.text.stopped else None
    if reason is None and sequence.completion_tokens >= s.max_tokens:
        reason = "length"
    if reason and not sequence.text.stopped:
        text += sequence.text.finish()
    logprobs = () if choice.logprob is None else (choice.logprob,)
    return Delta(text, logprobs, reason, sequence.completion_tokens, sequence.cached)
