"""The tiny grammar language of the corpus: a template in which `[a|b|]` stands for one of its choices.

Brackets may nest. `expand` picks with the caller's random source, so that one seed gives one text.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

_CHOICE = re.compile(r"\[([^\[\]]*)\]")


@dataclass(frozen=True)
class Intent:
    """One thing a person may want to know, and the one answer to it.

    `tasks` are templates of verb phrases that fit behind "How do I"; `asks` are templates of whole questions or
    key words. `answer` is literal text: commands in backquotes, no template and no word copied from the question.
    """

    name: str
    answer: str
    tasks: tuple[str, ...]
    asks: tuple[str, ...] = ()


def expand(template: str, rng: random.Random) -> str:
    """Resolve every choice, innermost first, and squeeze the double spaces that empty choices leave."""
    text = template
    while match := _CHOICE.search(text):
        text = text[: match.start()] + rng.choice(match.group(1).split("|")) + text[match.end() :]
    return re.sub(r" {2,}", " ", text).strip()


def first_choice(template: str) -> str:
    """The plainest reading of a template: the first of every choice."""
    text = template
    while match := _CHOICE.search(text):
        text = text[: match.start()] + match.group(1).split("|")[0] + text[match.end() :]
    return re.sub(r" {2,}", " ", text).strip()
