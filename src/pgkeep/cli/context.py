"""What every command is handed: settings, output, log, progress. Made once, for one command."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from pgkeep.cli.log import Log
from pgkeep.cli.output import Output
from pgkeep.config import SETTINGS, Settings, load_settings

if TYPE_CHECKING:
    from pgkeep.cli.progress import ShownProgress
    from pgkeep.storage.outage import Outages
    from pgkeep.storage.stop import Stop

# What restore calls so is whom a new standby streams from.
_NO_OPTION = frozenset({"primary"})


class Context:
    """The surroundings of one command. ``program`` is how this very program can be called again,
    by absolute paths; ``owner_uid`` is as whom it works. ``stop`` is set when the command is to
    end. ``shown`` is the listener of the operation that runs, if any does.
    """

    def __init__(
        self,
        args: Namespace,
        output: Output,
        *,
        environ: Mapping[str, str],
        program: tuple[str, ...],
        owner_uid: int,
        stop: Stop | None = None,
    ) -> None:
        self.args = args
        self.output = output
        self.environ = environ
        self.program = program
        self.owner_uid = owner_uid
        self.shown: ShownProgress | None = None
        self._stop = stop
        # The repositories that answered, by name, where several are named.
        self.members: tuple[str, ...] = ()
        # Files that options name, read while we were root.
        self.texts: dict[str, str] = {}
        self.verbose: bool = getattr(args, "verbose", False)
        self.log = Log(output.stderr, on=self.verbose, operation=getattr(args, "command", "-"))

    @cached_property
    def settings(self) -> Settings:
        """Loaded at the first use, so that ``pgkeep version`` works with a broken file."""
        overrides = {
            setting.name: getattr(self.args, setting.name, None)
            for setting in SETTINGS
            if not setting.secret and setting.name not in _NO_OPTION
        }
        config = getattr(self.args, "config", None)
        settings = load_settings(self.environ, overrides=overrides, config_file=config)
        for warning in settings.warnings:
            self.output.warn(warning)
        self.log.cluster = settings.cluster
        return settings

    def progress(self) -> ShownProgress:
        """A listener for an operation, to be used in a ``with``."""
        from pgkeep.cli.progress import make_progress

        mode = getattr(self.args, "progress", "auto")
        self.shown = make_progress(mode, self.output, self.log)
        return self.shown

    @cached_property
    def outages(self) -> Outages:
        """How the command gets through its store's outages."""
        from pgkeep.cli.outages import outages_of
        from pgkeep.storage.stop import Stop

        return outages_of(self, self._stop or Stop())
