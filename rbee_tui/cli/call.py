"""What surrounds every command: its shared options, its screen, its event loop, and how its failures are shown."""

import asyncio
import functools
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from daemons.contracts.errors import Code, RbeeError
from rbee_tui.cli.exits import exit_code_for
from rbee_tui.cli.screen import OutputLost, Screen
from rbee_tui.keeper.installation import Installation, default_installation, open_installation
from rbee_tui.keeper.session import QueenSession, connect

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class Call:
    """One run of a command: where it renders, and which queen was named for it."""

    screen: Screen
    queen_url: str | None

    def installation(self, flags: Mapping[str, Any] | None = None) -> Installation:
        """Folders and settings; `flags` are dotted keys given on this command line."""
        return open_installation(queen_url=self.queen_url, flags=flags)

    def installation_or_defaults(self) -> Installation:
        """As `installation`; wrong settings keep nobody from stopping a daemon, so they are told and left out."""
        try:
            return self.installation()
        except RbeeError as error:
            if error.code is not Code.CONFIG_INVALID:
                raise
            found = default_installation(queen_url=self.queen_url)
            self.screen.say(f"warning: {error.message}; going on with default settings (mend it: {error.hint})")
            return found

    def run(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        """Run a use case to its end. Ctrl+C cancels it, waits for its clean-up, and raises KeyboardInterrupt."""
        return asyncio.run(work)

    def with_queen(self, work: Callable[[QueenSession], Coroutine[Any, Any, ResultT]]) -> ResultT:
        """Run a use case on a session with a queen that is there already. Raises RbeeError(QUEEN_UNREACHABLE)."""

        installation = self.installation()

        async def connected() -> ResultT:
            async with await connect(installation, self.screen.narrate) as session:
                return await work(session)

        return self.run(connected())


def command_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command --queen, --json, -q and -v, and a `Call` as its first argument; show its failures."""

    @click.option("--queen", "queen_url", metavar="URL", help="Use the queen at this address.")
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
    @click.option("-q", "--quiet", is_flag=True, help="No narration on stderr.")
    @click.option("-v", "--verbose", is_flag=True, help="Narration with its figures.")
    @functools.wraps(function)
    def command(queen_url: str | None, as_json: bool, quiet: bool, verbose: bool, **parameters: Any) -> None:
        context = click.get_current_context()
        screen = Screen(as_json=as_json, quiet=quiet, verbose=verbose)
        chosen = queen_url or context.find_root().params.get("queen_url")
        try:
            function(Call(screen, chosen), **parameters)
        except RbeeError as error:
            screen.error(error)
            context.exit(exit_code_for(error))
        except (click.ClickException, click.exceptions.Exit, BrokenPipeError, OutputLost):
            raise
        except Exception as error:
            if verbose:
                raise
            screen.error(_defect(error))
            context.exit(exit_code_for(error))
        finally:
            screen.stop_progress()

    return command


def _defect(error: Exception) -> RbeeError:
    return RbeeError(
        Code.INTERNAL,
        f"rbee itself failed: {type(error).__name__}: {error}; the same command with -v shows where",
        hint="rbee doctor",
    )
