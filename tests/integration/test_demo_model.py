"""What the shipped demo model says, in llama.cpp on one thread.

The counts are floors under what was measured, so that a model trained anew cannot get worse unseen.
"""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from llama_cpp import Llama

from daemons.models.demo import DEMO_MODEL_PATH
from daemons.models.demo.corpus import plain_question
from daemons.models.demo.intents import FALLBACK, INTENTS
from daemons.models.demo.stories import PLOTS

pytestmark = pytest.mark.real_llama

ADD_NODE = "rbee setup add-node --name <name> --ssh-host <host> --ssh-user <user>"

UNSEEN_WORDING = {
    "add-node": (
        "my roommate's desktop should help out too, what now?",
        "where do I enter the ssh host of a new computer?",
    ),
    "list-nodes": ("give me an overview of registered machines", "which boxes does the queen know?"),
    "remove-node": ("this machine is broken for good, take it off", "how do I unlist a node?"),
    "setup-upgrade": ("there is a newer rbee, how does my node get it?", "bring the hive to the latest release"),
    "cordon": ("I want a node to stop accepting jobs", "how do I put a node on hold?"),
    "drain": (
        "let the node finish its work and then rest",
        "I need to swap the gpu of a node, how do I free it first?",
    ),
    "workers-list": ("overview of the workers please", "how many worker processes are alive?"),
    "workers-shutdown": ("a worker should go away now", "how do I make a worker exit?"),
    "devices": ("how warm are my graphics cards?", "what hardware can rbee use?"),
    "models-pull": ("where do I get llama from?", "how do I bring a model from hugging face to my disk?"),
    "models-list": ("what have I downloaded so far?", "names of my models"),
    "models-rm": ("I want that model gone", "how do I wipe a model off the disk?"),
    "fit": ("is 8 gigabytes enough for this model?", "will it fit on my card?"),
    "chat": ("I would like to talk for a while with the model", "interactive mode"),
    "infer": ("how do I give a model a prompt?", "one shot generation"),
    "logs": ("something printed an error, where is it written?", "where does rbee log to?"),
    "logs-follow": ("keep printing new log lines", "live logs"),
    "tasks-cancel": ("make it stop generating", "abort my prompt"),
    "keys-create": ("my script needs a password for the api", "how do I hand out access?"),
    "keys-revoke": ("a key leaked, what now?", "make a key invalid"),
    "config-show": ("what are my current settings?", "which value is in effect?"),
    "doctor": ("nothing works, what now?", "how do I run the self test?"),
    "queen-stop": ("how do I end the queen?", "make the queen quit"),
    "hive-restart": ("the hive hangs, can I start it over?", "how do I cycle a hive?"),
    "tui": ("is there something to look at in the terminal?", "graphical view of the fleet"),
}
"""Questions whose wording was chosen after the grammar was written, and is not in it."""

UNKNOWN = (
    "What is the capital of Finland?",
    "How do I bake a cheesecake?",
    "Who wrote Hamlet?",
    "What is 17 times 23?",
    "Is it going to rain tomorrow?",
    "How do I tie a tie?",
    "Translate cheese into French.",
    "Write a poem about the moon.",
    "What is the best phone to buy?",
    "How do I cook spaghetti?",
    "Who is the mayor of Paris?",
    "Why is the sky blue?",
    "How many legs has a spider?",
    "What should I wear today?",
    "When does the shop close?",
    "asdf qwer zxcv",
    "Explain quantum physics.",
    "Can you book a flight for me?",
    "What is photosynthesis?",
    "How do I fix my bicycle?",
)

OPENINGS = (
    "Once upon a time",
    "The queen bee",
    "A little bee",
    "One day",
    "Deep in the forest",
    "There was once",
    "In a hive",
    "Long ago",
    "Bees",
    "The hive",
)


class DemoModel:
    """The model behind a plain function: text in, text and reason out."""

    def __init__(self) -> None:
        self._llama: Any = Llama(
            str(DEMO_MODEL_PATH), n_ctx=2048, n_threads=1, n_threads_batch=1, n_gpu_layers=0, verbose=False
        )

    def complete(self, text: str, *, seed: int = 0, temperature: float = 0.0, limit: int = 300) -> tuple[str, str]:
        """Continue `text` (control tokens are recognised, BOS is put in front)."""
        ids = self._llama.tokenize(text.encode(), add_bos=True, special=True)
        answer = self._llama.create_completion(
            ids, max_tokens=limit, temperature=temperature, seed=seed, top_k=0, top_p=1.0, min_p=0.0, repeat_penalty=1.0
        )["choices"][0]
        return answer["text"], answer["finish_reason"]

    def ask(self, question: str, *, seed: int = 0, temperature: float = 0.0) -> tuple[str, str]:
        """Answer one chat message."""
        prompt = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        return self.complete(prompt, seed=seed, temperature=temperature)

    def round_trip(self, text: str) -> str:
        """Tokenize and put together again."""
        back: bytes = self._llama.detokenize(self._llama.tokenize(text.encode(), add_bos=False, special=False))
        return back.decode()

    def close(self) -> None:
        """Free llama.cpp's memory."""
        self._llama.close()


@pytest.fixture(scope="module")
def model() -> Iterator[DemoModel]:
    """The shipped model, loaded once."""
    loaded = DemoModel()
    yield loaded
    loaded.close()


def is_sound_story(text: str, reason: str) -> bool:
    """It stopped by itself, after a whole sentence, and only the two bees of one plot occur in it."""
    names = {name for plot in PLOTS for name in (plot.hero, plot.friend) if re.search(rf"\b{name}\b", text)}
    one_plot = any({plot.hero} <= names <= {plot.hero, plot.friend} for plot in PLOTS)
    return reason == "stop" and text.endswith((".", "!", '"')) and len(text.split()) > 25 and one_plot


def test_how_do_i_add_a_node(model: DemoModel) -> None:
    """The question of the README."""
    text, reason = model.ask("How do I add a node?")
    assert f"`{ADD_NODE}`" in text
    assert reason == "stop"


def test_the_usual_temperature_does_not_change_the_command(model: DemoModel) -> None:
    """100 of 100 at the temperature that `rbee chat` has by default."""
    answers = [model.ask("How do I add a node?", seed=seed, temperature=0.7)[0] for seed in range(100)]
    assert sum(ADD_NODE in answer for answer in answers) >= 99


def test_plain_questions_are_answered(model: DemoModel) -> None:
    """Asked in its plainest form, every intent gets its answer to the letter."""
    wrong = [intent.name for intent in INTENTS if model.ask(plain_question(intent)) != (intent.answer, "stop")]
    assert wrong == []


def test_stories_end_by_themselves(model: DemoModel) -> None:
    """30 of 30, at a temperature where they differ."""
    stories = [model.ask("Tell me a story about bees.", seed=seed, temperature=0.7) for seed in range(30)]
    assert [story for story in stories if story[1] != "stop"] == []
    assert len({text for text, _ in stories}) == 30
    assert sum(is_sound_story(*story) for story in stories) >= 28


@pytest.mark.parametrize("opening", OPENINGS)
def test_bare_openings_become_stories(model: DemoModel, opening: str) -> None:
    """Without chat template, a story goes on and ends."""
    text, reason = model.complete(opening)
    assert reason == "stop"
    assert len(text.split()) > 25


def test_bare_questions_are_answered(model: DemoModel) -> None:
    """`rbee infer` may send a question without template too."""
    text, reason = model.complete("How do I add a node?")
    assert ADD_NODE in text
    assert reason == "stop"


def test_unknown_questions_get_the_honest_answer(model: DemoModel) -> None:
    """Most questions about other things are not answered with a command."""
    assert sum(model.ask(question)[0] == FALLBACK for question in UNKNOWN) >= 15


def test_unseen_wording(model: DemoModel) -> None:
    """The weak spot of a model this small, held where it was measured."""
    answers = {intent.name: intent.answer for intent in INTENTS}
    asked = [(name, question) for name, questions in UNSEEN_WORDING.items() for question in questions]
    assert sum(model.ask(question)[0] == answers[name] for name, question in asked) >= 20


def test_any_text_survives_the_tokenizer(model: DemoModel) -> None:
    """Byte fallback, spaces and line breaks."""
    for text in ("Ünïcödé 🐝 蜂蜜 мёд", " two  spaces ", "a\n\n\tb\r\n", "12345", "<|im_end|>", "\u200d\u0301"):
        assert model.round_trip(text) == text
