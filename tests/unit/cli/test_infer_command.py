"""`rbee infer`: a prompt from anywhere, tokens and nothing else on stdout, everything else on stderr."""

import json
from pathlib import Path

import pytest

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.events import EventType, Token
from daemons.contracts.inference import FinishReason
from tests.support.fake_queen import TASK_ID, FakeQueen, answer_of, done
from tests.unit.cli.conftest import Rbee


class TestPrompt:
    """From an argument, --prompt or stdin; exactly one."""

    @pytest.mark.parametrize(
        ("args", "stdin", "expected"),
        [
            (("Tell me",), None, "Tell me"),
            (("--prompt", "Tell me"), None, "Tell me"),
            (("-p", "Tell me"), b"ignored", "Tell me"),
            (("-",), b"from a pipe\n", "from a pipe"),
            (("--prompt", "-"), "Grüße 🐝\n\n".encode(), "Grüße 🐝\n"),
            ((), b"from a pipe", "from a pipe"),
        ],
    )
    def test_it_arrives_as_it_was_given(
        self, rbee: Rbee, queen: FakeQueen, args: tuple[str, ...], stdin: bytes | None, expected: str
    ) -> None:
        assert rbee("infer", "--model", "demo", *args, stdin=stdin).code == 0
        assert [request.prompt for request in queen.requests] == [expected]

    @pytest.mark.parametrize(
        ("args", "stdin", "said"),
        [
            ((), None, "No prompt"),
            ((), b"", "No prompt"),
            (("--prompt", ""), None, "No prompt"),
            (("one", "--prompt", "two"), None, "once"),
            ((), b"\xff\xfe", "not UTF-8 at byte 0"),
            (("one", "two"), None, "unexpected extra argument"),
        ],
    )
    def test_none_or_two_are_wrong_usage(
        self, rbee: Rbee, queen: FakeQueen, args: tuple[str, ...], stdin: bytes | None, said: str
    ) -> None:
        finished = rbee("infer", "--model", "demo", *args, stdin=stdin)
        assert (finished.code, finished.out, queen.seen) == (2, "", [])
        assert said in finished.err

    def test_a_system_prompt_makes_it_a_chat(self, rbee: Rbee, queen: FakeQueen) -> None:
        assert rbee("infer", "-m", "demo", "--system", "Be brief.", "Hi").code == 0
        assert [(m.role, m.text) for m in queen.requests[0].messages or []] == [("system", "Be brief."), ("user", "Hi")]


class TestFlags:
    """Every flag of DESIGN's grammar reaches the request."""

    def test_all_of_them(self, rbee: Rbee, queen: FakeQueen, tmp_path: Path) -> None:
        schema = tmp_path / "schema.json"
        schema.write_text('{"type": "object"}')
        finished = rbee(
            "infer", "-m", "demo", "Hi", "--node", "local", "--backend", "cpu", "--device", "0", "--max-tokens", "7",
            "--temperature", "0.5", "--top-k", "3", "--top-p", "0.8", "--min-p", "0.1", "--seed", "42",
            "--repeat-penalty", "1.1", "--presence-penalty", "0.2", "--frequency-penalty", "-0.2", "--stop", "a",
            "--stop", "b", "--ctx", "512", "--slots", "2", "--keep-alive", "-1", "--json-schema", str(schema),
            "--priority", "batch", "--timeout", "9.5", "--ephemeral", "-q",
        )  # fmt: skip
        assert finished.code == 0, finished.err
        sent = queen.requests[0].model_dump(mode="json", exclude_unset=True)
        assert sent == {
            "model": "demo", "prompt": "Hi", "node": "local", "backend": "cpu", "device": 0, "max_tokens": 7,
            "temperature": 0.5, "top_k": 3, "top_p": 0.8, "min_p": 0.1, "seed": 42, "repeat_penalty": 1.1,
            "presence_penalty": 0.2, "frequency_penalty": -0.2, "stop": ["a", "b"], "ctx": 512, "slots": 2,
            "keep_alive_s": -1.0, "priority": "batch", "timeout_s": 9.5,
            "response_format": {"type": "json_schema", "json_schema": {"type": "object"}},
        } | {key: sent[key] for key in sent.keys() & DEFAULTED}  # fmt: skip

    @pytest.mark.parametrize("content", ["not json", "[1]", '"text"'])
    def test_a_schema_that_is_none_is_named(self, rbee: Rbee, queen: FakeQueen, tmp_path: Path, content: str) -> None:
        schema = tmp_path / "schema.json"
        schema.write_text(content)
        finished = rbee("infer", "-m", "demo", "Hi", "--json-schema", str(schema))
        assert (finished.code, queen.seen) == (2, [])
        assert f"error INVALID_REQUEST: --json-schema {schema}" in finished.err

    @pytest.mark.parametrize(
        "args", [("--max-tokens", "many"), ("--json-schema", "/no/such/file"), ("--no-such-flag",), ("--seed",)]
    )
    def test_what_cannot_be_parsed_is_wrong_usage(self, rbee: Rbee, queen: FakeQueen, args: tuple[str, ...]) -> None:
        assert rbee("infer", "-m", "demo", "Hi", *args).code == 2
        assert queen.seen == []

    def test_the_model_has_to_be_named(self, rbee: Rbee) -> None:
        finished = rbee("infer", "Hi")
        assert (finished.code, "--model" in finished.err) == (2, True)

    def test_values_out_of_range_are_all_named(self, rbee: Rbee, queen: FakeQueen) -> None:
        finished = rbee("infer", "-m", "demo", "Hi", "--temperature", "9", "--top-p", "7")
        assert (finished.code, finished.out, queen.seen) == (2, "", [])
        assert all(word in finished.err for word in ("INVALID_REQUEST", "temperature", "top_p"))


DEFAULTED = {
    "typical_p", "repeat_last_n", "dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n", "mirostat",
    "mirostat_tau", "mirostat_eta", "logit_bias", "logprobs", "ignore_eos", "cache_prompt", "mmap",
}  # fmt: skip
"""What no flag sets and the client sends with its default."""


class TestOutput:
    def test_stdout_is_the_text_and_stderr_tells_the_rest(self, rbee: Rbee, queen: FakeQueen) -> None:
        finished = rbee("infer", "-m", "demo", "Hi")
        assert (finished.code, finished.out) == (0, "Bees hum.\n")
        first, last = finished.err.splitlines()
        assert first == "[queen] placing on worker w-00000001"
        assert last.startswith("[keeper] 2 tokens, 120.5 tok/s, first token after ")

    def test_quiet_leaves_only_the_text(self, rbee: Rbee, queen: FakeQueen) -> None:
        finished = rbee("infer", "-m", "demo", "Hi", "-q")
        assert (finished.out, finished.err) == ("Bees hum.\n", "")

    def test_verbose_adds_the_figures(self, rbee: Rbee, queen: FakeQueen) -> None:
        err = rbee("infer", "-m", "demo", "Hi", "-v").err
        assert "[queen] placing on worker w-00000001 (slots_free=4)" in err
        assert "prompt_tokens=5" in err

    def test_a_limit_of_tokens_that_was_reached_is_said(self, rbee: Rbee, queen: FakeQueen) -> None:
        queen.answers = [[(EventType.TOKEN, Token(token="x", index=0)), done(9, FinishReason.LENGTH)]]
        err = rbee("infer", "-m", "demo", "Hi", "--max-tokens", "9").err
        assert err.endswith(", stopped at the limit of tokens (more: --max-tokens N)\n")

    def test_a_full_context_is_said_with_its_numbers(self, rbee: Rbee, queen: FakeQueen) -> None:
        queen.answers = [[(EventType.TOKEN, Token(token="x", index=0)), done(8, FinishReason.LENGTH)]]
        err = rbee("infer", "-m", "demo", "Hi", "--max-tokens", "9").err
        assert err.endswith(
            ", stopped because the worker's context of 13 tokens is full: 5 of the prompt, 8 of the answer "
            "(more: --ctx N, which starts a new worker)\n"
        )
        assert "--max-tokens" not in err

    def test_a_text_that_ends_its_line_gets_no_second_end(self, rbee: Rbee, queen: FakeQueen) -> None:
        queen.answers = [answer_of("one\n", "two\n")]
        assert rbee("infer", "-m", "demo", "Hi").out == "one\ntwo\n"

    def test_json_is_one_object_with_text_usage_and_timings(self, rbee: Rbee, queen: FakeQueen) -> None:
        finished = rbee("infer", "-m", "demo", "Hi", "--json")
        answer = json.loads(finished.out)
        assert (answer["text"], answer["model"], answer["task_id"]) == ("Bees hum.", "demo", TASK_ID)
        assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 2, "cached_tokens": 0}
        assert (answer["timings"]["tokens_per_second"], answer["finish_reason"]) == (120.5, "stop")
        assert answer["request_id"] == queen.seen[0][1]
        assert finished.out.count("\n") == 1

    def test_a_pipe_gets_the_text_as_the_model_made_it(self, rbee: Rbee, queen: FakeQueen) -> None:
        queen.answers = [answer_of("\x1b[31mred", "\x1b[0m")]
        assert rbee("infer", "-m", "demo", "Hi").out == "\x1b[31mred\x1b[0m\n"


class TestFailures:
    def test_a_refusal_is_told_with_its_hint_and_request(self, rbee: Rbee, queen: FakeQueen) -> None:
        queen.answers = [RbeeError(Code.NODE_NOT_FOUND, "no node box", hint="rbee status")]
        finished = rbee("infer", "-m", "demo", "--node", "box", "Hi")
        assert (finished.code, finished.out) == (1, "")
        assert finished.err.splitlines() == [
            "error NODE_NOT_FOUND: no node box", "hint: rbee status", f"request id: {queen.seen[0][1]}",
        ]  # fmt: skip

    def test_with_json_the_error_is_the_last_line_of_stderr(self, rbee: Rbee, queen: FakeQueen) -> None:
        queen.answers = [RbeeError(Code.NODE_NOT_FOUND, "no node box")]
        finished = rbee("infer", "-m", "demo", "--node", "box", "Hi", "--json")
        error = json.loads(finished.err.splitlines()[-1])["error"]
        assert (finished.code, finished.out, error["code"]) == (1, "", "NODE_NOT_FOUND")
        assert set(error) == {"code", "message", "details", "hint", "request_id"}

    def test_a_wrong_reference_or_backend_reaches_nobody(self, rbee: Rbee, queen: FakeQueen) -> None:
        for args, code in (
            (("-m", "gguf:x"), "INVALID_MODEL_REF"),
            (("-m", "demo", "--backend", "abacus"), "INVALID_BACKEND"),
        ):
            finished = rbee("infer", *args, "Hi")
            assert (finished.code, finished.out) == (2, "")
            assert f"error {code}: " in finished.err
        assert queen.seen == []

    def test_a_cut_answer_keeps_its_text_and_names_the_file(self, rbee: Rbee, queen: FakeQueen, tmp_path: Path) -> None:
        crash = RbeeError(Code.WORKER_CRASHED, "w-1 was killed").as_dict()
        queen.answers = [[(EventType.TOKEN, Token(token="Once", index=0)), (EventType.ERROR, crash)]]
        finished = rbee("infer", "-m", "demo", "Hi")
        file = tmp_path / "h" / "partial" / f"{TASK_ID}.txt"
        assert (finished.code, finished.out, file.read_text()) == (1, "Once\n", "Once")
        assert str(file) in finished.err

    def test_a_defect_of_ours_is_told_without_a_trace(
        self, rbee: Rbee, queen: FakeQueen, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: object) -> None:
            raise ZeroDivisionError("oops")

        monkeypatch.setattr("rbee_tui.cli.commands.infer.build_request", broken)
        finished = rbee("infer", "-m", "demo", "Hi")
        assert finished.code == 1
        assert "error INTERNAL: rbee itself failed: ZeroDivisionError: oops" in finished.err
        assert "Traceback" not in finished.err
