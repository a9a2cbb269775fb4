"""An answer: checked before the network, streamed, tried again while the queue is full, kept when cut, cancelled."""

import asyncio
import threading
import time
from pathlib import Path

import pytest

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.events import EventType, Narration, Progress, Token
from daemons.contracts.inference import FinishReason
from daemons.contracts.tasks import TaskRequest
from rbee_tui.keeper.infer import Answer, AnswerEvent, build_request, run_task
from rbee_tui.keeper.installation import Installation, open_installation
from rbee_tui.keeper.session import connect
from tests.support.fake_queen import KEY, TASK_ID, FakeQueen, Step, answer_of, done, task_row
from tests.unit.keeper.conftest import Heard

REQUEST = TaskRequest(model="demo", prompt="Bees")


class Told(list[AnswerEvent]):
    """Everything that happened on the way to an answer."""

    def __call__(self, event: AnswerEvent) -> None:
        self.append(event)

    @property
    def text(self) -> str:
        return "".join(event.token for event in self if isinstance(event, Token))

    @property
    def sentences(self) -> list[str]:
        return [event.text for event in self if isinstance(event, Narration)]


@pytest.fixture
def told() -> Told:
    return Told()


async def ask(installation: Installation, told: Told, request: TaskRequest = REQUEST) -> Answer:
    async with await connect(installation, Heard()) as session:
        return await run_task(session, request, told, partials=installation.paths.partial_answers)


def token(text: str, index: int) -> Step:
    return EventType.TOKEN, Token(token=text, index=index)


def failure(code: Code, message: str) -> Step:
    return EventType.ERROR, RbeeError(code, message).as_dict("req-theirs")


class TestBuildingARequest:
    """V01, V02, V07: what is wrong is said before anybody is asked."""

    def test_fields_that_were_not_given_keep_their_defaults(self) -> None:
        request = build_request("demo", {"prompt": "Bees", "temperature": None, "top_k": 5, "stop": ["."]})
        assert request == TaskRequest(model="demo", prompt="Bees", top_k=5, stop=["."])

    def test_the_reference_is_sent_in_its_canonical_form(self) -> None:
        assert build_request("hf:org/repo:q4_k_m", {"prompt": "x"}).model == "hf:org/repo:Q4_K_M"

    @pytest.mark.parametrize("model", ["gguf:llama", "/etc/passwd", "", "demo\x1b[2J"])
    def test_what_is_no_reference_is_refused_with_the_accepted_forms(self, model: str) -> None:
        with pytest.raises(RbeeError, match="accepted are demo, file:.*hf:") as raised:
            build_request(model, {"prompt": "x"})
        assert raised.value.code is Code.INVALID_MODEL_REF
        assert raised.value.message.isprintable()

    def test_what_is_no_backend_is_refused_with_those_there_are(self) -> None:
        with pytest.raises(RbeeError, match="accepted are cpu, cuda, metal, vulkan, rocm") as raised:
            build_request("demo", {"prompt": "x", "backend": "abacus\n"})
        assert raised.value.code is Code.INVALID_BACKEND

    def test_all_values_out_of_range_are_named_at_once(self) -> None:
        with pytest.raises(RbeeError) as raised:
            build_request("demo", {"prompt": "x", "temperature": 9.0, "top_p": 7.0, "max_tokens": 0})
        assert raised.value.code is Code.INVALID_REQUEST
        assert {row["field"] for row in raised.value.details["fields"]} == {"temperature", "top_p", "max_tokens"}

    def test_a_prompt_that_is_no_text_is_refused(self) -> None:
        with pytest.raises(RbeeError, match="not valid UTF-8 at character 2"):
            build_request("demo", {"prompt": "ok\udcff"})


class TestAnswering:
    """Tokens in order, everything else beside them, and what it cost."""

    async def test_the_answer_is_what_came(self, installed: Installation, queen: FakeQueen, told: Told) -> None:
        answer = await ask(installed, told)
        assert (answer.task_id, answer.text, told.text) == (TASK_ID, "Bees hum.", "Bees hum.")
        assert (answer.done.usage.completion_tokens, answer.done.finish_reason) == (2, FinishReason.STOP)
        assert told.sentences == ["placing on worker w-00000001"]
        assert queen.requests == [REQUEST]
        assert 0 < answer.ttft_ms < 5000

    async def test_progress_is_passed_on_and_what_is_unknown_is_not(
        self, installed: Installation, queen: FakeQueen, told: Told
    ) -> None:
        loading = Progress(stage="load", done=30, total=100, unit="percent")
        queen.answers = [[(EventType.PROGRESS, loading), ("mystery", {"x": 1}), token("a", 0), done(1)]]
        await ask(installed, told)
        assert told == [loading, Token(token="a", index=0)]

    async def test_the_first_token_is_told_before_the_last_one_is_sent(
        self, installed: Installation, queen: FakeQueen
    ) -> None:
        gate = threading.Event()
        queen.answers = [[token("first", 0), gate, token(" last", 1), done(2)]]
        seen: list[bool] = []

        def on_event(event: AnswerEvent) -> None:
            seen.append(gate.is_set())
            gate.set()

        async with await connect(installed, Heard()) as session:
            await run_task(session, REQUEST, on_event, partials=installed.paths.partial_answers)
        assert seen == [False, True]

    async def test_an_event_that_does_not_fit_is_named(
        self, installed: Installation, queen: FakeQueen, told: Told
    ) -> None:
        queen.answers = [[(EventType.TOKEN, {"tokn": "x"})]]
        with pytest.raises(RbeeError, match="'token' that is no Token") as raised:
            await ask(installed, told)
        assert raised.value.code is Code.HIVE_BAD_RESPONSE


class TestFullQueue:
    """T37, T43: three retries, Retry-After wins, each wait is told."""

    @staticmethod
    def full(retry_after_s: float | None = None) -> RbeeError:
        details = {"position": 100, "limit": 100}
        more = {} if retry_after_s is None else {"retry_after_s": retry_after_s}
        return RbeeError(Code.QUEUE_FULL, "100 tasks wait, 100 may", details={**details, **more})

    async def test_it_is_tried_again_until_there_is_room(
        self, installed: Installation, queen: FakeQueen, told: Told
    ) -> None:
        queen.answers = [self.full(), self.full(), answer_of("at last")]
        answer = await ask(installed, told)
        assert answer.text == "at last"
        assert [sentence.partition("; ")[2][:22] for sentence in told.sentences[:2]] == [
            "try 1 of 3 again in 0.",
            "try 2 of 3 again in 0.",
        ]

    async def test_after_three_retries_it_fails_and_says_so(
        self, installed: Installation, queen: FakeQueen, told: Told
    ) -> None:
        queen.answers = [self.full()]
        with pytest.raises(RbeeError, match=r"100 tasks wait, 100 may \(after 3 retries\)") as raised:
            await ask(installed, told)
        assert len(queen.requests) == 4
        assert (raised.value.code, raised.value.details["retries"], raised.value.details["limit"]) == (
            Code.QUEUE_FULL, 3, 100,
        )  # fmt: skip
        assert not installed.paths.partial_answers.exists()

    async def test_what_the_queen_asks_to_wait_wins(
        self, environ: dict[str, str], queen: FakeQueen, told: Told
    ) -> None:
        slow = {**environ, "RBEE_POLICY_BUSY_FIRST_WAIT_S": "60", "RBEE_QUEEN_KEY": KEY}
        queen.answers = [self.full(0.25), answer_of("ok")]
        began = time.monotonic()
        await ask(open_installation(queen_url=queen.url, environ=slow), told)
        assert 0.25 <= time.monotonic() - began < 10
        assert "again in 0.2 s" in told.sentences[0]

    async def test_all_tries_together_have_the_time_limit(
        self, installed: Installation, queen: FakeQueen, told: Told
    ) -> None:
        queen.answers = [self.full(0.3), answer_of("ok")]
        await ask(installed, told, REQUEST.model_copy(update={"timeout_s": 20.0}))
        first, second = [request.timeout_s for request in queen.requests]
        assert first == 20.0
        assert second is not None
        assert 15.0 < second <= 19.7

    async def test_a_try_beyond_the_time_limit_is_not_waited_for(
        self, installed: Installation, queen: FakeQueen, told: Told
    ) -> None:
        queen.answers = [self.full(30.0)]
        with pytest.raises(RbeeError, match=r"not answered within 5 s: 100 tasks wait, 100 may, and") as raised:
            await ask(installed, told, REQUEST.model_copy(update={"timeout_s": 5.0}))
        assert raised.value.code is Code.DEADLINE_EXCEEDED
        assert len(queen.requests) == 1

    async def test_a_queen_that_says_nothing_of_the_time_limit_is_given_up_a_little_later(
        self, environ: dict[str, str], queen: FakeQueen, told: Told
    ) -> None:
        hasty = {**environ, "RBEE_QUEEN_KEY": KEY, "RBEE_POLICY_HTTP_TIMEOUT_S": "0.4"}
        queen.answers = [[token("Once", 0), threading.Event()]]
        with pytest.raises(RbeeError, match=r"not answered within 0\.1 s: the queen at .*; the text so far") as raised:
            await ask(
                open_installation(queen_url=queen.url, environ=hasty),
                told,
                REQUEST.model_copy(update={"timeout_s": 0.1}),
            )
        assert raised.value.code is Code.DEADLINE_EXCEEDED
        assert queen.cancelled.is_set()

    async def test_a_full_queue_may_also_be_told_in_the_stream(
        self, installed: Installation, queen: FakeQueen, told: Told
    ) -> None:
        queen.answers = [[failure(Code.QUEUE_FULL, "full")], answer_of("ok")]
        assert (await ask(installed, told)).text == "ok"

    async def test_other_failures_are_not_tried_again(
        self, installed: Installation, queen: FakeQueen, told: Told
    ) -> None:
        queen.answers = [RbeeError(Code.RAM_INSUFFICIENT, "needs 9 GiB, has 4", hint="rbee devices")]
        with pytest.raises(RbeeError, match="needs 9 GiB, has 4$") as raised:
            await ask(installed, told)
        assert (raised.value.code, raised.value.hint, len(queen.requests)) == (
            Code.RAM_INSUFFICIENT, "rbee devices", 1,
        )  # fmt: skip


class TestCutStreams:
    """T41: text so far is kept in a file that the error names."""

    async def test_a_worker_that_dies_leaves_its_text(
        self, installed: Installation, queen: FakeQueen, told: Told
    ) -> None:
        queen.answers = [[token("Once ", 0), token("upon", 1), failure(Code.WORKER_CRASHED, "w-1 was killed")]]
        with pytest.raises(
            RbeeError, match=r"w-1 was killed; the text so far .2 of at most 100 tokens. is in"
        ) as raised:
            await ask(installed, told)
        error = raised.value
        path = Path(error.details["partial_file"])
        assert (error.code, error.request_id) == (Code.WORKER_CRASHED, "req-theirs")
        assert path == installed.paths.partial_answers / f"{TASK_ID}.txt"
        assert str(path) in error.message
        assert await asyncio.to_thread(path.read_text) == "Once upon"

    async def test_a_stream_without_an_end_is_the_queens_own_end(
        self, installed: Installation, queen: FakeQueen, told: Told
    ) -> None:
        queen.answers = [[token("Once", 0), None]]
        with pytest.raises(
            RbeeError, match=r"the queen at http\S+ was lost before .*; the text so far .1 of"
        ) as raised:
            await ask(installed, told)
        assert (raised.value.code, raised.value.hint) == (Code.QUEEN_UNREACHABLE, "rbee queen status")
        assert "closed without its end event" in raised.value.details["cause"]

    async def test_a_queen_that_gives_no_sign_of_life_is_given_up(
        self, environ: dict[str, str], queen: FakeQueen, told: Told
    ) -> None:
        hasty = {
            **environ, "RBEE_QUEEN_KEY": KEY, "RBEE_POLICY_INFERENCE_STALL_S": "0.2", "RBEE_POLICY_PING_S": "0.05",
        }  # fmt: skip
        queen.answers = [[token("Once", 0), threading.Event()]]
        with pytest.raises(
            RbeeError, match=r"has sent nothing for 0\.2 s, not even a sign of life; the text"
        ) as raised:
            await ask(open_installation(queen_url=queen.url, environ=hasty), told)
        assert raised.value.code is Code.QUEEN_UNREACHABLE

    async def test_a_failure_that_tells_how_far_it_was_is_not_told_again_how_far(
        self, installed: Installation, queen: FakeQueen, told: Told
    ) -> None:
        late = RbeeError(Code.DEADLINE_EXCEEDED, "1 of 9 tokens had come", details={"tokens_done": 1}).as_dict()
        queen.answers = [[token("Once", 0), (EventType.ERROR, late)]]
        with pytest.raises(RbeeError, match=r"^1 of 9 tokens had come; the text so far is in /"):
            await ask(installed, told)

    async def test_without_text_there_is_no_file(self, installed: Installation, queen: FakeQueen, told: Told) -> None:
        queen.answers = [[failure(Code.WORKER_CRASHED, "early")]]
        with pytest.raises(RbeeError, match="^early$") as raised:
            await ask(installed, told)
        assert "partial_file" not in raised.value.details

    async def test_the_failure_stays_the_same_when_the_text_cannot_be_saved(
        self, installed: Installation, queen: FakeQueen, told: Told
    ) -> None:
        folder = installed.paths.partial_answers
        await asyncio.to_thread(folder.parent.mkdir, parents=True)
        await asyncio.to_thread(folder.write_text, "a file is in the way")
        queen.answers = [[token("Once", 0), failure(Code.WORKER_CRASHED, "dead")]]
        with pytest.raises(RbeeError, match="dead;.*could not be saved") as raised:
            await ask(installed, told)
        assert raised.value.code is Code.WORKER_CRASHED


class TestCancelling:
    """T42, C02: the queen hears of it."""

    async def test_a_cancelled_keeper_closes_its_stream_and_deletes_its_task(
        self, installed: Installation, queen: FakeQueen
    ) -> None:
        queen.tasks = [task_row()]
        queen.answers = [[token("Once", 0), threading.Event(), done(1)]]
        came = asyncio.Event()
        told: list[AnswerEvent] = []

        def on_event(event: AnswerEvent) -> None:
            told.append(event)
            came.set()

        async with await connect(installed, Heard()) as session:
            running = asyncio.create_task(
                run_task(session, REQUEST, on_event, partials=installed.paths.partial_answers)
            )
            await came.wait()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        assert await asyncio.to_thread(queen.cancelled.wait, 2)
        assert await asyncio.to_thread(queen.closed_early.wait, 2)
        assert (f"DELETE /v2/tasks/{TASK_ID}", installed.request_id) in queen.seen
        kept = told[-1]
        assert isinstance(kept, Narration)
        assert await asyncio.to_thread(Path(kept.fields["partial_file"]).read_text) == "Once"

    async def test_an_output_that_cannot_be_written_cancels_too(
        self, installed: Installation, queen: FakeQueen
    ) -> None:
        queen.answers = [[token("Once", 0), threading.Event()]]

        def on_event(event: AnswerEvent) -> None:
            raise BrokenPipeError

        async with await connect(installed, Heard()) as session:
            with pytest.raises(BrokenPipeError):
                await run_task(session, REQUEST, on_event, partials=installed.paths.partial_answers)
        assert await asyncio.to_thread(queen.cancelled.wait, 2)

    async def test_a_task_that_another_client_cancelled_is_a_failure(
        self, installed: Installation, queen: FakeQueen, told: Told
    ) -> None:
        queen.answers = [[token("Once", 0), done(1, FinishReason.CANCELLED)]]
        with pytest.raises(RbeeError, match=f"{TASK_ID} was cancelled by another client") as raised:
            await ask(installed, told)
        assert raised.value.code is Code.CANCELLED
