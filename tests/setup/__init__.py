"""``init`` and ``setup`` on real servers."""
