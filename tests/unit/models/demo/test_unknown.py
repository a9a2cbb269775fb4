"""Questions outside the model's knowledge."""

import random

from daemons.models.demo.intents import INTENTS
from daemons.models.demo.phrases import first_choice
from daemons.models.demo.unknown import unknown_question, unknown_task


def test_unknown_questions_are_filled_and_never_known_ones() -> None:
    """No slot is left, and none is word for word a question that has an answer."""
    rng = random.Random(0)
    known = {first_choice(template).lower() for intent in INTENTS for template in intent.tasks + intent.asks}
    for _ in range(5_000):
        for text in (unknown_question(rng), unknown_task(rng)):
            assert text
            assert not set("[]{}|") & set(text)
            assert text.lower() not in known
