"""Tasks that wait: interactive before batch, by rank within. The bound is kept by whoever adds."""

from bisect import bisect_left, insort
from collections.abc import Iterator

from daemons.contracts.tasks import Priority

_Entry = tuple[int, str]


class WaitingQueue:
    """Task ids in the order in which they are to be placed."""

    def __init__(self) -> None:
        self._lanes: dict[Priority, list[_Entry]] = {Priority.INTERACTIVE: [], Priority.BATCH: []}

    def __len__(self) -> int:
        return sum(len(lane) for lane in self._lanes.values())

    def __iter__(self) -> Iterator[str]:
        """Ids, first to be placed first; the queue may change while one iterates."""
        return iter([task_id for lane in self._lanes.values() for _, task_id in lane])

    def add(self, task_id: str, priority: Priority, order: int) -> None:
        """Put a task at its rank: one that had to come back stands where it stood."""
        insort(self._lanes[priority], (order, task_id))

    def remove(self, task_id: str, priority: Priority, order: int) -> bool:
        """Take a task out; False when it does not wait here."""
        lane = self._lanes[priority]
        at = bisect_left(lane, (order, task_id))
        if at < len(lane) and lane[at] == (order, task_id):
            del lane[at]
            return True
        return False

    def position(self, task_id: str, priority: Priority, order: int) -> int | None:
        """Place in the line from 1; None when it does not wait."""
        lane = self._lanes[priority]
        at = bisect_left(lane, (order, task_id))
        if at == len(lane) or lane[at] != (order, task_id):
            return None
        ahead = len(self._lanes[Priority.INTERACTIVE]) if priority is Priority.BATCH else 0
        return ahead + at + 1
