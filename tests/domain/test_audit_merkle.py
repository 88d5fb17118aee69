"""The Merkle tree: RFC 6962's own example, then every small tree, then trees of any size."""

from __future__ import annotations

from hashlib import sha256

from hypothesis import given, settings
from hypothesis import strategies as st

from leasing.audit.merkle import (
    EMPTY_ROOT,
    Frontier,
    consistency_path,
    includes,
    inclusion_path,
    is_consistent,
    leaf_hash,
    node_hash,
    root_of,
)
from leasing.audit.tiles import Tiles

# The eight leaves and the roots that Certificate Transparency's reference implementations are tested with.
KNOWN_LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
KNOWN_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def leaves(count: int) -> list[bytes]:
    return [leaf_hash(str(number).encode()) for number in range(count)]


def test_known_roots() -> None:
    frontier = Frontier()
    assert frontier.root() == EMPTY_ROOT == sha256(b"").digest()
    for leaf, root in zip(KNOWN_LEAVES, KNOWN_ROOTS, strict=True):
        frontier.append(leaf_hash(leaf))
        assert frontier.root().hex() == root


def test_leaves_and_nodes_cannot_be_mistaken_for_each_other() -> None:
    left, right = leaves(2)
    assert node_hash(left, right) != leaf_hash(left + right)


def test_every_leaf_of_every_small_tree_is_proven_and_no_other() -> None:
    for size in range(1, 34):
        known = leaves(size)
        root = root_of(known)
        for index, leaf in enumerate(known):
            path = inclusion_path(index, known)
            assert includes(leaf=leaf, index=index, size=size, path=path, root=root)
            stranger = leaf_hash(b"stranger")
            assert not includes(leaf=stranger, index=index, size=size, path=path, root=root)
            assert not includes(leaf=leaf, index=size, size=size, path=path, root=root)
            assert not includes(leaf=leaf, index=index, size=size, path=[*path, leaf], root=root)
            if path:
                assert not includes(leaf=leaf, index=index, size=size, path=path[:-1], root=root)
                assert not includes(leaf=leaf, index=index ^ 1, size=size, path=path, root=root)


def test_every_small_tree_begins_with_every_smaller_one() -> None:
    known = leaves(33)
    for new in range(1, 34):
        for old in range(1, new + 1):
            path = consistency_path(old, known[:new])
            roots = {"old_root": root_of(known[:old]), "new_root": root_of(known[:new])}
            assert is_consistent(old_size=old, new_size=new, path=path, **roots)
            assert not is_consistent(old_size=old, new_size=new, path=[*path, known[0]], **roots)
            forged = {**roots, "old_root": leaf_hash(b"another past")}
            assert not is_consistent(old_size=old, new_size=new, path=path, **forged)
            if old < new:
                forged = {**roots, "new_root": leaf_hash(b"another present")}
                assert not is_consistent(old_size=old, new_size=new, path=path, **forged)


@settings(deadline=None)  # on a busy machine an example may take its time
@given(st.integers(1, 300), st.data())
def test_a_tree_of_any_size_proves_its_leaves_and_its_past(size: int, data: st.DataObject) -> None:
    known = leaves(size)
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    root = root_of(known)
    path = inclusion_path(index, known)
    assert includes(leaf=known[index], index=index, size=size, path=path, root=root)
    assert len(path) <= (size - 1).bit_length()
    assert is_consistent(
        old_size=old,
        new_size=size,
        old_root=root_of(known[:old]),
        new_root=root,
        path=consistency_path(old, known),
    )


def tiled(known: list[bytes], *, height: int) -> Tiles:
    """The tree as it is kept: its leaves, and of its inner nodes those of every so manieth level."""
    kept, frontier = {0: dict(enumerate(known))}, Frontier(height)
    for leaf in known:
        frontier.append(leaf)
    for level, number, root in frontier.completed:
        kept.setdefault(level, {})[number] = root

    def read(level: int, tile: int) -> list[bytes]:
        first = tile << height
        rows = kept.get(level, {})
        return [rows[number] for number in range(first, first + (1 << height)) if number in rows]

    return Tiles(read, height=height)


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 4), st.data())
def test_a_path_from_tiles_is_that_from_all_leaves(size: int, height: int, data: st.DataObject) -> None:
    known = leaves(size)
    tiles, smaller = tiled(known, height=height), data.draw(st.integers(1, size))
    index = data.draw(st.integers(0, smaller - 1))
    assert tiles.path(index, smaller) == inclusion_path(index, known[:smaller])
