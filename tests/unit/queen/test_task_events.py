"""A task's events: numbered without gaps, resumable, bounded, read by many."""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemons.queen.task_events import TaskEvents


def _parsed(chunk: bytes) -> list[tuple[int, str, dict[str, object]]]:
    """(number, type, data) of every event in a chunk."""
    rows = []
    for block in chunk.decode().split("\n\n")[:-1]:
        number, kind, data = block.split("\n")
        rows.append((int(number.removeprefix("id: ")), kind.removeprefix("event: "), json.loads(data[6:])))
    return rows


def _token(index: int, text: str = "") -> str:
    return json.dumps({"token": text or f"t{index} ", "index": index})


def _filled(count: int, keep_bytes: int = 2**20) -> TaskEvents:
    events = TaskEvents(keep_bytes)
    for index in range(count):
        events.add("token", _token(index))
    return events


async def _read_all(events: TaskEvents, after: int = 0) -> list[tuple[int, str, dict[str, object]]]:
    reader = events.read(after)
    try:
        return [row async for chunk in reader.chunks() for row in _parsed(chunk)]
    finally:
        reader.close()


async def test_events_are_numbered_from_one_without_gaps() -> None:
    events = _filled(3)
    events.add("done", '{"done":true}')
    rows = await _read_all(events)
    assert [(number, kind) for number, kind, _ in rows] == [(1, "token"), (2, "token"), (3, "token"), (4, "done")]


async def test_a_reader_resumes_behind_its_last_event_without_gap_or_double() -> None:
    events = _filled(5)
    events.add("done", "{}")
    assert [number for number, _, _ in await _read_all(events, after=3)] == [4, 5, 6]


async def test_a_reader_that_waits_gets_events_as_they_come_and_then_the_end() -> None:
    events = TaskEvents(2**20)
    reading = asyncio.create_task(_read_all(events))
    for index in range(3):
        await asyncio.sleep(0)
        events.add("token", _token(index))
    events.add("done", "{}")
    assert len(await asyncio.wait_for(reading, 1)) == 4


@pytest.mark.parametrize("after", [0, 2, 7, 100])
async def test_a_reader_from_an_earlier_life_of_the_task_gets_everything(after: int) -> None:
    events = TaskEvents(2**20, before=100)
    assert events.last == 100
    for index in range(3):
        events.add("token", _token(index))
    events.add("done", "{}")
    assert [number for number, _, _ in await _read_all(events, after)] == [101, 102, 103, 104]
    assert [number for number, _, _ in await _read_all(events, 102)] == [103, 104]


async def test_readers_of_a_task_that_the_next_queen_goes_on_with_end_without_a_last_event() -> None:
    events = _filled(3)
    reading = asyncio.create_task(_read_all(events))
    await asyncio.sleep(0)
    events.leave_to_the_next_queen()
    assert [kind for _, kind, _ in await reading] == ["token"] * 3
    assert await _read_all(events, 3) == []


async def test_what_came_while_a_reader_was_busy_comes_in_one_chunk() -> None:
    events = _filled(10)
    events.add("done", "{}")
    chunks = [chunk async for chunk in events.read().chunks()]
    assert len(chunks) == 1


async def test_two_readers_see_the_same() -> None:
    events = TaskEvents(2**20)
    first, second = (asyncio.create_task(_read_all(events)) for _ in range(2))
    await asyncio.sleep(0)
    assert events.readers == 2
    events.add("token", _token(0))
    events.add("error", '{"code":"X"}')
    assert await first == await second
    assert events.readers == 0


async def test_a_reader_whose_place_was_dropped_gets_one_snapshot_and_the_rest() -> None:
    """What it then has is the whole text, with no token twice."""
    events = _filled(200, keep_bytes=4096)
    events.add("done", "{}")
    rows = await _read_all(events, after=2)
    number, kind, snapshot = rows[0]
    assert kind == "snapshot"
    assert [row[0] for row in rows[1:]] == list(range(number + 1, 202))
    later = "".join(str(data["token"]) for _, name, data in rows[1:] if name == "token")
    assert f"{snapshot['text']}{later}" == "".join(f"t{index} " for index in range(200))
    assert events.size <= 4096


async def test_text_and_tokens_so_far_survive_dropping() -> None:
    events = _filled(500, keep_bytes=4096)
    assert events.tokens == 500
    assert events.text == "".join(f"t{index} " for index in range(500))
    events.add("token", _token(500, "end"))
    assert events.text.endswith("t499 end")


async def test_a_place_beyond_the_end_counts_as_the_end() -> None:
    """A reader of an earlier queen may know higher numbers."""
    events = _filled(2)
    events.add("done", "{}")
    assert await _read_all(events, after=99) == []


def test_nothing_follows_the_end() -> None:
    events = TaskEvents(4096)
    events.add("done", "{}")
    with pytest.raises(AssertionError):
        events.add("token", _token(0))


async def test_typed_reading_decodes_every_event() -> None:
    events = TaskEvents(4096)
    events.add("narration", '{"actor":"queen","text":"x","fields":{}}')
    events.add("token", _token(0, "Hé"))
    events.add("done", '{"done":true}')
    rows = [row async for row in events.read().typed()]
    assert rows[1:] == [("token", {"token": "Hé", "index": 0}), ("done", {"done": True})]


@given(
    texts=st.lists(st.text(max_size=30), max_size=60),
    keep=st.integers(256, 2048),
    pauses=st.lists(st.booleans(), min_size=60, max_size=60),
)
def test_typed_reading_yields_the_whole_text_however_far_a_reader_falls_behind(
    texts: list[str], keep: int, pauses: list[bool]
) -> None:
    async def scenario() -> str:
        events = TaskEvents(keep)
        read: list[str] = []

        async def collect() -> None:
            async for kind, data in events.read().typed():
                if kind == "token":
                    read.append(data["token"])

        reading = asyncio.create_task(collect())
        for index, (text, pause) in enumerate(zip(texts, pauses, strict=False)):
            events.add("token", json.dumps({"token": text, "index": index}))
            if pause:
                await asyncio.sleep(0)
        events.add("done", "{}")
        await reading
        return "".join(read)

    assert asyncio.run(scenario()) == "".join(texts)


@pytest.mark.parametrize("raw", ['{"text":"x"}', '{"token":1,"index":"2"}', "[1]", "nonsense", '{"index":-5}'])
async def test_a_token_event_that_is_none_costs_nothing_but_itself(raw: str) -> None:
    """A worker's events are passed on unchecked; readers and the clock ask for text and count at any time."""
    events = _filled(2)
    events.add("token", raw)
    assert events.tokens <= 2
    assert (events.text, events.tokens) == ("t0 t1 ", 2)
    events.add("done", "{}")
    reader = events.read()
    assert "".join([data["token"] async for kind, data in reader.typed() if kind == "token"]) == "t0 t1 "
