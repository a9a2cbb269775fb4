"""The books' comparison: what is right passes, and every requirement can be missed."""

import time
from typing import Any

import pytest

from daemons.contracts.errors import Code
from tests.chaos.audit import Audit
from tests.chaos.ledger import End, Ledger, Story, Struck
from tests.chaos.legitimate import CAUSES, unexplained
from tests.chaos.plan import Behaviour, Fault, Kind, Strike

TEXT = "Once there was a hive."
REFERENCES = {"p": TEXT}


def story_of(ledger: Ledger, kind: Kind = Kind.ATTACHED) -> Story:
    story = ledger.begins(Behaviour(kind, 0, 20, None, 5, 1.0, 0.1), "p")
    story.accepted("task-1", 7)
    return story


def done(story: Story, text: str = TEXT) -> Story:
    story.takes(1, "token", {"token": text, "index": 0})
    story.takes(2, "done", {"total_tokens": 1, "finish_reason": "stop"})
    return story


def row_of(story: Story, **changes: Any) -> dict[str, Any]:
    row = {"id": story.task_id, "request_id": story.request_id, "state": "completed", "tokens": 1}
    times = {"created_at": story.sent_at, "ended_at": story.ended_at}
    return {**row, "finish_reason": "stop", "error": None, **times, **changes}


def error(code: str, message: str = "it ended") -> dict[str, Any]:
    return {"code": code, "message": message}


def found(ledger: Ledger, *rows: dict[str, Any]) -> list[str]:
    return [finding.requirement for finding in Audit(ledger, rows, REFERENCES).findings()]


def happened(ledger: Ledger, fault: Fault, node: str = "local", ago_s: float = 0.01) -> None:
    now = time.time() - ago_s
    ledger.struck.append(Struck(Strike(1.0, fault, node, 1.0, 0), now, now))


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


def test_books_that_agree_show_nothing(ledger: Ledger) -> None:
    assert found(ledger, row_of(done(story_of(ledger)))) == []


def test_a_request_has_to_end(ledger: Ledger) -> None:
    assert found(ledger, row_of(story_of(ledger))) == ["a request did not end"]


def test_a_request_ends_once_and_its_events_have_no_gap_and_no_double(ledger: Ledger) -> None:
    story = done(story_of(ledger))
    story.takes(3, "error", error("INTERNAL"))
    assert len(found(ledger, row_of(story))) == 2
    for number, index in ((3, 1), (1, 1), (2, 0)):
        other = Ledger()
        story = story_of(other)
        story.takes(1, "token", {"token": TEXT, "index": 0})
        story.takes(number, "token", {"token": "", "index": index})
        story.takes(number + 1, "done", {"total_tokens": 2, "finish_reason": "stop"})
        assert found(other, row_of(story, tokens=2)), (number, index)


def test_a_first_token_that_is_not_the_first_is_a_breach_but_not_behind_a_snapshot(ledger: Ledger) -> None:
    story = story_of(ledger)
    story.takes(1, "token", {"token": TEXT, "index": 3})
    assert story.faults
    whole = story_of(Ledger())
    whole.takes(9, "snapshot", {"text": "Once", "index": 1})
    whole.takes(10, "token", {"token": " there", "index": 1})
    assert (whole.text, whole.tokens, whole.faults) == ("Once there", 2, [])


def test_another_queen_may_number_from_anywhere_once(ledger: Ledger) -> None:
    story = story_of(ledger)
    story.takes(1, "narration", {})
    story.comes_back_to_another_queen(8)
    story.takes(5, "narration", {})
    assert not story.faults
    story.takes(7, "narration", {})
    assert story.faults


def test_a_text_that_differs_from_that_on_a_quiet_fleet_is_found(ledger: Ledger) -> None:
    (told,) = found(ledger, row_of(done(story_of(ledger), "Once there were hives.")))
    assert "from character 12 on" in told


@pytest.mark.parametrize(
    "changes",
    [{"tokens": 2}, {"finish_reason": "length"}, {"state": "failed", "error": error("QUEEN_RESTARTED")}],
    ids=["tokens", "finish reason", "state"],
)
def test_history_that_contradicts_the_client_is_found(ledger: Ledger, changes: dict[str, Any]) -> None:
    assert found(ledger, row_of(done(story_of(ledger)), **changes))


def test_history_may_be_behind_only_right_before_the_queen_was_killed(ledger: Ledger) -> None:
    story = done(story_of(ledger))
    row = row_of(story, state="failed", error=error("QUEEN_RESTARTED"))
    happened(ledger, Fault.KILL_QUEEN)
    assert found(ledger, row) == []
    assert found(ledger) == []
    ledger.struck.clear()
    happened(ledger, Fault.KILL_QUEEN, ago_s=5.0)
    (told,) = found(ledger, row)
    assert told.startswith("history says failed QUEEN_RESTARTED")
    assert found(ledger) == ["an accepted request is in no history"]


def test_an_error_needs_a_message_a_cause_and_the_same_in_history(ledger: Ledger) -> None:
    story = story_of(ledger)
    story.takes(1, "error", error("WORKER_CRASHED"))
    row = row_of(story, state="failed", error=error("WORKER_CRASHED"))
    assert len(found(ledger, row)) == 2
    happened(ledger, Fault.KILL_WORKER)
    assert found(ledger, row) == []
    assert found(ledger, row_of(story, state="failed", error=error("UPSTREAM_LOST")))
    ledger.struck.clear()
    happened(ledger, Fault.KILL_WORKER, ago_s=60.0)
    assert len(found(ledger, row)) == 2
    happened(ledger, Fault.KILL_WORKER)
    story.error["message"] = ""
    assert found(ledger, row) == ["an error without a message"]


@pytest.mark.parametrize("end", [End.BROKEN, End.SILENT, End.UNANSWERED])
def test_a_connection_may_be_lost_only_while_the_queen_is_away(ledger: Ledger, end: End) -> None:
    story = story_of(ledger)
    story.ends(end, why="gone")
    row = row_of(story, state="cancelled", error=error("CANCELLED"))
    assert found(ledger, row) == ["a connection was lost (gone) while the queen was there"]
    happened(ledger, Fault.RESTART_QUEEN)
    assert found(ledger, row) == []


def test_a_task_that_is_not_over_or_twice_or_ran_again_is_found(ledger: Ledger) -> None:
    story = done(story_of(ledger))
    row = row_of(story)
    assert found(ledger, {**row, "state": "running"})[-1] == "a task is not over in history"
    assert found(ledger, row, row) == ["a request is twice in history", "a request ran twice"]
    ledger.history[row["id"]] = row
    assert found(ledger, row) == []
    later = {**row, "ended_at": row["ended_at"] + 9.0}
    assert found(ledger, later) == ["a task that was over ran again"]
    happened(ledger, Fault.TRUNCATE_QUEEN_WAL, ago_s=-1.0)
    assert found(ledger, later) == []


def test_a_persons_command_that_failed_without_a_reason_is_found(ledger: Ledger) -> None:
    ledger.commands.append("rbee infer -> 1")
    assert found(ledger) == ["a person's command failed for no reason that a fault explains"]


def test_a_defect_is_no_end_and_an_unknown_code_is_none_either() -> None:
    assert Code.INTERNAL not in CAUSES
    for code in (Code.INTERNAL, Code.ENGINE_FAILED, "BEES", ""):
        assert unexplained(code, Kind.ATTACHED, frozenset(Fault))
    assert not unexplained(Code.CANCELLED, Kind.CANCEL, frozenset())
    assert unexplained(Code.CANCELLED, Kind.ATTACHED, frozenset(Fault))
