"""Noise on questions."""

import random

from daemons.models.demo.noise import SYNONYMS, noisy, reword


def test_reword_only_exchanges_words_of_one_group() -> None:
    """A reworded question differs in nothing but the synonym."""
    groups = [group for group in SYNONYMS if "download" in group]
    seen = {reword("How do I download it?", random.Random(seed)) for seed in range(200)}
    assert seen == {f"How do I {word} it?" for word in groups[0]}


def test_no_word_is_in_two_groups() -> None:
    """The second group would silently win."""
    words = [word for group in SYNONYMS for word in group]
    assert len(set(words)) == len(words)


def test_noise_leaves_many_questions_alone_and_repeats_for_a_seed() -> None:
    """Plain questions stay the largest part of the corpus."""
    texts = [noisy("How do I open it?", random.Random(seed)) for seed in range(400)]
    assert texts == [noisy("How do I open it?", random.Random(seed)) for seed in range(400)]
    assert 100 < texts.count("How do I open it?") < 300
    assert all(texts)
