"""The waiting line keeps priority, rank and positions."""

from hypothesis import given
from hypothesis import strategies as st

from daemons.contracts.tasks import Priority
from daemons.queen.core.queue import WaitingQueue

_ENTRIES = st.lists(st.tuples(st.sampled_from(Priority), st.integers(0, 50)), unique_by=lambda entry: entry[1])


def test_interactive_stands_before_batch_and_rank_counts_within() -> None:
    """A batch task that came first is still placed after every interactive one."""
    queue = WaitingQueue()
    queue.add("b1", Priority.BATCH, 1)
    queue.add("i3", Priority.INTERACTIVE, 3)
    queue.add("i2", Priority.INTERACTIVE, 2)
    assert list(queue) == ["i2", "i3", "b1"]
    assert queue.position("b1", Priority.BATCH, 1) == 3
    assert queue.position("nobody", Priority.BATCH, 9) is None


@given(_ENTRIES, st.data())
def test_positions_follow_the_order_of_iteration(entries: list[tuple[Priority, int]], data: st.DataObject) -> None:
    """Whatever was added and removed, iteration is sorted and positions count from 1 without gaps."""
    queue = WaitingQueue()
    for priority, order in entries:
        queue.add(f"t{order}", priority, order)
    removed = data.draw(st.sets(st.sampled_from(entries))) if entries else set()
    for priority, order in removed:
        assert queue.remove(f"t{order}", priority, order)
        assert not queue.remove(f"t{order}", priority, order)
    left = sorted(set(entries) - removed, key=lambda entry: (entry[0] is Priority.BATCH, entry[1]))
    assert list(queue) == [f"t{order}" for _, order in left]
    assert [queue.position(f"t{o}", p, o) for p, o in left] == list(range(1, len(left) + 1))
    assert len(queue) == len(left)
