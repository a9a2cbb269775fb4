"""An answer as it comes: tokens to stdout, everything else to stderr, and what it cost at its end."""

from daemons.contracts.events import Narration, Progress, Token
from daemons.contracts.inference import FinishReason, Usage
from rbee_tui.cli.screen import Screen
from rbee_tui.keeper.infer import PARTIAL_FILE, Answer, AnswerEvent

WHEN_FULL = "more: --ctx N, which starts a new worker"


class AnswerPrinter:
    """Call it with each event. With --json nothing is printed until `finish`.

    `terse` leaves out the sentences of others unless figures are wanted, too: a conversation is read, not watched.
    `kept` says where the text of an answer is that was cancelled.
    """

    def __init__(self, screen: Screen, *, terse: bool = False) -> None:
        self._screen = screen
        self._terse = terse and not screen.verbose
        self._parts: list[str] = []
        self._loading = False
        self.tokens = 0
        self.kept = ""

    @property
    def text(self) -> str:
        """What came so far."""
        return "".join(self._parts)

    def cancelled(self) -> str:
        """How far it was when Ctrl+C came: ``cancelled after 3 tokens``, or what it waited for."""
        if self.tokens:
            return f"cancelled after {self.tokens} {'token' if self.tokens == 1 else 'tokens'}"
        if self._loading:
            return "cancelled while the model was being loaded; `rbee ps` shows whether that goes on"
        return "cancelled before the first token"

    def __call__(self, event: AnswerEvent) -> None:
        if isinstance(event, Narration) and PARTIAL_FILE in event.fields:
            self.kept = event.text  # the last thing that happens; said together with why
            return
        self._loading = isinstance(event, Progress) and event.stage == "loading" and event.done < event.total
        if isinstance(event, Token):
            self._parts.append(event.token)
            self.tokens = max(self.tokens, event.index) + 1  # some tokens have no text of their own
            if not self._screen.as_json:
                self._screen.write(event.token)
        elif isinstance(event, Progress):
            self._screen.progress(event)
        elif not self._terse:
            self._screen.narrate(event)

    def finish(
        self, answer: Answer, *, model: str, max_tokens: int, request_id: str, when_full: str = WHEN_FULL
    ) -> None:
        """The end of the line and the figures; with --json the whole answer as one object.

        `when_full` is what to do when the context left no room for `max_tokens`.
        """
        if self._screen.as_json:
            self._screen.json(
                {
                    "task_id": answer.task_id,
                    "model": model,
                    "text": answer.text,
                    **answer.done.model_dump(mode="json", exclude={"done"}),
                    "ttft_ms": round(answer.ttft_ms, 3),
                    "request_id": request_id,
                }
            )
        else:
            self._screen.end_line()
        self._screen.narrate(cost(answer, max_tokens, when_full))


def cost(answer: Answer, max_tokens: int, when_full: str) -> Narration:
    """Tokens, tokens per second, time to first token, and what cut the answer off, in a sentence."""
    done, timings = answer.done, answer.done.timings
    cut = f", {_limit(done.usage, max_tokens, when_full)}" if done.finish_reason is FinishReason.LENGTH else ""
    first = f"{answer.ttft_ms:.0f} ms" if answer.ttft_ms < 1000 else f"{answer.ttft_ms / 1000:.1f} s"
    return Narration(
        actor="keeper",
        text=(
            f"{done.usage.completion_tokens} tokens, {timings.tokens_per_second:.1f} tok/s, "
            f"first token after {first}{cut}"
        ),
        fields={**done.usage.model_dump(), **timings.model_dump(), "task": answer.task_id},
    )


def _limit(usage: Usage, max_tokens: int, when_full: str) -> str:
    """Which of the two limits it was: an answer ends at --max-tokens, or where prompt and answer fill the context."""
    if usage.completion_tokens >= max_tokens:
        return "stopped at the limit of tokens (more: --max-tokens N)"
    prompt, answer = usage.prompt_tokens, usage.completion_tokens
    return (
        f"stopped because the worker's context of {prompt + answer} tokens is full: "
        f"{prompt} of the prompt, {answer} of the answer ({when_full})"
    )
