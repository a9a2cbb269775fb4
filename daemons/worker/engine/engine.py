"""The thread that owns the model: commands between two steps, decode, sample, one hand-over of events per step."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TypeAlias

from daemons.contracts.errors import Code, RbeeError
from daemons.worker.engine.backend import Backend
from daemons.worker.engine.request import (
    EmbedRequest,
    EngineDied,
    Event,
    Failed,
    GenerateRequest,
    Loaded,
    LoadFailed,
    LoadProgress,
)
from daemons.worker.engine.runner import Runner
from daemons.worker.engine.scheduler import Scheduler

PROGRESS_STEP = 0.01
"""Load progress is told when it grew by this share at least."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """End a request; unknown ids are ignored, since it may just have ended."""

    id: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End the thread; open requests fail with DRAINING."""


Command: TypeAlias = GenerateRequest | EmbedRequest | Cancel | Stop


class Engine:
    """Continuous batching on one backend.

    `sink` gets lists of events, in order, from the engine's thread; it must be quick and must not raise.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        slots: int,
        batch: int,
        sink: Callable[[list[Event]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = backend
        self._slots = slots
        self._batch = batch
        self._sink = sink
        self._clock = clock
        self._mailbox: SimpleQueue[Command] = SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._runner: Runner | None = None

    def start(self) -> None:
        """Begin to load; `Loaded` or `LoadFailed` will tell."""
        self._thread.start()

    def submit(self, request: GenerateRequest | EmbedRequest) -> None:
        """Thread-safe. First ``Started``, last exactly one of ``Finished``, ``Embedded`` and ``Failed``."""
        self._mailbox.put(request)

    def cancel(self, id: str) -> None:
        """Thread-safe. Takes effect before the next decode."""
        self._mailbox.put(Cancel(id))

    def stop(self) -> None:
        """Thread-safe. Ends the thread before its next decode, or the load at its next progress call."""
        self._stopping.set()
        self._mailbox.put(Stop())

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the thread; True when it has ended."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def kv_used(self) -> int:
        """KV cells in use, caches of idle slots included. A snapshot, readable from any thread."""
        return self._runner.scheduler.kv.used if self._runner else 0

    # -- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._runner = self._load()
            if self._runner is not None:
                self._serve(self._runner)
        except Exception as error:  # whatever it was: every waiter is answered, then the owner is told
            message = f"{type(error).__name__}: {error}"
            self._answer_all(Code.ENGINE_FAILED, f"the engine failed: {message}")
            self._sink([EngineDied(message)])
        finally:
            self._backend.close()

    def _load(self) -> Runner | None:
        started, told = self._clock(), 0.0

        def progress(fraction: float) -> bool:
            nonlocal told
            if fraction - told >= PROGRESS_STEP or (fraction >= 1.0 > told):
                told = fraction
                self._sink([LoadProgress(fraction)])
            return not self._stopping.is_set()

        try:
            self._backend.load(progress)
            scheduler = Scheduler(self._slots, self._backend.info.ctx, self._batch)
        except RbeeError as error:
            self._sink([LoadFailed(error.code, error.message, error.details)])
            return None
        self._sink([Loaded((self._clock() - started) * 1000)])
        return Runner(self._backend, scheduler, self._clock)

    def _serve(self, runner: Runner) -> None:
        while self._take_commands(runner):
            runner.expire()
            self._hand_over(runner)
            generating = runner.generate()
            self._hand_over(runner)  # before a prompt chunk, which may take long
            runner.prompts(generating)
            runner.embed()
            self._hand_over(runner)
        self._answer_all(Code.DRAINING, "the worker is stopping")

    def _take_commands(self, runner: Runner) -> bool:
        """Carry out what is in the mailbox, waiting for something when there is nothing to do; False: stop."""
        while not self._mailbox.empty() or not runner.busy:
            command = self._mailbox.get()
            match command:
                case GenerateRequest():
                    runner.admit(command)
                case EmbedRequest():
                    runner.admit_embedding(command)
                case Cancel():
                    runner.cancel(command.id)
                case Stop():
                    return False
            self._hand_over(runner)
        return True

    def _hand_over(self, runner: Runner) -> None:
        if runner.events:
            events, runner.events = runner.events, []
            self._sink(events)

    def _answer_all(self, code: Code, message: str) -> None:
        """The end: nobody who has a slot, or waits for one in the mailbox, is left without an answer."""
        if self._runner is not None:
            self._runner.fail_all(code, message)
            self._hand_over(self._runner)
        while not self._mailbox.empty():
            command = self._mailbox.get()
            if isinstance(command, GenerateRequest | EmbedRequest):
                self._sink([Failed(command.id, code, message)])
