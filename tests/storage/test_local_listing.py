"""A listing of a directory tree is exactly the sorted list of its keys."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from pgkeep.storage.local import LocalStore

# Few letters, and all that sort before and after the slash.
_PART = st.from_regex(r"[aAz0][aA0._+=-]{0,2}", fullmatch=True)
_KEY = st.lists(_PART, min_size=1, max_size=4).map("/".join)


def _without_clashes(keys: set[str]) -> set[str]:
    """No object stands where another needs a directory."""
    return {key for key in keys if not any(other.startswith(f"{key}/") for other in keys)}


@settings(max_examples=60, deadline=None, database=None)
@given(
    keys=st.sets(_KEY, max_size=15).map(_without_clashes),
    prefix=st.one_of(st.just(""), _KEY, _KEY.map(lambda key: f"{key}/")),
    after=st.one_of(st.none(), _KEY, _KEY.map(lambda key: f"{key}/")),
)
def test_listing_is_sorting_and_filtering(keys: set[str], prefix: str, after: str | None) -> None:
    with tempfile.TemporaryDirectory() as directory:
        for key in keys:
            path = Path(directory, key)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
        store = LocalStore(directory, create=True)
        assert [info.key for info in store.list()] == sorted(keys)
        wanted = [key for key in sorted(keys) if key.startswith(prefix)]
        if after is not None:
            wanted = [key for key in wanted if key > after]
        assert [info.key for info in store.list(prefix, start_after=after)] == wanted
