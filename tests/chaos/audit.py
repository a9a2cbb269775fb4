"""Compares what clients saw with what the queen kept, and both with what may happen. Pure, but for asking the queen.

Every finding is a sentence with ids: the requirement that was missed, and the evidence.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from daemons.contracts.tasks import ENDED
from tests.chaos.ledger import End, Ledger, Story, Struck
from tests.chaos.legitimate import unexplained
from tests.chaos.plan import OF_THE_QUEEN, Fault, Kind

Row = dict[str, Any]

NOT_KEPT_S: Final = 1.0
"""A queen stores the end of a task a quarter of a second later. So long before a kill -9 its history may be behind."""

AFTERMATH_S: Final = 20.0
"""So long after it was healed a fault may still be why a request ends: restarts wait, stalls are seen late."""

_FORGET: Final = frozenset({Fault.CORRUPT_QUEEN, Fault.TRUNCATE_QUEEN_WAL})
"""Faults after which a queen may have begun a new history, or one with a shorter past."""

_SUDDEN: Final = frozenset({Fault.KILL_QUEEN}) | _FORGET
_AWAY: Final = OF_THE_QUEEN


@dataclass(frozen=True, slots=True)
class Finding:
    """A requirement that was missed, and what shows it."""

    requirement: str
    evidence: str

    def __str__(self) -> str:
        return f"{self.requirement}: {self.evidence}"


class Audit:
    """One look at everything. `rows` is the queen's whole history, `references` what each prompt is answered."""

    def __init__(self, ledger: Ledger, rows: Sequence[Row], references: Mapping[str, str]) -> None:
        self._ledger = ledger
        self._rows = ledger.history | {str(row["id"]): row for row in rows}
        self._all_rows = rows
        self._references = references
        self.not_kept: list[Story] = []
        """Requests whose end was told right before the queen was killed, and never stored."""

    def findings(self) -> Iterator[Finding]:
        """Everything that is not as it has to be."""
        for story in self._ledger.stories:
            for text in self._of_story(story):
                yield Finding(text, str(story))
        yield from self._of_rows()
        for command in self._ledger.commands:
            yield Finding("a person's command failed for no reason that a fault explains", command)

    # -- what a client saw -----------------------------------------------------------------------------------------

    def _of_story(self, story: Story) -> Iterator[str]:
        yield from (f"a client saw {fault}" for fault in story.faults)
        if story.end is None:
            yield "a request did not end"
            return
        if story.end in (End.ERROR, End.REFUSED):
            yield from self._of_error(story)
        if story.end is End.DONE:
            yield from self._of_text(story)
        if story.end in (End.BROKEN, End.SILENT, End.UNANSWERED) and not self._queen_was_away(story):
            yield f"a connection was lost ({story.why}) while the queen was there"
        yield from self._of_history(story)

    def _of_error(self, story: Story) -> Iterator[str]:
        if not story.error.get("message"):
            yield "an error without a message"
        if unexplained(story.code, story.kind, self._faults_about(story.sent_at, story.ended_at)):
            yield f"no fault explains {story.code}: {story.error.get('message')}"

    def _of_text(self, story: Story) -> Iterator[str]:
        reference = self._references[story.prompt]
        if not reference.startswith(story.text):
            yield f"the text differs from that on a quiet fleet: {_difference(reference, story.text)}"
        total = story.done.get("total_tokens")
        if total is not None and total < story.tokens:
            yield f"done counts {total} tokens, {story.tokens} came"

    def _of_history(self, story: Story) -> Iterator[str]:
        row = self._rows.get(story.task_id)
        if not story.task_id or story.end is End.REFUSED:
            return
        if row is None:
            if not self._may_be_forgotten(story):
                yield "an accepted request is in no history"
            return
        told = (row["state"], (row.get("error") or {}).get("code", ""))
        for expected in _expected(story, row):
            if not self._may_be_forgotten(story):
                yield f"history says {' '.join(told).strip()}, {row['tokens']} tokens; the client saw {expected}"

    def _queen_was_away(self, story: Story) -> bool:
        """Whether a fault of the queen, or a full disk under it, touches the time of the request."""
        end = story.ended_at + NOT_KEPT_S
        return any(_overlaps(struck, story.sent_at, end) for struck in self._struck(_AWAY))

    def _may_be_forgotten(self, story: Story) -> bool:
        sudden = (struck.began for struck in self._struck(_SUDDEN))
        at_once = any(story.accepted_at - 0.1 <= began <= story.ended_at + NOT_KEPT_S for began in sudden)
        lost = any(story.accepted_at <= struck.healed for struck in self._struck(_FORGET))
        full = any(
            _overlaps(struck, story.accepted_at, story.ended_at + NOT_KEPT_S)
            for struck in self._struck(frozenset({Fault.FILL_DISK}))
            if struck.strike.node == "local"
        )
        if at_once or lost or full:
            self.not_kept.append(story)
        return at_once or lost or full

    def _struck(self, faults: frozenset[Fault]) -> Iterator[Struck]:
        return (struck for struck in self._ledger.struck if struck.happened and struck.strike.fault in faults)

    def _faults_about(self, begin: float, end: float) -> frozenset[Fault]:
        """Faults that may have to do with what happened between these times."""
        struck = self._struck(frozenset(Fault))
        return frozenset(one.strike.fault for one in struck if _overlaps(one, begin, end, AFTERMATH_S))

    def _unexplained_row(self, row: Row, story: Story | None) -> bool:
        """Whether neither a fault nor what its client did explains the error of a row."""
        code = (row.get("error") or {}).get("code")
        if code is None:
            return False
        # A client that was cut off from the queen, or a keeper that was, has cancelled by its absence.
        left = story is None or story.end in (End.BROKEN, End.SILENT, End.UNANSWERED, End.LEFT) or story.code != code
        kind = Kind.VANISH if left and code == "CANCELLED" else story.kind if story else Kind.KEEPER
        return unexplained(code, kind, self._faults_about(row["created_at"], row["ended_at"]))

    def _ran_again(self, before: Row, now: Row) -> bool:
        """Whether a task that was over has a new end of its own, and not only counts as interrupted.

        A log that was cut looks like the log of a moment ago: nobody can tell that the task has been over.
        """
        code = (now.get("error") or {}).get("code")
        if before["ended_at"] == now["ended_at"] or code == "QUEEN_RESTARTED":
            return False
        cuts = self._struck(frozenset({Fault.TRUNCATE_QUEEN_WAL}))
        return not any(before["ended_at"] <= cut.began <= now["ended_at"] for cut in cuts)

    # -- what the queen kept ---------------------------------------------------------------------------------------

    def _of_rows(self) -> Iterator[Finding]:
        tries = {story.request_id: story for story in self._ledger.stories}
        for row in self._all_rows:
            if row["state"] not in ENDED:
                yield Finding("a task is not over in history", _short(row))
            elif row["state"] == "failed" and not (row.get("error") or {}).get("message"):
                yield Finding("a failed task has no message in history", _short(row))
            elif (before := self._ledger.history.get(row["id"])) and self._ran_again(before, row):
                yield Finding("a task that was over ran again", f"{_short(before)}; now {_short(row)}")
            elif self._unexplained_row(row, tries.get(row["request_id"])):
                yield Finding("no fault explains how a task ended in history", _short(row))
        for name, what in (("id", "is twice in history"), ("request_id", "ran twice")):
            counts = Counter(row[name] for row in self._all_rows if row["request_id"] in tries)
            for value, count in counts.items():
                if count > 1:
                    yield Finding(f"a request {what}", f"{name} {value}, {count} rows")


def _expected(story: Story, row: Row) -> Iterator[str]:
    """What the client saw that the row contradicts."""
    state, code = row["state"], (row.get("error") or {}).get("code", "")
    if story.end is End.DONE:
        if state != "completed":
            yield "done"
        else:
            for name, key in (("tokens", "total_tokens"), ("finish_reason", "finish_reason")):
                if key in story.done and row.get(name) != story.done[key]:
                    yield f"{name} {story.done[key]}"
    elif story.end is End.ERROR:
        right = "cancelled" if story.code == "CANCELLED" else "failed"
        if (state, code) != (right, story.code):
            yield f"error {story.code}"


def _overlaps(struck: Struck, begin: float, end: float, aftermath_s: float = NOT_KEPT_S) -> bool:
    healed = struck.healed or end
    return struck.began <= end and healed + aftermath_s >= begin


def _difference(right: str, seen: str) -> str:
    at = next((i for i, (a, b) in enumerate(zip(right, seen, strict=False)) if a != b), min(len(right), len(seen)))
    return f"from character {at} on it is {seen[at : at + 60]!r}, not {right[at : at + 60]!r}"


def _short(row: Row) -> str:
    names = ("id", "request_id", "state", "node", "worker_id", "created_at", "ended_at", "tokens", "detached", "error")
    return str({name: row.get(name) for name in names})
