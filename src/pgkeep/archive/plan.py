"""Moved to ``pgkeep.repository.wal_plan``, which restore and wal-fetch share."""

from pgkeep.repository.wal_plan import SegmentRange, WalPlan

__all__ = ["SegmentRange", "WalPlan"]
