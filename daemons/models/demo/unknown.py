"""Questions that the demo model must not pretend to answer: pure data and one function.

They share the frames of the known questions, so that only the subject tells known from unknown.
"""

from __future__ import annotations

import random

from daemons.models.demo.phrases import expand

_VERBS = (
    "[bake|cook|fry|eat|order|buy|sell|peel|boil] [a|the|some|my]", "[paint|draw|build|repair|clean|wash|fold] [a|the|my|some]",
    "[drive|park|ride|rent|sell|insure] [a|my|the]", "[learn|study|speak|teach|understand] ", "[write|read|translate|publish|summarise|print] [a|the|my]",
    "[play|win|watch|record|stream] [a|the|my]", "[feed|train|walk|adopt|brush|catch] [a|my|the]", "[grow|plant|water|cut|trim] [a|the|my|some]",
    "[compute|solve|prove|integrate|simplify] [a|the|this]", "[find|book|visit|reach|photograph] [a|the|my]", "[open|close|lock|move|lift|throw] [a|the|my]",
    "[call|email|invite|marry|meet|forgive] [a|my|the]", "[invest in|pay for|borrow|count|save] [a|the|my|some]", "[sew|knit|iron|dye|wear] [a|the|my]",
    "[compile|program|deploy|refactor] [a|the|my]", "[hack|break|steal|burn] [a|the|my]",
    "[add|remove|list|start|stop|check|install|show|update] [a|the|my|another]", "[delete|download|cancel|restart|create|see|set|change|choose] [a|the|my|all]",
    "[get|make|have|use|find|open|send|keep] [a|the|my|some]",
)  # fmt: skip
_THINGS = (
    "bread", "cake", "soup", "pizza", "apple pie", "rice", "coffee", "tea", "potato", "egg", "car", "bicycle", "motorbike", "boat", "train ticket", "flight",
    "house", "garden", "roof", "window", "kitchen", "sofa", "table", "chair", "lamp", "french", "german", "latin", "chinese", "mathematics", "history of rome",
    "book", "poem", "letter", "essay", "newspaper", "song", "guitar", "piano", "movie", "football match", "chess game", "dog", "cat", "horse", "goldfish",
    "parrot", "rose", "tomato", "lawn", "oak tree", "equation", "integral", "theorem", "fraction", "square root", "hotel", "restaurant", "museum", "beach",
    "mountain", "doctor", "lawyer", "neighbour", "teacher", "friend", "stock", "tax form", "mortgage", "coin", "bank account", "shirt", "shoe", "hat", "scarf",
    "python script", "website", "java class", "spreadsheet", "database table", "phone", "printer", "television", "washing machine", "camera", "umbrella",
    "passport", "wedding", "birthday party", "holiday", "haircut", "tooth", "headache", "marathon", "telescope", "rocket", "volcano", "planet", "dinosaur",
)  # fmt: skip
_PLACES = (
    "France", "Japan", "Brazil", "Germany", "Canada", "Italy", "Spain", "Egypt", "India", "Kenya", "Norway", "Mexico", "London", "Berlin", "Tokyo", "Rome",
    "Peru", "Poland", "Greece", "Texas", "Sweden", "China", "Portugal", "Cuba",
)  # fmt: skip
_PEOPLE = (
    "Napoleon", "Einstein", "Mozart", "Shakespeare", "Cleopatra", "Newton", "Picasso", "Marie Curie", "Julius Caesar", "Beethoven", "Darwin", "Plato",
    "Alan Turing", "Ada Lovelace", "Gandhi", "Columbus", "the president", "the king", "Elvis", "Lincoln",
)  # fmt: skip
_WHOLE = (
    "What is the capital of {place}?", "what's the capital of {place}", "where is {place}?", "How many people live in {place}?", "What is the weather [like |]in {place}?",
    "what language do they speak in {place}?", "How far is {place} from {place2}?", "who rules {place}?", "What time is it[| in {place}]?", "is it raining[| in {place}]?",
    "What will the weather be [tomorrow|today|next week]?", "Who was {person}?", "who is {person}?", "When was {person} born?", "When did {person} die?",
    "What did {person} [do|write|discover|invent]?", "Tell me about {person}.", "tell me about {place}", "tell me about [the|a|] {thing}",
    "What is [{a}|a hundred and] [plus|times|minus|divided by|+|-|*] {b}?", "what is {a}{b} + {b}?", "{a} + {b} = ?", "compute {a}{b} times {b}", "how much is {a} times {b}?",
    "What is [a|the] {thing}?", "what is a {thing} made of?", "How much does a {thing} cost?", "Where can I buy a {thing}?", "Why is [the sky blue|water wet|grass green|snow white|"
    "the sea salty|fire hot|the moon round|space dark]?", "What is the [meaning of life|speed of light|tallest mountain|longest river|largest country|deepest lake|oldest tree|"
    "fastest animal|smallest bird|hottest planet]?", "Translate [hello|good morning|the cat|{thing}] [to|into] [french|german|spanish|italian].",
    "Write [a|me a] [python|java|rust|c|javascript] [program|function|script][| that sorts a list| that adds numbers| for a {thing}].", "Write a [poem|song|letter|joke|haiku] about [a |]{thing}.",
    "Tell me a joke[| about a {thing}].", "Who won the [world cup|election|match|race|nobel prize][| in {a}{b}]?", "What is the [price|value|history|colour|weight|name] of [a|the] {thing}?",
    "Summarise [this text|the book|the {thing}].", "What [should I|can I|do I] [eat|wear|read|cook|buy|watch|do] [today|tomorrow|tonight]?", "Do you [like|love|know|want] [a |]{thing}?",
    "do you [sleep|eat|dream|feel|think]?", "can you [sing|dance|fly|cook|drive|draw|paint]?", "why do [cats|dogs|birds|people|children|trees] [sleep|cry|run|sing|grow|laugh]?",
    "how [old|tall|heavy|far|deep] is [the moon|the sun|the earth|{person}|a {thing}]?", "when is [easter|christmas|the next train|my birthday|lunch]?", "is a {thing} [heavy|blue|alive|cheap|dangerous]?",
    "[best|cheapest|nearest] {thing}", "{thing}", "{thing} {thing2}", "recipe for {thing}", "I [lost|broke|love|hate|bought|ate] my {thing}", "my {thing} is [broken|old|blue|gone|too small]",
    "what [happened|happens] in [{a}{b}{b}{a}|{place}|the war|the book]?", "which {thing} is [best|better|cheaper]?", "[spell|define|rhyme with] {thing}", "count to {a}{b}",
    "what does {gibberish} mean?", "{gibberish}", "{gibberish} {gibberish2}", "how do I {gibberish} [a|the] {thing}?", "how do I {gibberish}?", "what is {gibberish}?", "is {gibberish} a {thing}?",
)  # fmt: skip
_SYLLABLES = (
    "ba",
    "ke",
    "lo",
    "zu",
    "qui",
    "tra",
    "fle",
    "mon",
    "xi",
    "gor",
    "pla",
    "wen",
    "sch",
    "urt",
    "ip",
    "dra",
    "ne",
    "vo",
    "tik",
    "yas",
    "om",
    "rub",
)


def _gibberish(rng: random.Random) -> str:
    return "".join(rng.choice(_SYLLABLES) for _ in range(rng.randint(1, 4)))


def unknown_task(rng: random.Random) -> str:
    """A verb phrase that has nothing to do with rbee, for the frames of known questions."""
    return expand(f"{rng.choice(_VERBS)} {rng.choice(_THINGS)}", rng)


def unknown_question(rng: random.Random) -> str:
    """A whole question outside the model's knowledge."""
    template = rng.choice(_WHOLE)
    for slot, words in (("place", _PLACES), ("person", _PEOPLE), ("thing", _THINGS)):
        template = template.replace("{" + slot + "}", rng.choice(words)).replace("{" + slot + "2}", rng.choice(words))
    for slot in ("{gibberish}", "{gibberish2}"):
        template = template.replace(slot, _gibberish(rng))
    return expand(template.replace("{a}", str(rng.randint(1, 99))).replace("{b}", str(rng.randint(0, 9))), rng)
