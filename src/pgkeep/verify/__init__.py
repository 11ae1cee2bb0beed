"""Whether everything that should be restorable is there, and whether its bytes are sound.

Three levels. *quick* looks at what is there: manifests, packs with their sizes, WAL without gaps.
*scrub* reads objects and compares the hashes that they carry, which takes no key. *deep* opens
them as well. Damage is a finding and never stops a check; a store that does not answer does.
"""
