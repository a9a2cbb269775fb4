"""The ways people really type: other words, words around the question, case, missing articles, typos."""

from __future__ import annotations

import random
import re

SYNONYMS: tuple[tuple[str, ...], ...] = (
    ("see", "show", "view", "display", "look at", "inspect"),
    ("remove", "delete", "drop", "erase", "get rid of", "discard", "take away", "throw out"),
    ("start", "launch", "fire up", "spin up", "bring up", "kick off", "boot", "begin"),
    ("stop", "kill", "terminate", "shut down", "halt", "quit", "turn off"),
    ("download", "pull", "fetch", "grab", "obtain", "get hold of"),
    ("node", "machine", "computer", "box", "server", "rig", "workstation"),
    ("nodes", "machines", "computers", "boxes", "servers", "rigs", "workstations"),
    ("change", "edit", "modify", "adjust", "alter", "tweak"),
    ("create", "make", "generate", "produce"),
    ("find out", "learn", "discover", "figure out", "know"),
    ("install", "deploy", "put"),
    ("model", "llm", "language model", "ai model"),
    ("models", "llms", "language models", "ai models"),
    ("gpu", "graphics card", "video card", "accelerator", "graphics processor"),
    ("gpus", "graphics cards", "video cards", "accelerators"),
    ("request", "call", "inference"),
    ("memory", "ram", "vram"),
    ("errors", "problems", "issues", "faults", "failures"),
    ("problem", "error", "issue", "fault", "trouble"),
    ("limit", "restrict", "cap", "bound"),
    ("answer", "reply", "response"),
    ("add", "register", "attach", "include", "connect", "introduce", "join"),
    ("check", "test", "verify", "examine", "probe"),
    ("settings", "options", "preferences", "configuration"),
    ("chat", "talk", "speak"),
    ("key", "access key", "api key", "credential"),
    ("new", "additional", "further", "extra", "fresh"),
    ("command", "instruction"),
    ("logs", "log files", "log", "log messages", "log output"),
    ("worker", "worker process", "model worker"),
    ("free", "available", "unused"),
    ("prompt", "question", "text"),
)
"""Groups of words that mean nearly the same in a question about rbee."""

BEFORE = (
    "hi, ",
    "hello, ",
    "hey, ",
    "please, ",
    "quick question: ",
    "sorry, ",
    "ok, ",
    "so, ",
    "I am new here. ",
    "One more thing: ",
    "excuse me, ",
    "I'm stuck. ",
    "now ",
    "and ",
    "well, ",
    "just curious, ",
    "rbee, ",
    "question: ",
    "ok so ",
    "um, ",
)
AFTER = (
    " please",
    " in rbee",
    " with rbee",
    " from the terminal",
    " on the command line",
    " right now",
    " quickly",
    " again",
    ", please",
    " from here",
    " on linux",
    " with a command",
    " today",
    " exactly",
    " easily",
    " myself",
    " then",
    " for me",
    " thanks",
    " somehow",
)

_ARTICLE = re.compile(r"\b(the|a|an|my|some) ")
_ALIKE = {word: group for group in SYNONYMS for word in group}
_WORD = re.compile(r"\b(" + "|".join(sorted(_ALIKE, key=len, reverse=True)) + r")\b")


def reword(text: str, rng: random.Random) -> str:
    """Replace about a third of the words that have synonyms."""

    def choose(match: re.Match[str]) -> str:
        return rng.choice(_ALIKE[match.group()]) if rng.random() < 0.35 else match.group()

    return _WORD.sub(choose, text)


def _surround(text: str, rng: random.Random) -> str:
    if rng.random() < 0.5:
        return rng.choice(BEFORE) + text
    body = text.rstrip("?.! ")
    return body + rng.choice(AFTER) + text[len(body) :]


def _typo(text: str, rng: random.Random) -> str:
    """One slip of the finger: two letters swapped, one lost or one doubled."""
    if len(text) < 6:
        return text
    at = rng.randrange(1, len(text) - 2)
    swapped = text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    return rng.choice((swapped, text[:at] + text[at + 1 :], text[:at] + text[at] + text[at:]))


def _letter_case(text: str, roll: float) -> str:
    if roll < 0.15:
        return text.lower()
    if roll < 0.25:
        return text[0].upper() + text[1:]
    return text.upper() if roll < 0.265 else text


def noisy(text: str, rng: random.Random) -> str:
    """The question as somebody might type it; about a third of all questions come through unchanged."""
    if rng.random() < 0.4:
        text = reword(text, rng)
    if rng.random() < 0.12:
        text = _surround(text, rng)
    text = _letter_case(text, rng.random())
    if rng.random() < 0.08:
        text = _ARTICLE.sub("", text)
    if rng.random() < 0.12:
        text = text.rstrip("?.! ")
    elif rng.random() < 0.08:
        text = text.rstrip("?.! ") + "?"
    for _ in range(rng.choice((0, 0, 0, 0, 0, 0, 1, 1, 2))):
        text = _typo(text, rng)
    return text
