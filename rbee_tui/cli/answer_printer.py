"""An answer as it comes: tokens to stdout, everything else to stderr, and what it cost at its end."""

from daemons.contracts.events import Narration, Progress, Token
from daemons.contracts.inference import FinishReason
from rbee_tui.cli.screen import Screen
from rbee_tui.keeper.infer import Answer, AnswerEvent


class AnswerPrinter:
    """Call it with each event. With --json nothing is printed until `finish`.

    `terse` leaves out the sentences of others unless figures are wanted, too: a conversation is read, not watched.
    """

    def __init__(self, screen: Screen, *, terse: bool = False) -> None:
        self._screen = screen
        self._terse = terse and not screen.verbose
        self._parts: list[str] = []
        self.tokens = 0

    @property
    def text(self) -> str:
        """What came so far."""
        return "".join(self._parts)

    def __call__(self, event: AnswerEvent) -> None:
        if isinstance(event, Token):
            self._parts.append(event.token)
            self.tokens = max(self.tokens, event.index) + 1  # some tokens have no text of their own
            if not self._screen.as_json:
                self._screen.write(event.token)
        elif isinstance(event, Progress):
            self._screen.progress(event)
        elif not self._terse:
            self._screen.narrate(event)

    def finish(self, answer: Answer, *, model: str, request_id: str) -> None:
        """The end of the line and the figures; with --json the whole answer as one object."""
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
        self._screen.narrate(cost(answer))


def cost(answer: Answer) -> Narration:
    """Tokens, tokens per second and time to first token, in a sentence."""
    done, timings = answer.done, answer.done.timings
    cut = ", stopped at the limit of tokens (more: --max-tokens N)" if done.finish_reason is FinishReason.LENGTH else ""
    first = f"{answer.ttft_ms:.0f} ms" if answer.ttft_ms < 1000 else f"{answer.ttft_ms / 1000:.1f} s"
    return Narration(
        actor="keeper",
        text=(
            f"{done.usage.completion_tokens} tokens, {timings.tokens_per_second:.1f} tok/s, "
            f"first token after {first}{cut}"
        ),
        fields={**done.usage.model_dump(), **timings.model_dump(), "task": answer.task_id},
    )
