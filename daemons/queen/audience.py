"""Whom a sentence or an event reaches: the log, and the readers of the tasks that it is about."""

import time
from collections.abc import Iterable

from daemons.contracts.events import Narration
from daemons.kit.logs import get_logger
from daemons.queen.core.state import State
from daemons.queen.tasks import TaskBook, TaskRecord


class Audience:
    """Tells tasks what is done for them."""

    def __init__(self, state: State, book: TaskBook) -> None:
        self._state = state
        self._book = book

    def say(self, record: TaskRecord, actor: str, text: str, **fields: object) -> None:
        """One sentence about one task."""
        self._tell([record], Narration(actor=actor, text=text, fields=fields))

    def tell_tasks(self, task_ids: Iterable[str], narration: Narration) -> None:
        """A sentence for tasks, of which those that are forgotten hear nothing."""
        records = [record for record in map(self._book.find, task_ids) if record is not None]
        if records:
            self._tell(records, narration)

    def tell_load(self, load_id: int, narration: Narration) -> None:
        """A sentence for all tasks that wait for a load."""
        self._tell(self.waiters(load_id), narration)

    def tell_node(self, node: str, text: str, **fields: object) -> None:
        """A sentence for all tasks that wait for a load on a node."""
        waiting = {record.id: record for load in self._state.loads_on(node) for record in self.waiters(load.id)}
        self._tell(list(waiting.values()), Narration(actor="queen", text=f"Node {node}: {text}", fields=fields))

    def pass_on_load(self, load_id: int, kind: str, raw: str) -> None:
        """An event, its data as one line of JSON, for all tasks that wait for a load."""
        for record in self.waiters(load_id):
            if not record.events.closed:
                record.events.add(kind, raw)

    def waiters(self, load_id: int) -> list[TaskRecord]:
        """The tasks that wait for a load."""
        load = self._state.loads.get(load_id)
        records = (self._book.find(task_id) for task_id in (load.waiters if load else ()))
        return [record for record in records if record is not None]

    def _tell(self, records: list[TaskRecord], narration: Narration) -> None:
        ids = {"request_id": records[0].row.request_id, "task": records[0].id} if records else {}
        get_logger().info(narration.text, **{**narration.fields, **ids, "actor": narration.actor})
        at = time.time()
        for record in records:
            record.say(narration, at)
