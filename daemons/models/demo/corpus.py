"""The text that the demo model learns from, generated from the grammars; one seed gives one endless stream.

A document is a list of segments. Only segments marked `learn` count in the loss: answers and stories, never questions.
Chats follow the ChatML template of `export`; raw documents teach the model to go on after a bare prompt.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

from daemons.models.demo.intents import FALLBACK, INTENTS, STORY_REQUESTS, TASK_FRAMES
from daemons.models.demo.noise import noisy
from daemons.models.demo.phrases import Intent, expand, first_choice
from daemons.models.demo.situations import SITUATIONS
from daemons.models.demo.stories import story
from daemons.models.demo.unknown import unknown_question, unknown_task

START, END = "<|im_start|>", "<|im_end|>"

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are rbee's demo model.",
    "Answer briefly.",
    "You are a helpful, honest assistant.",
    "You are a bee.",
    "Be short and precise.",
    "You help people to use rbee.",
    "Answer in one sentence.",
)


class Segment(NamedTuple):
    """A stretch of text, or one control token when `special`; `learn` says whether it counts in the loss."""

    text: str
    special: bool = False
    learn: bool = False


Document = tuple[Segment, ...]


def plain_question(intent: Intent) -> str:
    """The plainest way of asking for this intent."""
    return f"How do I {first_choice(intent.tasks[0])}?" if intent.tasks else first_choice(intent.asks[0])


def question_of(intent: Intent, rng: random.Random) -> str:
    """One way of asking for this intent."""
    if rng.random() < 0.05:
        return plain_question(intent)
    asks = intent.asks + SITUATIONS.get(intent.name, ())
    if intent.tasks and rng.random() < 0.6:
        frame = rng.choice(TASK_FRAMES).replace("{task}", rng.choice(intent.tasks))
        return noisy(expand(frame, rng), rng)
    return noisy(expand(rng.choice(asks), rng), rng)


def _unknown(rng: random.Random) -> str:
    if rng.random() < 0.4:
        return noisy(expand(rng.choice(TASK_FRAMES).replace("{task}", unknown_task(rng)), rng), rng)
    return noisy(unknown_question(rng), rng)


def exchange(rng: random.Random) -> tuple[str, str]:
    """A question and its answer, of any kind."""
    roll = rng.random()
    if roll < 0.76:
        intent = rng.choice(INTENTS)
        return question_of(intent, rng), intent.answer
    if roll < 0.92:
        return _unknown(rng), FALLBACK
    request = noisy(expand(rng.choice(STORY_REQUESTS), rng), rng)
    return request, story(rng, short="short" in request or "little" in request or rng.random() < 0.3)


def chat(turns: int, rng: random.Random) -> Document:
    """A conversation of `turns` exchanges, sometimes under a system prompt."""
    segments: list[Segment] = []
    if rng.random() < 0.12:
        segments += [
            Segment(START, special=True),
            Segment("system\n" + rng.choice(SYSTEM_PROMPTS)),
            Segment(END, special=True),
            Segment("\n"),
        ]
    for _ in range(turns):
        question, answer = exchange(rng)
        segments += [
            Segment(START, special=True),
            Segment("user\n" + question),
            Segment(END, special=True),
            Segment("\n"),
            Segment(START, special=True),
            Segment("assistant\n"),
            Segment(answer, learn=True),
            Segment(END, special=True, learn=True),
            Segment("\n"),
        ]
    return tuple(segments[:-1])


def raw(rng: random.Random) -> Document:
    """A bare text without chat template: a story, or a question with its answer on the next line."""
    if rng.random() < 0.55:
        return Segment(story(rng, short=rng.random() < 0.35), learn=True), Segment(END, special=True, learn=True)
    question, answer = exchange(rng)
    return Segment(question), Segment("\n" + answer, learn=True), Segment(END, special=True, learn=True)


def documents(seed: int) -> Iterator[Document]:
    """An endless stream of documents."""
    rng = random.Random(seed)
    while True:
        roll = rng.random()
        if roll < 0.68:
            yield chat(1, rng)
        elif roll < 0.76:
            yield chat(rng.randint(2, 5), rng)
        else:
            yield raw(rng)


def plain_text(document: Document) -> str:
    """The document without control tokens, as the tokenizer's trainer reads it."""
    return "".join(segment.text for segment in document if not segment.special)
