"""pgkeep keeps a PostgreSQL cluster recoverable, and proves that it is."""

__version__ = "0.1.0"
