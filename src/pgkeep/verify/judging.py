"""Whether one object is sound, as far as a level goes."""

from __future__ import annotations

from pgkeep.errors import DamagedObject, WrongIdentity
from pgkeep.repository.checks import DEEP, SCRUB, Finding
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.verify.needs import Needs
from pgkeep.verify.page_places import PagePlaces
from pgkeep.verify.problem import what_of
from pgkeep.verify.soundness import check_opened, check_stored

_PAGES_NAMED = 3


class Judge:
    """Reads objects and judges them; may be used by many threads.

    ``needs`` tells which packs the manifests name, if they could be read; ``places`` which pages
    have checksums, for a deep look.
    """

    def __init__(
        self,
        repository: Repository,
        layout: Layout,
        needs: Needs | None,
        places: PagePlaces | None = None,
    ) -> None:
        self._repository, self._layout = repository, layout
        self._needs, self._places = needs, places

    def look(self, key: str, *, deep: bool) -> Finding | None:
        """What is wrong with an object; None for nothing.

        Raises ``ObjectNotFound``, ``IdentityNeeded`` for a deep look without the identity, and what
        the store raises.
        """
        keyring = self._repository.keyring
        data = self._repository.store.get(key)
        try:
            digest = check_stored(data, key, self._layout, keyring)
            expected = self._needs.expected(key) if self._needs is not None else None
            if expected is not None and digest != expected[1]:
                return Finding(SCRUB, "it is not the pack that the manifest names")
        except DamagedObject as error:
            return Finding(SCRUB, what_of(error, key))
        if not deep:
            return None
        try:
            failed = check_opened(data, key, self._layout, keyring, places=self._places)
        except (DamagedObject, WrongIdentity) as error:
            return Finding(DEEP, what_of(error, key))
        return _flaw(failed) if failed else None


def _flaw(failed: list[str]) -> Finding:
    shown = ", ".join(failed[:_PAGES_NAMED])
    more = f" and {len(failed) - _PAGES_NAMED} more" if len(failed) > _PAGES_NAMED else ""
    one = len(failed) == 1
    return Finding(
        DEEP,
        f"{shown}{more} {'fails its page checksum' if one else 'fail their page checksums'}, "
        f"though {'it is' if one else 'they are'} what was stored: damaged when "
        f"{'it was' if one else 'they were'} stored",
        is_flaw=True,
    )
