"""Proofs from tiles of the Merkle tree: the leaves and, of its inner nodes, only every eighth level.

Whatever else is needed is computed from the 256 hashes of one tile. So a path in a log of sixteen million
entries reads at most a few tiles, and what is kept for it is a 255th of the leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from leasing.audit.merkle import TILE_HEIGHT, node_hash, root_of

# Level and number of a tile; its hashes, fewer at the right edge of the tree. Level 0 are the leaves.
Read = Callable[[int, int], Sequence[bytes]]


class Tiles:
    """A tree that is read tile by tile, each once."""

    def __init__(self, read: Read, *, height: int = TILE_HEIGHT) -> None:
        self._read = cache(read)
        self._height = height

    def path(self, index: int, size: int) -> list[bytes]:
        """The siblings from a leaf up to the root of the tree of `size` leaves (RFC 6962 §2.1.1)."""
        start, end, found = 0, size, []
        while end - start > 1:
            split = start + (1 << (end - start - 1).bit_length() - 1)
            if index < split:
                found.append(self._root(split, end))
                end = split
            else:
                found.append(self._root(start, split))
                start = split
        return found[::-1]

    def _root(self, start: int, end: int) -> bytes:
        """That of the leaves `[start, end)`, where a subtree of the tree begins at `start`."""
        height = (end - start).bit_length() - 1
        first = self._subtree(height, start >> height)
        rest = start + (1 << height)
        return first if rest == end else node_hash(first, self._root(rest, end))

    def _subtree(self, height: int, index: int) -> bytes:
        """The root of the `index`-th `2 ** height` leaves, from the next kept level below it."""
        level, rest = divmod(height, self._height)
        tile, place = divmod(index << rest, 1 << self._height)
        hashes = self._read(level, tile)[place : place + (1 << rest)]
        if len(hashes) < 1 << rest:
            raise LookupError(f"the hashes of level {level} from {index << rest} on are not there")
        return root_of(hashes)
