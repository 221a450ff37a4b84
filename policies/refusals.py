"""How a refusal begins, as data. Lower case, straight quotes; compared with the start of an answer's text.

Each phrase names what is refused (help, provide, ...), so that "I can't recommend it enough" is not taken for one.
"""

from __future__ import annotations

from typing import Final

_CANNOT: Final = (
    "i can't",
    "i cannot",
    "i can not",
    "i'm unable to",
    "i am unable to",
    "i'm not able to",
    "i won't",
    "i will not",
)
_DO: Final = (
    "assist",
    "help",
    "provide",
    "fulfill",
    "fulfil",
    "comply",
    "answer",
    "complete",
    "do that",
    "do this",
    "create",
    "generate",
    "engage",
    "discuss",
    "support",
    "process",
    "access",
)

OPENERS: Final[tuple[str, ...]] = (
    "i'm sorry, but ",
    "i am sorry, but ",
    "i'm really sorry, but ",
    "i'm very sorry, but ",
    "i'm sorry. ",
    "i'm sorry, ",
    "i am sorry, ",
    "i'm afraid ",
    "i am afraid ",
    "sorry, but ",
    "sorry, ",
    "i apologize, but ",
    "i apologise, but ",
    "my apologies, but ",
    "unfortunately, ",
    "as an ai language model, ",
    "as an ai model, ",
    "as an ai assistant, ",
    "as an ai, ",
    "as a language model, ",
)
"""What may stand before a refusal; taken off, again and again, before the phrases are compared."""

PHRASES: Final[tuple[str, ...]] = (
    *(f"{cannot} {do}" for cannot in _CANNOT for do in _DO),
    "i'm sorry, i can't",
    "i can't do that",
    "i must decline",
    "i have to decline",
    "i refuse to",
    "i'm not comfortable",
    "i do not have access to",
    "i don't have access to",
    "i don't have the ability to",
    "i do not have the ability to",
    "it would be inappropriate",
    "it is not appropriate",
    "it's not appropriate",
    "this request violates",
    "that request violates",
    "this goes against my",
    "lo siento, pero no puedo",
    "lo siento, no puedo",
    "no puedo ayudar",
    "je suis désolé, mais je ne peux pas",
    "je ne peux pas vous aider",
    "je ne peux pas t'aider",
    "es tut mir leid, aber ich kann",
    "tut mir leid, aber ich kann",
    "ich kann dir dabei nicht helfen",
    "ich kann ihnen dabei nicht helfen",
    "mi dispiace, ma non posso",
    "desculpe, mas não posso",
    "sinto muito, mas não posso",
    "het spijt me, maar ik kan",
    "przykro mi, ale nie mogę",
    "извините, но я не могу",
    "к сожалению, я не могу",
    "对不起，我不能",
    "抱歉，我无法",
    "抱歉，我不能",
    "申し訳ありませんが",
    "죄송하지만",
)
