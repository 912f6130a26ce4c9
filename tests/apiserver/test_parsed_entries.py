"""Objects that are kept parsed: those looked at last, of a bounded number of bytes whatever their sizes are."""

import orjson
import pytest

from rayplane.control_plane.api.machinery.resources import builtin_registry
from rayplane.control_plane.apiserver.storage.entries import PARSED, Entry

CONFIG_MAPS = builtin_registry().by_name("configmaps")
AROUND = 200  # bytes of an object that are not its content


def entry(size: int) -> Entry:
    metadata = {"name": "a", "namespace": "d"}
    content = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": metadata, "data": {"a": "x" * (size - AROUND)}}
    return Entry(CONFIG_MAPS, "/registry/configmaps/d/a", orjson.dumps(content), 7)


def test_all_that_is_kept_has_no_more_than_its_room() -> None:
    assert sum(bytes_max * count for bytes_max, count in PARSED) <= 32 * 1024**2


@pytest.mark.parametrize(("bytes_max", "count"), PARSED[1:])
def test_as_many_of_a_size_are_kept_as_there_is_room_for_and_smaller_ones_beside_them(
    bytes_max: int, count: int
) -> None:
    small = entry(1000)
    entries = [entry(bytes_max) for _ in range(count + 1)]
    looked = [one.object for one in (small, *entries)]
    assert small.object is looked[0] and all(entries[k].object is looked[k + 1] for k in range(1, count + 1))
    assert entries[0].object is not looked[1]


def test_one_that_is_larger_than_all_of_them_is_read_and_not_kept() -> None:
    huge = entry(PARSED[-1][0] + 2 * AROUND)
    assert huge.object is not huge.object and huge.object == huge.fresh_object()
