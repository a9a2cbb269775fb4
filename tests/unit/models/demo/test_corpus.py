"""The stream of training text."""

import random
from collections import Counter
from itertools import islice

from daemons.models.demo.corpus import END, START, Segment, chat, documents, exchange, plain_text, raw
from daemons.models.demo.intents import FALLBACK, INTENTS


def test_one_seed_gives_one_corpus() -> None:
    """The shipped model can be made again only when its text can."""
    first, again = list(islice(documents(7), 300)), list(islice(documents(7), 300))
    assert first == again
    assert first != list(islice(documents(8), 300))


def test_only_answers_and_stories_are_learned() -> None:
    """The person's side of a chat never counts in the loss; each answer ends with a learned end of text."""
    for seed in range(50):
        document = chat(3, random.Random(seed))
        learned = [index for index, segment in enumerate(document) if segment.learn]
        assert len(learned) == 6
        for answer, end in zip(learned[::2], learned[1::2], strict=True):
            assert document[answer - 1] == Segment("assistant\n")
            assert document[end] == Segment(END, special=True, learn=True)


def test_raw_documents_end_with_a_learned_end() -> None:
    """A bare prompt is continued and stopped too."""
    for seed in range(50):
        document = raw(random.Random(seed))
        assert document[-1] == Segment(END, special=True, learn=True)
        assert START not in {segment.text for segment in document}


def test_every_intent_and_the_fallback_occur() -> None:
    """No intent starves, and unknown questions are a fair part."""
    rng = random.Random(0)
    answers = Counter(exchange(rng)[1] for _ in range(20_000))
    assert min(answers[intent.answer] for intent in INTENTS) > 80
    assert 0.1 < answers[FALLBACK] / 20_000 < 0.25


def test_questions_hold_no_grammar() -> None:
    """No bracket, brace or bar of the templates reaches the text."""
    rng = random.Random(1)
    for _ in range(5_000):
        question, _answer = exchange(rng)
        assert question
        assert not set("[]{}|") & set(question)


def test_plain_text_has_no_control_tokens() -> None:
    """What the tokenizer's trainer reads would otherwise make pieces of them."""
    for document in islice(documents(3), 200):
        assert START not in plain_text(document)
        assert END not in plain_text(document)
