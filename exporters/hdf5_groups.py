"""Whether the groups of an HDF5 file are whole, found by hand before libhdf5 walks through them.

Files of the older form, which most tools write, keep the members of a group in a tree of symbol tables and their names
in a heap, without checksums. In damaged ones libhdf5 asks for gigabytes, or does not come to an end. Files of the
newer form have checksums there, and libhdf5 minds them. The layouts are those of the HDF5 File Format Specification
3.0: II.A (superblock), III.A.1, III.B, III.C, III.D (groups), IV.A.1 (object headers).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from mmap import ACCESS_READ, mmap
from pathlib import Path

from sca_deploy.errors import ScaDeployError

SIGNATURE = b"\x89HDF\r\n\x1a\n"
GROUPS_MAX = 200_000
_OLD = (0, 1)
"""Versions of the superblock whose groups have no checksums."""
_SYMBOL_TABLE, _CONTINUATION = 0x11, 0x10
_IN_TABLE, _LINK = 1, 2
"""What a symbol table entry remembers of an object: that it is a group and where its table is, or a link's value."""
_NO_MORE = 1
_ENTRY = struct.Struct("<QQI4xQQ")
_TREE = struct.Struct("<4sBBH16x")
_NODE = struct.Struct("<4sBxH")
_HEAP = struct.Struct("<4sB3xQQQ")
_HEADER = struct.Struct("<BxHII4x")
_MESSAGE = struct.Struct("<HHB3x")
_PAIR = struct.Struct("<QQ")


def check_groups(path: str | Path) -> None:
    """Follow all groups of a file of the older form.

    Raises:
        ScaDeployError: if the file is not HDF5, is shorter than it says, or a group of it is damaged.
        FileNotFoundError: if there is no file.
    """
    with Path(path).open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        content = memoryview(mmap(stream.fileno(), 0, access=ACCESS_READ) if size else b"")
    base = next((place for place in _superblocks(size) if bytes(content[place : place + 8]) == SIGNATURE), None)
    if base is None:
        raise ScaDeployError("it is not an HDF5 file")
    try:
        version, offset_size, length_size = struct.unpack_from("<B4xBB", content, base + 8)
        if version not in _OLD:
            return
        if (offset_size, length_size) != (8, 8):
            raise ScaDeployError(f"its addresses have {offset_size} bytes and its lengths {length_size}, expected 8")
        leaf, internal = struct.unpack_from("<HH", content, base + 16)
        start = base + 24 + 4 * version
        stated = struct.unpack_from("<Q", content, start + 16)[0]
        if stated > size:
            raise ScaDeployError(f"it has {size} bytes and says that it has {stated}: it was cut short")
        _Walk(content[base:], 2 * leaf, 2 * internal).follow(start + 32 - base)
    except (struct.error, IndexError) as error:
        raise ScaDeployError("a group of it leads out of the file: it is damaged") from error


def _superblocks(size: int) -> Iterator[int]:
    """Where a file may begin, behind what a user put before it."""
    yield 0
    place = 512
    while place < size:
        yield place
        place *= 2


@dataclass
class _Walk:
    """Follows groups from symbol table entries on; `content` begins with the superblock."""

    content: memoryview
    entries_max: int
    children_max: int
    seen: set[int] = field(default_factory=set)

    def follow(self, root: int) -> None:
        """The group of the entry at this place, and all below it."""
        waiting = [(root, "/")]
        while waiting:
            place, name = waiting.pop()
            _, header, kind, *cached = _ENTRY.unpack_from(self.content, place)
            if kind == _LINK or header in self.seen:
                continue
            self.seen.add(header)
            table = self._table(header)
            if table is None:  # no group, or one of the newer form
                continue
            if kind == _IN_TABLE and list(table) != cached:
                raise _damaged(name)
            waiting += [(at, f"{name.rstrip('/')}/{inner}") for at, inner in self._members(name, *table)]
            if len(waiting) > GROUPS_MAX:
                raise ScaDeployError(f"{name} is one of more than {GROUPS_MAX} members")

    def _table(self, header: int) -> tuple[int, int] | None:
        """Where the tree and the heap of an old group are; None for anything else."""
        if bytes(self.content[header : header + 4]) == b"OHDR":
            return None
        version, _, _, size = _HEADER.unpack_from(self.content, header)
        if version != 1:
            raise ScaDeployError(f"the object at byte {header} is damaged")
        blocks, seen = [(header + _HEADER.size, size)], {header}
        for place, size in blocks:
            end = min(place + size, len(self.content))
            while place + _MESSAGE.size <= end:
                kind, length, _ = _MESSAGE.unpack_from(self.content, place)
                place += _MESSAGE.size
                if kind == _SYMBOL_TABLE:
                    return _PAIR.unpack_from(self.content, place)
                if kind == _CONTINUATION:
                    more = _PAIR.unpack_from(self.content, place)
                    if more[0] in seen:
                        raise ScaDeployError(f"the object at byte {header} is damaged: it goes on in itself")
                    seen.add(more[0])
                    blocks.append(more)
                place += length
        return None

    def _members(self, group: str, tree: int, heap: int) -> Iterator[tuple[int, str]]:
        """Where the entries of a group are, and their names."""
        names = self._names(group, heap)
        for node in self._leaves(group, tree):
            signature, _, count = _NODE.unpack_from(self.content, node)
            if signature != b"SNOD" or count > self.entries_max:
                raise _damaged(group)
            for index in range(count):
                place = node + _NODE.size + index * _ENTRY.size
                offset = _ENTRY.unpack_from(self.content, place)[0]
                name, end, _ = names[offset : offset + (1 << 16)].partition(b"\0")
                if not name or not end or b"/" in name:
                    raise _damaged(group)
                yield place, name.decode("utf-8", "replace")

    def _names(self, group: str, heap: int) -> bytes:
        """The heap that holds a group's names, whose list of free places comes to an end."""
        signature, _, size, free, start = _HEAP.unpack_from(self.content, heap)
        if signature != b"HEAP" or start + size > len(self.content):
            raise _damaged(group)
        names, seen = bytes(self.content[start : start + size]), set()
        while free != _NO_MORE:
            if free in seen or free + _PAIR.size > size:
                raise _damaged(group)
            seen.add(free)
            free, _ = _PAIR.unpack_from(names, free)
        return names

    def _leaves(self, group: str, tree: int) -> Iterator[int]:
        """The symbol table nodes below a node of a group's tree."""
        waiting: list[tuple[int, int | None]] = [(tree, None)]
        while waiting:
            place, expected = waiting.pop()
            signature, kind, level, count = _TREE.unpack_from(self.content, place)
            right = expected is None or level == expected
            if signature != b"TREE" or kind != 0 or not right or count > self.children_max or place in self.seen:
                raise _damaged(group)
            self.seen.add(place)
            # Keys and children take turns: key, child, key, child, key.
            first = place + _TREE.size + 8
            children = [struct.unpack_from("<Q", self.content, first + 16 * index)[0] for index in range(count)]
            if level:
                waiting += [(child, level - 1) for child in children]
                continue
            if not self.seen.isdisjoint(children) or len(set(children)) < len(children):
                raise _damaged(group)
            self.seen.update(children)
            yield from children


def _damaged(group: str) -> ScaDeployError:
    return ScaDeployError(f"the group {group} is damaged", "restore the file from a copy")
