"""Workers that have no process yet: asked for by a client, or due in the place of one that crashed.

Both are a `Start`; after a crash it has a time before which it does not begin. Where too many crashed none begins.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.events import Narration
from daemons.contracts.workers import HiveWorker, SpawnRequest, WorkerExit, WorkerState
from daemons.hive.core import events as ev
from daemons.hive.core.crashes import Crashes, Place, waiting_row
from daemons.hive.core.worker import WorkerRecord
from daemons.kit.policy import Policy

Effects = list[ev.Effect]


@dataclass(slots=True)
class Start:
    """A worker in the making, up to its process.

    `ticket` is that of the client that waits for it, None while nobody does; `said` is what was decided so far. `row`
    is how it is listed because it waits, or waited, for its time; `begun` says that this has come.
    """

    worker_id: str
    key: str = field(repr=False)
    request: SpawnRequest
    ticket: int | None = None
    said: list[Narration] = field(default_factory=list)
    row: HiveWorker | None = None
    begun: bool = True

    def refused(self, error: RbeeError) -> Effects:
        """Answers to whoever waits."""
        return [] if self.ticket is None else [ev.Refuse(self.ticket, error)]


class Starts:
    """All of them, with the crashes that put them off."""

    def __init__(self, node: str, policy: Policy) -> None:
        self._actor = f"hive {node}"
        self._rule = policy.restart_rule
        self._starts: dict[str, Start] = {}
        self._crashes: dict[Place, Crashes] = {}

    def __bool__(self) -> bool:
        return bool(self._starts)

    def get(self, worker_id: str) -> Start | None:
        return self._starts.get(worker_id)

    def pop(self, worker_id: str) -> Start:
        return self._starts.pop(worker_id)

    @property
    def rows(self) -> list[HiveWorker]:
        """Rows of what waits after a crash, and of what failed."""
        waiting = [start.row for start in self._starts.values() if start.row is not None]
        return waiting + [crashes.failed_row for crashes in self._crashes.values() if crashes.failed_row is not None]

    def crashes_at(self, place: Place, at: float) -> int:
        """Crashes there that still count."""
        crashes = self._crashes.get(place)
        return crashes.count(at) if crashes else 0

    def failed(self, model_ref: str) -> list[Place]:
        """Where this model crashed too often."""
        return [place for place, crashes in self._crashes.items() if crashes.failed and place.model_ref == model_ref]

    def refusal(self, place: Place) -> RbeeError:
        """WORKER_CRASH_LOOP, for a place that failed."""
        return self._crashes[place].refusal()

    # -- what happens ---------------------------------------------------------------------------------------------

    def asked(self, event: ev.SpawnAsked) -> Effects:
        """A client wants a worker."""
        self._starts[event.worker_id] = Start(event.worker_id, event.key, event.request, event.ticket)
        return [ev.Preflight(event.worker_id, event.request)]

    def put_off(self, start: Start, row: HiveWorker, at: float) -> Effects:
        """What is done instead of starting `row` now, because workers crashed in its place; nothing: it may start.

        A client that asks while a start is due there that nobody waits for takes that one over, with its own wishes.
        """
        crashes = self._crashes.get(Place.of(row))
        if crashes is None or start.row is not None:
            return []
        due = self._unclaimed(crashes.place)
        if due is not None:
            del self._starts[start.worker_id]
            due.ticket, due.request = start.ticket, start.request
            return [self._tell(due, crashes, at)]
        wait_s = crashes.wait_s(at)
        if wait_s <= 0:
            return []
        return [*self._wait(start, row, crashes, at), self._tell(start, crashes, at)]

    def crashed(self, record: WorkerRecord, exit_: WorkerExit, successor: tuple[str, str]) -> Effects:
        """A worker crashed: its successor (id and key) is started after a wait, or the place has failed."""
        place = Place.of(record.row)
        crashes = self._crashes.setdefault(place, Crashes(place, self._rule))
        crashes.note(exit_)
        worker_id, key = successor
        row = record.row.model_copy(update={"id": worker_id, "key": key})
        if crashes.failed:
            return self._fail(crashes, row)
        start = self._starts[worker_id] = Start(worker_id, key, record.request)
        wait_s = crashes.wait_s(exit_.ended_at)
        text = f"{place} {crashes.story}; it is started again in {wait_s:g} s as {worker_id}"
        figures = {"worker": worker_id, "crashes": crashes.count(exit_.ended_at), "wait_s": wait_s}
        return [*self._wait(start, row, crashes, exit_.ended_at), ev.Say(text, figures)]

    def begin_due(self, at: float) -> Effects:
        """Begin what has waited long enough."""
        due = [start for start in self._waiting() if at >= _row_of(start).starts_at]
        for start in due:
            start.begun = True
        return [ev.Preflight(start.worker_id, start.request) for start in due]

    def shut_down(self, worker_id: str, ticket: int) -> Effects | None:
        """A person ends what waits, or clears what failed: the crashes there are forgotten. None: no such row."""
        row = next((found for found in self.rows if found.id == worker_id), None)
        if row is None:
            return None
        self._crashes.pop(Place.of(row), None)
        start = self._starts.pop(worker_id, None)
        cancelled = RbeeError(
            Code.WORKER_START_FAILED,
            f"worker {worker_id} was shut down while {row.model_ref} waited to be started again",
            details={"worker": worker_id, "model": row.model_ref},
        )
        said = ev.Say(f"{worker_id} is shut down: the crashes of {Place.of(row)} are forgotten", {"worker": worker_id})
        return [*(start.refused(cancelled) if start else []), ev.Reply(ticket, row), said, ev.Publish()]

    def drop_waiting(self, error: RbeeError, place: Place | None = None) -> Effects:
        """Give up what waits for its time (at one place, or everywhere)."""
        dropped = [start for start in self._waiting() if place is None or place == Place.of(_row_of(start))]
        for start in dropped:
            del self._starts[start.worker_id]
        return [effect for start in dropped for effect in start.refused(error)]

    # -- how ------------------------------------------------------------------------------------------------------

    def _waiting(self) -> Iterator[Start]:
        return (start for start in list(self._starts.values()) if not start.begun)

    def _unclaimed(self, place: Place) -> Start | None:
        waiting: Sequence[Start] = [start for start in self._waiting() if start.ticket is None]
        return next((start for start in waiting if Place.of(_row_of(start)) == place), None)

    def _wait(self, start: Start, row: HiveWorker, crashes: Crashes, at: float) -> Effects:
        start.begun = False
        start.row = waiting_row(
            row, WorkerState.RESTARTING, crashes.count(at), crashes.story, starts_at=crashes.next_start_at
        )
        return [ev.WakeAfter(crashes.wait_s(at)), ev.Publish()]

    def _tell(self, start: Start, crashes: Crashes, at: float) -> ev.Say:
        """Say to who waits how long that takes, and why."""
        wait_s = max(0.0, _row_of(start).starts_at - at)
        text = f"{crashes.place} {crashes.story}; it is started again in {wait_s:.1f} s"
        figures = {"worker": start.worker_id, "crashes": crashes.count(at), "wait_s": round(wait_s, 3)}
        start.said.append(Narration(actor=self._actor, text=text, fields=figures))
        return ev.Say(text, figures)

    def _fail(self, crashes: Crashes, row: HiveWorker) -> Effects:
        if crashes.failed_row is None:
            crashes.fail(row)
        dropped = self.drop_waiting(crashes.refusal(), crashes.place)
        text = f"{crashes.place} {crashes.story}; it is not started again"
        return [*dropped, ev.Say(text, {"worker": row.id, "code": Code.WORKER_CRASH_LOOP.value}), ev.Publish()]


def _row_of(start: Start) -> HiveWorker:
    assert start.row is not None
    return start.row
