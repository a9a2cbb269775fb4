"""What each client saw of each of its requests, written down as it came; and what was done to the fleet meanwhile."""

import secrets
import time
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tests.chaos.plan import Behaviour, Kind, Strike


class End(StrEnum):
    """How a request ended for its client."""

    DONE = "done"
    ERROR = "error"
    """An error event, or the error of an answer in one piece."""
    REFUSED = "refused"
    """An HTTP status before anything else."""
    BROKEN = "broken"
    """The connection closed without an end event."""
    LEFT = "left"
    """The client went away, as it meant to."""
    UNANSWERED = "unanswered"
    """No answer at all came to the request."""
    SILENT = "silent"
    """Connected, but nothing came for longer than a client waits."""


@dataclass(slots=True)
class Story:
    """One request. Times are unix seconds. `faults` are breaches of the protocol that the client itself noticed.

    `resumed` lists how the client of a detached task lost it and came back. `last_number` is -1 while the next event
    may have any number; `last_id` is what the client gives as ``Last-Event-ID``.
    """

    behaviour: Behaviour
    prompt: str
    request_id: str = field(default_factory=lambda: f"chaos-{secrets.token_hex(6)}")
    sent_at: float = field(default_factory=time.time)
    task_id: str = ""
    accepted_at: float = 0.0
    queen_pid: int = 0
    ended_at: float = 0.0
    end: End | None = None
    error: dict[str, Any] = field(default_factory=dict)
    done: dict[str, Any] = field(default_factory=dict)
    why: str = ""
    parts: list[str] = field(default_factory=list)
    last_number: int = 0
    last_id: int = 0
    last_index: int = -1
    tokens: int = 0
    resumed: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def kind(self) -> Kind:
        return self.behaviour.kind

    @property
    def text(self) -> str:
        return "".join(self.parts)

    @property
    def code(self) -> str:
        """Code of the error that the request ended with."""
        return str(self.error.get("code", ""))

    def accepted(self, task_id: str, queen_pid: int) -> None:
        """The queen answered: from now on the request has to end."""
        self.task_id, self.queen_pid, self.accepted_at = task_id, queen_pid, time.time()

    def ends(self, end: End, *, error: dict[str, Any] | None = None, why: str = "") -> None:
        """Note the end; a second one is a breach."""
        if self.end is not None:
            self.faults.append(f"ended as {self.end} and then as {end} {error or why}")
            return
        self.end, self.error, self.why, self.ended_at = end, error or {}, why, time.time()

    def takes(self, number: int, kind: str, data: dict[str, Any]) -> None:
        """Note one event of a task's stream and check it against those before."""
        if self.end is not None:
            self.faults.append(f"event {number} {kind} after the end ({self.end})")
        if kind == "snapshot":
            self.parts, self.tokens, self.last_index = [str(data["text"])], int(data["index"]), int(data["index"]) - 1
        elif self.last_number >= 0 and number != self.last_number + 1:
            self.faults.append(f"event {number} {kind} came after number {self.last_number}")
        self.last_number = self.last_id = number
        if kind == "token":
            self._takes_token(str(data["token"]), int(data["index"]))
        elif kind == "done":
            self.done = data
            self.ends(End.DONE)
        elif kind == "error":
            self.ends(End.ERROR, error=data)

    def _takes_token(self, text: str, index: int) -> None:
        if index <= self.last_index:
            self.faults.append(f"token {index} came after token {self.last_index}")
        elif self.last_index < 0 < index and not self.parts:
            self.faults.append(f"the first token that came has index {index}")
        self.parts.append(text)
        self.last_index = index
        self.tokens = max(self.tokens, index + 1)

    def comes_back_to_another_queen(self, queen_pid: int) -> None:
        """After a restart of the queen, events are numbered anew, from anywhere."""
        if queen_pid != self.queen_pid:
            self.queen_pid, self.last_number = queen_pid, -1

    def __str__(self) -> str:
        asked = f"{self.kind}, {self.behaviour.max_tokens} tokens, node {self.behaviour.node or 'any'}"
        how = f"{self.end or 'no end'} {self.code or self.why}".strip()
        resumed = f", came back {', '.join(self.resumed)}" if self.resumed else ""
        sent = time.strftime("%H:%M:%S", time.localtime(self.sent_at))
        lasted = f"{(self.ended_at or time.time()) - self.sent_at:.1f} s"
        return (
            f"{self.task_id or 'no task'} ({self.request_id}, {asked}) sent {sent}, after {lasted}: {how}, "
            f"{self.tokens} tokens{resumed}"
        )


@dataclass(slots=True)
class Struck:
    """A fault as it happened. `began` and `healed` are unix seconds; `note` says on whom, or why it could not be."""

    strike: Strike
    began: float
    healed: float = 0.0
    note: str = ""
    happened: bool = True

    def __str__(self) -> str:
        at = time.strftime("%H:%M:%S", time.localtime(self.began))
        return f"{at} {self.strike.fault} on {self.strike.node}: {self.note}"


@dataclass
class Ledger:
    """Everything that is to be compared at the end."""

    stories: list[Story] = field(default_factory=list)
    struck: list[Struck] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    """Commands of a person that went wrong in a way that no fault explains."""
    history: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Task id -> its row as the queen told it right before a fault that may cost her history."""
    queens: list[tuple[int, float]] = field(default_factory=list)
    """(pid, first seen at) of every queen there was, in order."""

    def begins(self, behaviour: Behaviour, prompt: str) -> Story:
        story = Story(behaviour, prompt)
        self.stories.append(story)
        return story

    def saw_queen(self, pid: int) -> None:
        if not self.queens or self.queens[-1][0] != pid:
            self.queens.append((pid, time.time()))

    def outcomes(self) -> dict[str, Counter[str]]:
        """Kind of request -> how often each outcome."""
        table: dict[str, Counter[str]] = {}
        for story in self.stories:
            outcome = f"{story.end or 'no end'} {story.code}".strip()
            table.setdefault(str(story.kind), Counter())[outcome] += 1
        return table

    def faults(self) -> Counter[str]:
        """Kind of fault -> how often it happened."""
        return Counter(str(struck.strike.fault) for struck in self.struck if struck.happened)
