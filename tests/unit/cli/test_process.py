"""`rbee` as a process of its own: Ctrl+C, a reader that goes away, a real terminal."""

import fcntl
import os
import pty
import select
import shlex
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from daemons.contracts.events import EventType, Narration, Progress, Token
from daemons.contracts.fleet import LogLine
from tests.support.fake_queen import KEY, TASK_ID, FakeQueen, Step, answer_of, done, running_queen, worker_row

COMMAND = [sys.executable, "-m", "rbee_tui.cli.main"]
LIMIT_S = 30.0


def token(text: str, index: int) -> Step:
    return EventType.TOKEN, Token(token=text, index=index)


@pytest.fixture
def fake() -> Iterator[FakeQueen]:
    with running_queen(FakeQueen()) as queen:
        yield queen


@pytest.fixture
def process_environ(fake: FakeQueen, tmp_path: Path) -> Mapping[str, str]:
    """What such a process gets; warnings are errors in it, too."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "PYTHONWARNINGS": "error",
        "LANG": "C.UTF-8",
        "TERM": "xterm",
        "HOME": str(tmp_path / "u"),
        "RBEE_HOME": str(tmp_path / "h"),
        "RBEE_QUEEN_URL": fake.url,
        "RBEE_QUEEN_KEY": KEY,
    }


def start(environ: Mapping[str, str], *args: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*COMMAND, *args],
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


LOADING = Progress(stage="loading", done=30.0, total=100.0, unit="percent")


def cancelled_after_one(environ: Mapping[str, str]) -> bytes:
    """What is said of an answer that Ctrl+C cut off after its first token."""
    file = f"{environ['RBEE_HOME']}/partial/{TASK_ID}.txt"
    return f"[keeper] cancelled after 1 token; the text so far is in {file}\n".encode()


class TestCtrlC:
    """Exit code 130, the queen hears of it, and nothing is printed but what a person wants to see."""

    def test_an_answer_is_cancelled(self, fake: FakeQueen, process_environ: Mapping[str, str]) -> None:
        fake.answers = [[token("Once ", 0), threading.Event(), done(1)]]
        with start(process_environ, "infer", "-m", "demo", "Hi") as process:
            assert process.stdout is not None
            assert process.stdout.read(5) == b"Once "
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 130
        assert fake.cancelled.wait(2)
        assert fake.closed_early.wait(2)
        assert f"DELETE /v2/tasks/{TASK_ID}" in [path for path, _ in fake.seen]
        assert b"Traceback" not in err
        assert err.endswith(cancelled_after_one(process_environ))
        kept = Path(process_environ["RBEE_HOME"]) / "partial" / f"{TASK_ID}.txt"
        assert kept.read_text(encoding="utf-8") == "Once "

    def test_what_json_would_have_held_is_in_the_file(
        self, fake: FakeQueen, process_environ: Mapping[str, str]
    ) -> None:
        fake.answers = [[token("Once ", 0), (EventType.PROGRESS, LOADING), threading.Event(), done(1)]]
        with start(process_environ, "infer", "--json", "-m", "demo", "Hi") as process:
            assert process.stderr is not None
            assert b"loading" in process.stderr.readline()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=LIMIT_S)
        assert (process.returncode, out) == (130, b"")
        assert err.endswith(cancelled_after_one(process_environ))

    def test_while_the_model_is_loaded_it_says_so(self, fake: FakeQueen, process_environ: Mapping[str, str]) -> None:
        fake.answers = [[(EventType.PROGRESS, LOADING), threading.Event(), done(1)]]
        with start(process_environ, "infer", "-m", "demo", "Hi") as process:
            assert process.stderr is not None
            assert b"loading" in process.stderr.readline()
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 130
        assert err == b"[keeper] cancelled while the model was being loaded; `rbee ps` shows whether that goes on\n"
        assert not (Path(process_environ["RBEE_HOME"]) / "partial").exists()

    def test_what_came_is_on_a_line_of_its_own_in_a_file_for_both(
        self, fake: FakeQueen, process_environ: Mapping[str, str], tmp_path: Path
    ) -> None:
        fake.answers = [[token("Once ", 0), threading.Event(), done(1)]]
        file = tmp_path / "both"
        with file.open("wb") as both:
            process = subprocess.Popen(
                [*COMMAND, "infer", "-m", "demo", "Hi"],
                env=process_environ,
                stdin=subprocess.DEVNULL,
                stdout=both,
                stderr=both,
            )
        while b"Once " not in file.read_bytes():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT_S) == 130
        assert file.read_bytes() == b"Once \n" + cancelled_after_one(process_environ)

    def test_it_is_130_though_the_reader_of_the_answer_went_first(
        self, fake: FakeQueen, process_environ: Mapping[str, str]
    ) -> None:
        fake.answers = [[token("Once ", 0), threading.Event(), done(1)]]
        with start(process_environ, "infer", "-m", "demo", "Hi") as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.read(5) == b"Once "
            process.stdout.close()
            process.send_signal(signal.SIGINT)
            assert process.wait(LIMIT_S) == 130
            assert process.stderr.read() == cancelled_after_one(process_environ)

    def test_following_logs_ends(self, fake: FakeQueen, process_environ: Mapping[str, str]) -> None:
        fake.lines = [LogLine(node="local", source="queen", at=1.0, level="info", text=f"line {n}") for n in range(2)]
        with start(process_environ, "logs", "--follow") as process:
            assert process.stdout is not None
            assert process.stdout.readline().endswith(b"line 0\n")
            assert process.stdout.readline().endswith(b"line 1\n")
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=LIMIT_S)
        assert (process.returncode, b"Traceback" in err) == (130, False)


class TestOneFileForBoth:
    """`rbee … >log 2>&1`: the answer ends its line before anything else is said."""

    @pytest.mark.parametrize("last", ["bees.", "bees.\n"])
    def test_what_a_worker_says_of_its_answer(
        self, fake: FakeQueen, process_environ: Mapping[str, str], last: str
    ) -> None:
        said = EventType.NARRATION, Narration(actor="worker w-1", text="2 tokens")
        fake.answers = [[token("On", 0), said, token(last, 1), said, done(2)]]
        line = f"{' '.join(COMMAND)} infer -m demo Hi"
        both = subprocess.run(
            ["sh", "-c", f"{line} 2>&1"], env=process_environ, stdin=subprocess.DEVNULL, capture_output=True, check=True
        )
        answer, *sentences = both.stdout.decode().splitlines()
        assert (answer, sentences[:2]) == ("Onbees.", ["[worker w-1] 2 tokens"] * 2)
        assert sentences[2].startswith("[keeper] 2 tokens, 120.5 tok/s")
        apart = subprocess.run(
            ["sh", "-c", line], env=process_environ, stdin=subprocess.DEVNULL, capture_output=True, check=True
        )
        assert apart.stdout == b"Onbees.\n"


class TestBrokenPipe:
    """`rbee … | head` ends quietly."""

    def test_a_stream_whose_reader_is_gone_is_cancelled(
        self, fake: FakeQueen, process_environ: Mapping[str, str]
    ) -> None:
        gate = threading.Event()
        fake.answers = [[token("one\n", 0), gate, *(token("more\n", n) for n in range(1, 2000)), threading.Event()]]
        with start(process_environ, "infer", "-m", "demo", "Hi", "-q") as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline() == b"one\n"
            process.stdout.close()
            gate.set()
            assert process.wait(LIMIT_S) == 1
            assert process.stderr.read().strip() == b""
        assert fake.cancelled.wait(2)

    def test_a_listing_into_a_closed_pipe(self, fake: FakeQueen, process_environ: Mapping[str, str]) -> None:
        fake.workers = [worker_row(f"w-{number:08x}") for number in range(3000)]
        line = f"{' '.join(COMMAND)} workers list | head -n 2"
        finished = subprocess.run(
            ["sh", "-c", line], env=process_environ, capture_output=True, timeout=LIMIT_S, check=True
        )
        assert finished.stdout.splitlines()[1].startswith(b"w-00000000\t")
        assert finished.stderr == b""


class TestTerminal:
    """On a real terminal: no control characters of others, tables for people, a bar that leaves nothing."""

    def run(self, environ: Mapping[str, str], *args: str) -> tuple[int, str]:
        """Run with stdin, stdout and stderr on a terminal of 100 columns; exit code and what it showed."""
        terminal, theirs = pty.openpty()
        process = subprocess.Popen(
            [*COMMAND, *args], env={**environ, "COLUMNS": "100"}, stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        shown = b""
        deadline = time.monotonic() + LIMIT_S
        while select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))[0]:
            try:
                piece = os.read(terminal, 65_536)
            except OSError:  # Linux: the other side is closed
                break
            if not piece:
                break
            shown += piece
        os.close(terminal)
        return process.wait(LIMIT_S), shown.decode()

    def test_what_a_model_says_cannot_drive_it(self, fake: FakeQueen, process_environ: Mapping[str, str]) -> None:
        fake.answers = [answer_of("\x1b[2J\x1b]0;owned\x07Bees", " hum\x9b31m.")]
        code, shown = self.run(process_environ, "infer", "-m", "demo", "Hi", "-q")
        assert (code, shown) == (0, "Bees hum.\r\n")

    def test_what_a_log_says_cannot_drive_it(self, fake: FakeQueen, process_environ: Mapping[str, str]) -> None:
        fake.lines = [LogLine(node="local", source="hive", at=1.0, level="info", text="\x1b[2Jhello\x07")]
        code, shown = self.run(process_environ, "logs")
        assert (code, "\x1b" in shown, "INFO hello" in shown) == (0, False, True)

    def test_listings_are_tables(self, fake: FakeQueen, process_environ: Mapping[str, str]) -> None:
        code, shown = self.run(process_environ, "workers", "list")
        assert code == 0
        assert "\t" not in shown
        assert "WORKER" in shown
        assert "w-00000001" in shown

    def test_loading_shows_a_bar_and_then_only_the_answer(
        self, fake: FakeQueen, process_environ: Mapping[str, str]
    ) -> None:
        loading: list[Step] = [
            (EventType.PROGRESS, {"stage": "load", "done": part, "total": 100, "unit": "percent"})
            for part in (0, 50, 100)
        ]
        fake.answers = [[*loading, *answer_of("Bees hum.")]]
        code, shown = self.run(process_environ, "infer", "-m", "demo", "Hi")
        assert code == 0
        assert "load" in shown
        last = shown.rpartition("\x1b[2K")[2]
        assert "Bees hum.\r\n[keeper] 1 tokens" in last
        assert "[queen] placing on worker w-00000001" in shown

    def test_a_prompt_is_asked_for_when_nobody_pipes_one(
        self, fake: FakeQueen, process_environ: Mapping[str, str]
    ) -> None:
        code, shown = self.run(process_environ, "infer", "-m", "demo")
        assert (code, "No prompt" in shown) == (2, True)


class Watched:
    """A terminal that is read up to one text after another."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self._unread = b""

    def until(self, wanted: bytes, *, press: bytes = b"") -> bytes:
        """What it showed up to and with `wanted`.

        `press` is typed, and again after each silent second: between two waits for keys CPython's line editor does not
        hear of a signal.
        """
        deadline = time.monotonic() + LIMIT_S
        ready: list[int] = []
        while wanted not in self._unread:
            if not ready:
                os.write(self._terminal, press)
            left = deadline - time.monotonic()
            ready = select.select([self._terminal], [], [], min(left, 1.0) if press else max(0.0, left))[0]
            assert ready or (press and left > 1.0), f"{wanted!r} did not come: {self._unread!r}"
            self._unread += os.read(self._terminal, 65_536) if ready else b""
        before, found, self._unread = self._unread.partition(wanted)
        return before + found


@contextmanager
def chatting(environ: Mapping[str, str]) -> Iterator[tuple[subprocess.Popen[bytes], int, Watched]]:
    """`rbee chat` on a terminal of its own: the process, the terminal, and what it shows."""
    terminal, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "chat", "-m", "demo"],
        env=environ,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that the terminal's Ctrl+C reaches it
    )
    os.close(theirs)
    try:
        yield process, terminal, Watched(terminal)
    finally:
        process.kill()
        process.wait()
        os.close(terminal)


class TestChatAtATerminal:
    """A conversation with a real line editor: Ctrl+C stops an answer or drops a line, Ctrl+D ends."""

    def test_ctrl_c_stops_the_answer_and_the_conversation_goes_on(
        self, fake: FakeQueen, process_environ: Mapping[str, str]
    ) -> None:
        fake.answers = [[token("Half an", 0), threading.Event()], answer_of("Sure.")]
        with chatting(process_environ) as (process, terminal, screen):
            screen.until(b"> ")
            os.write(terminal, b"Hi\r")
            screen.until(b"Half an")
            os.write(terminal, b"\x03")
            shown = screen.until(b"\r\n> ")
            assert b"Traceback" not in shown
            assert b"\n[keeper] cancelled after 1 token; what came stays in the conversation\r\n" in shown
            assert b"/partial/" in shown.rpartition(b"stays in the conversation")[2]
            os.write(terminal, b"half a line")
            screen.until(b"half a line")
            assert b"Traceback" not in screen.until(b"[keeper] Ctrl+D ends\r\n", press=b"\x03")
            screen.until(b"> ")
            os.write(terminal, b"Go on\r")
            assert b"Sure." in screen.until(b"tok/s")
            screen.until(b"> ")
            os.write(terminal, b"\x04")
            assert process.wait(LIMIT_S) == 0
        assert fake.cancelled.is_set()
        assert [message.text for message in fake.requests[1].messages or []] == ["Hi", "Half an", "Go on"]

    def test_ctrl_c_before_the_first_token_drops_the_question_and_says_so(
        self, fake: FakeQueen, process_environ: Mapping[str, str]
    ) -> None:
        placing = EventType.NARRATION, Narration(actor="queen", text="placing")
        fake.answers = [[placing, threading.Event()], answer_of("Sure.")]
        with chatting(process_environ) as (_, terminal, screen):
            screen.until(b"> ")
            os.write(terminal, b"Hi\r")
            screen.until(b"[queen] placing\r\n")
            os.write(terminal, b"\x03")
            shown = screen.until(b"\r\n> ")
            assert shown == b"^C\r\n[keeper] cancelled before the first token; the question is dropped\r\n> "
            os.write(terminal, b"Again\r")
            screen.until(b"Sure.")
        assert [message.text for message in fake.requests[1].messages or []] == ["Again"]


class TestStreams:
    """The command as a process whose stdout, stderr or stdin is closed, full, or gone."""

    def start(self, redirect: str, *args: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
        command = shlex.join([sys.executable, "-m", "rbee_tui.cli.main", *args])
        environ = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.run(
            ["bash", "-c", f"{command} {redirect}"], capture_output=True, text=True, env=environ, check=False
        )

    @pytest.mark.parametrize("redirect", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
    @pytest.mark.parametrize("args", [("status",), ("config", "show"), ("--help",), ("install",)])
    def test_a_closed_stream_is_nobody_to_tell(self, tmp_path: Path, redirect: str, args: tuple[str, ...]) -> None:
        done = self.start(redirect, *args, tmp_path=tmp_path)
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr

    @pytest.mark.parametrize("args", [("status",), ("config", "show", "--json"), ("--help",), ("completion", "bash")])
    def test_a_full_disk_behind_stdout_is_told_in_a_line(self, tmp_path: Path, args: tuple[str, ...]) -> None:
        done = self.start("> /dev/full", *args, tmp_path=tmp_path)
        last = done.stderr.splitlines()[-1]
        assert (done.returncode, last) == (1, "Error: cannot write to stdout: No space left on device")
        assert "Traceback" not in done.stderr
