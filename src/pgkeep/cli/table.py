"""All commands, in the order in which help shows them.

A table, so that ``pgkeep --help`` and the dispatch import no command but the one that runs.
"""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """``name`` is one word, or two: a family, and what is done.

    ``as_owner``: started by root, it goes on as the owner of the data directory.
    """

    name: str
    group: str
    summary: str
    as_owner: bool = True

    @property
    def module(self) -> str:
        return "pgkeep.cli.commands." + self.name.replace("-", "_").replace(" ", "_")


COMMANDS: tuple[Command, ...] = (
    Command("init", "Set up", "Make a repository, or join this host to one."),
    Command("setup", "Set up", "Show, or apply, what the server needs: role, rights, archiving."),
    Command("keys", "Set up", "Show who can open the repository, or change it."),
    Command(
        "policy", "Set up", "Print the bucket policy for a role: writer, pruner, restorer.", False
    ),
    Command("config", "Set up", "Show the effective settings and where each came from.", False),
    Command("backup", "Keep", "Make a base backup of the running server."),
    Command("wal-push", "Keep", "Archive one WAL file (the server's archive_command).", False),
    Command("mark", "Keep", "Name this moment, to go back to it."),
    Command("hold", "Keep", "Keep a backup, whatever the policy says."),
    Command("release", "Keep", "End a hold."),
    Command("expire", "Keep", "Give up what the policy does not keep."),
    Command("delete", "Keep", "Put a backup into the trash."),
    Command("undelete", "Keep", "Take a backup out of the trash."),
    Command("copy", "Keep", "Make repositories alike, or move to another one."),
    Command("dump create", "Dump", "Dump databases with pg_dump, straight into the repository."),
    Command("dump list", "Dump", "List dumps, a line each."),
    Command("dump show", "Dump", "Show one dump in detail."),
    Command("dump fetch", "Dump", "Fetch a dump, decrypted, into a directory.", False),
    Command("dump restore", "Dump", "Restore a dump, or some of it, into a server."),
    Command("dump expire", "Dump", "Delete the dumps that the policy does not keep."),
    Command("dump delete", "Dump", "Delete dumps, for good."),
    Command("list", "Look", "List backups, and the moments one can go back to."),
    Command("show", "Look", "Show one backup in detail."),
    Command("verify", "Look", "Check that everything that should be restorable is there."),
    Command("restore", "Recover", "Restore a cluster into a directory, to any moment.", False),
    Command("wal-fetch", "Recover", "Fetch one WAL file (the server's restore_command).", False),
    Command("demo", "Learn", "Play the whole story on throw-away servers, in a minute.", False),
    Command("completion", "Learn", "Print the completion script for a shell.", False),
    Command("version", "Learn", "Print the version of pgkeep and of what it is built on.", False),
)
BY_NAME = {command.name: command for command in COMMANDS}
FAMILIES = frozenset(command.name.split()[0] for command in COMMANDS if " " in command.name)
"""First words that mean nothing without a second."""
