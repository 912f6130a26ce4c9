"""Check of an LMDB file before it is opened: a walk over every page of it, before the library maps it.

LMDB has no checksums and follows page numbers and offsets as it finds them: one flipped bit can lose records, mix
buckets or end the process. So the pages are walked here with every number checked: each page is used once, by its
own number; nodes fill a page exactly to where it says; keys ascend within what their parents allow; the counts of
each tree are those that its root says; free pages are free. The records' contents have checksums of their own
(`seals`).

Facts of the file format: LMDB 0.9, its structures MDB_page, MDB_node, MDB_db and MDB_meta; 64-bit little-endian.
"""

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rayplane.storage.keyvalue.errors import CorruptStore

_PAGE = struct.Struct("<QHHHH")  # number, pad, flags, lower, upper (of overflow pages: count u32)
_COUNT = struct.Struct("<I")
_NODE = struct.Struct("<HHHH")  # size or page number in low, high, flags; key length
_DB = struct.Struct("<IHHQQQQQ")  # pad, flags, depth, branch, leaf, overflow pages, entries, root
# Magic, version, address, map size, the trees of free pages and of buckets, last page, transaction.
_META = struct.Struct(f"<IIQQ{_DB.size}s{_DB.size}sQQ")
_NUMBER = struct.Struct("<Q")
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_BRANCH, _LEAF, _OVERFLOW, _IS_META = 1, 2, 4, 8
_BIG, _TREE = 1, 2
_FREE_FLAGS = 8  # keys are integers
_NONE = (1 << 64) - 1
_DEPTH_MAX = 32


@dataclass(slots=True)
class _Tree:
    """A tree as its root describes it, and as it is found."""

    flags: int
    depth: int
    expected: tuple[int, int, int, int]
    root: int
    found: list[int] = field(default_factory=lambda: [0, 0, 0, 0])  # branch, leaf, overflow pages, entries

    @classmethod
    def decode(cls, data: bytes) -> "_Tree":
        _, flags, depth, *expected, root = _DB.unpack(data)
        return cls(flags, depth, (expected[0], expected[1], expected[2], expected[3]), root)


def check_file(path: Path) -> None:
    """Check a file. Raises CorruptStore when it is not sound, OSError when it cannot be read."""
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        if not size:
            raise CorruptStore(str(path), "it is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                _Check(path, data).run()
            except struct.error as e:
                raise CorruptStore(str(path), f"it is cut short ({e})") from e


class _Check:
    """One walk."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path, self._data = path, data
        self._used = bytearray()

    def run(self) -> None:
        metas = [self._meta(n) for n in (0, self._page_bytes())]
        free, main, last, _ = max(metas, key=lambda meta: meta[3])
        if last > (1 << 40):
            self._fail(0, "the number of pages is absurd")
        self._used = bytearray(last + 1)
        self._used[0:2] = b"\1\1"
        trees = [_Tree.decode(value) for value in self._walk(_Tree.decode(main), subtrees=True)]
        for tree in trees:
            for _ in self._walk(tree):
                pass
        free_tree = _Tree.decode(free)
        lists = list(self._walk(free_tree, expected_flags=_FREE_FLAGS, values=True))
        for pages in lists:
            self._take_free(pages)

    def _fail(self, page: int, reason: str) -> None:
        raise CorruptStore(str(self._path), f"page {page}: {reason}")

    def _page_bytes(self) -> int:
        (size,) = _COUNT.unpack_from(self._data, _PAGE.size + 24)  # the first tree's pad holds it
        if size not in (1 << n for n in range(9, 17)) or len(self._data) < 2 * size:
            self._fail(0, "its size is wrong")
        self._size = size
        return int(size)

    def _meta(self, offset: int) -> tuple[bytes, bytes, int, int]:
        _, _, flags, _, _ = _PAGE.unpack_from(self._data, offset)
        magic, version, _, _, free, main, last, transaction = _META.unpack_from(self._data, offset + _PAGE.size)
        if (flags, magic, version) != (_IS_META, _MAGIC, _VERSION) or free[:4] != _COUNT.pack(self._size):
            self._fail(offset // self._size, "it is not a head")
        return free, main, last, transaction

    def _use(self, first: int, count: int = 1) -> None:
        """These pages belong to something now."""
        stop = first + count
        if not 2 <= first < stop <= len(self._used):
            self._fail(first, "there is no such page")
        if any(self._used[first:stop]):
            self._fail(first, "it is used twice")
        self._used[first:stop] = b"\1" * count

    def _take_free(self, value: bytes) -> None:
        (count,) = _NUMBER.unpack_from(value)
        if (count + 1) * _NUMBER.size > len(value):
            self._fail(0, "a list of free pages is cut short")
        for (page,) in _NUMBER.iter_unpack(value[_NUMBER.size : (count + 1) * _NUMBER.size]):
            self._use(page)

    def _walk(
        self, tree: _Tree, *, expected_flags: int = 0, subtrees: bool = False, values: bool = False
    ) -> Iterator[bytes]:
        """Check a tree; gives its values if they are wanted, or those that are trees if there may be such."""
        if tree.flags != expected_flags:
            self._fail(0, "a tree's flags are wrong")
        if tree.root == _NONE:
            if tree.depth or any(tree.expected):
                self._fail(0, "an empty tree says that it is not")
            return
        if not 0 < tree.depth <= _DEPTH_MAX:
            self._fail(tree.root, "the tree's depth is wrong")
        integers = expected_flags == _FREE_FLAGS
        # Pages to visit: number, depth, the keys that it lies between.
        waiting: list[tuple[int, int, bytes, bytes | None]] = [(tree.root, 1, b"", None)]
        while waiting:
            number, depth, low, high = waiting.pop()
            self._use(number)
            offset = number * self._size
            own, _, flags, lower, upper = _PAGE.unpack_from(self._data, offset)
            leaf = depth == tree.depth
            if own != number or flags != (_LEAF if leaf else _BRANCH):
                self._fail(number, "it is another page, or one of another kind")
            if not _PAGE.size <= lower <= upper <= self._size or lower & 1:
                self._fail(number, "its bounds are wrong")
            page = self._data[offset : offset + self._size]
            nodes = struct.unpack_from(f"<{(lower - _PAGE.size) // 2}H", page, _PAGE.size)
            if not nodes:
                self._fail(number, "it is empty")
            if leaf:
                tree.found[1] += 1
                tree.found[3] += len(nodes)
                yield from self._leaf(tree, number, page, nodes, (low, high, integers), (subtrees, values))
            else:
                tree.found[0] += 1
                waiting += self._branch(number, page, nodes, (depth, low, high, integers))
        if tuple(tree.found) != tree.expected:
            self._fail(tree.root, f"the tree has {tree.found} pages and entries instead of {list(tree.expected)}")

    def _branch(
        self, number: int, page: bytes, nodes: tuple[int, ...], within: tuple[int, bytes, bytes | None, bool]
    ) -> list[tuple[int, int, bytes, bytes | None]]:
        depth, low, high, integers = within
        children: list[tuple[int, bytes]] = []
        room, previous = 0, low
        for position, at in enumerate(nodes):
            if at + _NODE.size > self._size:
                self._fail(number, "a node is outside")
            first, second, third, length = _NODE.unpack_from(page, at)
            key = page[at + _NODE.size : at + _NODE.size + length]
            room += (_NODE.size + length + 1) & ~1
            if position:
                if integers:
                    key = key[::-1]
                if not previous < key or (high is not None and key >= high):
                    self._fail(number, "its keys are not in order")
                previous = key
            children.append((first | second << 16 | third << 32, previous))
        if room != self._size - self._upper(page):
            self._fail(number, "its nodes do not fill it")
        following = [key for _, key in children[1:]]
        return [(child, depth + 1, key, stop) for (child, key), stop in zip(children, [*following, high], strict=True)]

    @staticmethod
    def _upper(page: bytes) -> int:
        upper: int = _PAGE.unpack_from(page)[4]
        return upper

    def _leaf(
        self,
        tree: _Tree,
        number: int,
        page: bytes,
        nodes: tuple[int, ...],
        within: tuple[bytes, bytes | None, bool],
        wanted: tuple[bool, bool],
    ) -> Iterator[bytes]:
        low, high, integers = within
        subtrees, values = wanted
        size, unpack, room, previous = self._size, _NODE.unpack_from, 0, None
        for at in nodes:
            if at + 8 > size:
                self._fail(number, "a node is outside")
            first, second, flags, length = unpack(page, at)
            start, bytes_ = at + 8 + length, first | second << 16
            key = page[at + 8 : start]
            if integers:
                key = key[::-1]
            if key < low if previous is None else key <= previous:
                self._fail(number, "its keys are not in order")
            previous = key
            held = 8 if flags == _BIG else bytes_
            stop = start + held
            if stop > size:
                self._fail(number, "a record is cut short")
            room += (8 + length + held + 1) & ~1
            if flags == _BIG:
                value = self._overflow(tree, page[start:stop], bytes_, wanted=values)
            elif flags == (_TREE if subtrees else 0):
                value = page[start:stop]
            else:
                self._fail(number, "a record's flags are wrong")
            if subtrees and bytes_ != _DB.size:
                self._fail(number, "a bucket's description is cut short")
            if subtrees or values:
                yield value
        if high is not None and previous is not None and previous >= high:
            self._fail(number, "its keys are not in order")
        if room != size - self._upper(page):
            self._fail(number, "its nodes do not fill it")

    def _overflow(self, tree: _Tree, pointer: bytes, length: int, *, wanted: bool) -> bytes:
        """A value that has pages of its own."""
        (number,) = _NUMBER.unpack(pointer)
        if not 2 <= number < len(self._used):
            self._fail(number, "there is no such page")
        offset = number * self._size
        own, _, flags, _, _ = _PAGE.unpack_from(self._data, offset)
        (count,) = _COUNT.unpack_from(self._data, offset + 12)
        if own != number or flags != _OVERFLOW or count < (_PAGE.size + length + self._size - 1) // self._size:
            self._fail(number, "it is not the long value that it should be")
        self._use(number, count)
        tree.found[2] += count
        start = offset + _PAGE.size
        if start + length > len(self._data):
            self._fail(number, "a long value is cut short")
        return self._data[start : start + length] if wanted else b""
