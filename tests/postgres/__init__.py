"""What pgkeep knows of PostgreSQL, compared with PostgreSQL itself."""
