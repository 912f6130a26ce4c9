"""The judge of REST answers, on good histories and on bad ones."""

from rayplane.control_plane.invariants.rest_ledger import Entry, Ledger, Shown


def begun(*ids: str) -> Ledger:
    """A ledger whose watch has begun, with objects made at versions 11, 12, ... that the watch has told."""
    ledger = Ledger()
    ledger.restarted(10, ())
    for number, key in enumerate(ids, start=11):
        shown = Shown(key, key, "1", number)
        assert ledger.wrote(Entry(key, key), shown) == []
        assert ledger.told("ADDED", shown) == []
    return ledger


def test_a_good_history_is_good() -> None:
    ledger = begun("a", "b")
    a, b = ledger.entries["a"], ledger.entries["b"]
    assert ledger.wrote(a, Shown("a", "a", "2", 13)) == []
    assert ledger.read(a, Shown("a", "a", "2", 13)) == []
    assert ledger.told("MODIFIED", Shown("a", "a", "2", 13)) == []
    ledger.deleted(b)
    assert ledger.read(b, None) == []
    assert ledger.listed(14, [Shown("a", "a", "2", 13)]) == []
    assert ledger.told("DELETED", Shown("b", "b", "1", 14)) == []
    assert ledger.bookmark(20) == []
    assert ledger.finished() == []


def test_a_lost_write_is_found_by_a_read_and_by_a_list() -> None:
    ledger = begun("a")
    assert ledger.read(ledger.entries["a"], None) != []
    assert ledger.listed(12, []) != []
    assert ledger.listed(12, [Shown("a", "a", "old", 11)]) != []


def test_what_was_refused_must_not_be_there() -> None:
    ledger = begun()
    [found] = ledger.listed(12, [Shown("refused", "refused", "1", 11)])
    assert "never made" in found


def test_one_request_makes_one_object() -> None:
    ledger = begun()
    ledger.unknown(Entry("a"), "1")
    twice = [Shown("a", "drawn-x", "1", 11), Shown("a", "drawn-y", "1", 12)]
    assert any("two objects" in found for found in ledger.listed(12, twice))


def test_an_unknown_write_is_either_or_for_good() -> None:
    ledger = begun("a")
    a = ledger.entries["a"]
    ledger.unknown(a, "2")
    for value in ("1", "2", "1"):
        assert ledger.read(a, Shown("a", "a", value, 12)) == []
    assert ledger.read(a, None) != []
    ledger.unknown(a, None)
    assert ledger.read(a, None) == []


def test_a_list_that_goes_back_is_found() -> None:
    ledger = begun("a")
    assert ledger.listed(10, [Shown("a", "a", "1", 11)]) != []


def test_a_read_that_may_be_old_shows_what_was_deleted_and_nothing_older() -> None:
    ledger = begun("a")
    a = ledger.entries["a"]
    ledger.wrote(a, Shown("a", "a", "2", 12))
    ledger.deleted(a)
    for value, found in (("2", 0), ("1", 1)):
        assert len(ledger.read(a, Shown("a", "a", value, 12), aged=True)) == found
        assert len(ledger.listed(12, [Shown("a", "a", value, 12)], aged=True)) == found
    assert ledger.read(a, Shown("a", "a", "2", 12)) != []
    assert ledger.listed(11, [Shown("a", "a", "2", 12)], aged=True) != []


def test_a_list_at_a_version_is_of_that_version() -> None:
    ledger = begun("a")
    assert ledger.listed_at(11, 11, [Shown("a", "a", "1", 11)]) == []
    assert ledger.listed_at(11, 12, []) != []
    assert ledger.listed_at(11, 11, [Shown("a", "a", "2", 12)]) != []


def test_a_watch_that_begins_before_what_was_seen_is_found() -> None:
    ledger = begun("a")
    assert ledger.restarted(11, [Shown("a", "a", "1", 11)], floor=11) == []
    assert ledger.restarted(10, [], floor=11) != []


def test_a_write_below_what_was_seen_is_found() -> None:
    ledger = begun("a")
    assert ledger.wrote(Entry("b", "b"), Shown("b", "b", "1", 11)) != []


def test_an_event_that_the_watch_leaves_out_is_found_at_the_next_bookmark() -> None:
    ledger = begun("a")
    ledger.wrote(ledger.entries["a"], Shown("a", "a", "2", 12))
    [found] = ledger.bookmark(12)
    assert "did not tell of a at version 12" in found


def test_an_event_that_is_left_out_is_found_at_the_end() -> None:
    ledger = begun("a", "b")
    ledger.wrote(ledger.entries["a"], Shown("a", "a", "2", 13))
    ledger.wrote(ledger.entries["b"], Shown("b", "b", "2", 14))
    ledger.told("MODIFIED", Shown("b", "b", "2", 14))
    assert len(ledger.finished()) == 2  # not told, and the view is old


def test_a_deletion_that_is_not_told_is_found_at_the_end() -> None:
    ledger = begun("a")
    ledger.deleted(ledger.entries["a"])
    assert ledger.finished() != []


def test_a_watch_that_goes_back_or_tells_twice_is_found() -> None:
    ledger = begun("a")
    assert ledger.told("MODIFIED", Shown("a", "a", "1", 11)) != []
    assert ledger.told("ADDED", Shown("a", "a", "1", 12)) != []
    assert ledger.told("DELETED", Shown("never", "never", "1", 13)) != []
    assert ledger.bookmark(5) != []


def test_what_happened_while_history_was_lost_need_not_be_told() -> None:
    ledger = begun("a")
    ledger.wrote(ledger.entries["a"], Shown("a", "a", "2", 12))
    ledger.restarted(12, [Shown("a", "a", "2", 12)])
    assert ledger.finished() == []
