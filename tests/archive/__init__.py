"""wal-push and wal-fetch: what their exit codes promise."""
