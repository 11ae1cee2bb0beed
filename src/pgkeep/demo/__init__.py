"""The whole story on one machine: an embedded PostgreSQL, a lost table, and its return."""
