"""A conversation: its turns so far, and the next answer to them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.tasks import TaskRequest
from rbee_tui.keeper.infer import Answer, OnEvent, build_request, run_task
from rbee_tui.keeper.session import QueenSession

Turn = Mapping[str, str]
"""``{"role": "system" | "user" | "assistant", "content": text}``."""

LARGER_CONTEXT = "rbee chat --ctx N"


@dataclass(frozen=True, slots=True)
class Conversation:
    """The turns of a conversation with one model. `options` are further fields of each request (max_tokens, seed …)."""

    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    turns: tuple[Turn, ...] = ()

    @classmethod
    def begin(
        cls, model: str, *, system: str | None = None, options: Mapping[str, Any] | None = None
    ) -> "Conversation":
        turns: tuple[Turn, ...] = ({"role": "system", "content": system},) if system else ()
        return cls(model, dict(options or {}), turns)

    def exchanged(self, question: str, reply: str) -> "Conversation":
        """The conversation after one more question and its reply."""
        added: tuple[Turn, ...] = ({"role": "user", "content": question}, {"role": "assistant", "content": reply})
        return replace(self, turns=self.turns + added)

    def cleared(self) -> "Conversation":
        """The same conversation before its first question; the system prompt stays."""
        return replace(self, turns=tuple(turn for turn in self.turns if turn["role"] == "system"))

    def request(self, question: str) -> TaskRequest:
        """The request that asks `question` next. Raises as `infer.build_request` does."""
        messages = [*(dict(turn) for turn in self.turns), {"role": "user", "content": question}]
        return build_request(self.model, {**self.options, "messages": messages})


async def ask(
    session: QueenSession, conversation: Conversation, question: str, on_event: OnEvent, *, partials: Path
) -> tuple[Conversation, Answer]:
    """The model's answer to `question`, and the conversation with both in it.

    Raises as `infer.run_task` does; the hint of a CONTEXT_OVERFLOW is then one for a conversation.
    """
    try:
        answer = await run_task(session, conversation.request(question), on_event, partials=partials)
    except RbeeError as error:
        if error.code is Code.CONTEXT_OVERFLOW:
            error.hint = f"/new (starts over), or: {LARGER_CONTEXT}"
        raise
    return conversation.exchanged(question, answer.text), answer
