"""Cron schedules: what Kubernetes takes and refuses, with its messages, and the times that schedules name."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rayplane.control_plane.api import cron, meta
from rayplane.control_plane.api.cron import CronError, parse_schedule, time_zone
from rayplane.control_plane.api.kinds.registry import rules_of
from tests.tiers import examples

START = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize(
    ("text", "following"),
    [
        ("* * * * *", "2026-01-01T00:01:00Z"),
        ("*/15 * * * *", "2026-01-01T00:15:00Z"),
        ("30 4 * * *", "2026-01-01T04:30:00Z"),
        ("30 4 3,15 * *", "2026-01-03T04:30:00Z"),
        ("0 0 29 2 *", "2028-02-29T00:00:00Z"),
        ("0 9 * * mon-FRI", "2026-01-01T09:00:00Z"),
        ("0 0 13 * 5", "2026-01-02T00:00:00Z"),  # either day field will do
        ("0 0 */2 * 5", "2026-01-02T00:00:00Z"),  # a step restricts, too
        ("0 0 ? * 5", "2026-01-02T00:00:00Z"),
        ("5,10-12/2 1 * jan *", "2026-01-01T01:05:00Z"),
        ("+5 007 * * *", "2026-01-01T07:05:00Z"),
        ("50/5 * * * *", "2026-01-01T00:50:00Z"),
        ("@hourly", "2026-01-01T01:00:00Z"),
        ("@weekly", "2026-01-04T00:00:00Z"),
        ("@yearly", "2027-01-01T00:00:00Z"),
        ("@every 1h30m", "2026-01-01T01:30:00Z"),
        ("@every 1ms", "2026-01-01T00:00:01Z"),
        ("@every -1h", "2026-01-01T00:00:01Z"),
    ],
)
def test_next_time(text: str, following: str) -> None:
    found = parse_schedule(text).next_after(START)
    assert found is not None and meta.format_time(found) == following


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty spec string"),
        ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
        ("0 * * * * *", "expected exactly 5 fields, found 6: [0 * * * * *]"),
        ("0 0 * * 7", "end of range (7) above maximum (6): 7"),
        ("0 0 * * 5-7", "end of range (7) above maximum (6): 5-7"),
        ("60 * * * *", "end of range (60) above maximum (59): 60"),
        ("0 0 0 * *", "beginning of range (0) below minimum (1): 0"),
        ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
        ("*/0 * * * *", "step of range should be a positive number: */0"),
        ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
        ("1/2/3 * * * *", "too many slashes: 1/2/3"),
        ("0 0 L * *", 'failed to parse int from L: strconv.Atoi: parsing "L": invalid syntax'),
        ("0 0 * * 1#2", 'failed to parse int from 1#2: strconv.Atoi: parsing "1#2": invalid syntax'),
        ("0 0 * * 1L", 'failed to parse int from 1L: strconv.Atoi: parsing "1L": invalid syntax'),
        ("@often", "unrecognized descriptor: @often"),
        (" @hourly", "expected exactly 5 fields, found 1: [@hourly]"),
        ("@every 1d", 'failed to parse duration @every 1d: time: unknown unit "d" in duration "1d"'),
        ("TZ=UTC 0 * * * *", "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"),
    ],
)
def test_what_is_refused_and_how(text: str, message: str) -> None:
    with pytest.raises(CronError) as refused:
        parse_schedule(text)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("zone", "message"),
    [
        ("", "timeZone must be nil or non-empty string"),
        ("Local", "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"),
        *(
            (name, f"unknown time zone {name}")
            for name in ("Mars/Olympus", "../etc/passwd", "America", "/UTC", "A" * 300)
        ),
    ],
)
def test_the_api_server_refuses_a_zone_by_its_field(zone: str, message: str) -> None:
    spec = {"schedule": "0 0 * * 7", "timeZone": zone, "jobTemplate": {}}
    errors = {e.field: e for e in rules_of("batch", "CronJob").validate({"metadata": {"name": "c"}, "spec": spec})}
    assert errors["spec.timeZone"].detail == message
    assert errors["spec.schedule"].detail == "end of range (7) above maximum (6): 7"


@pytest.mark.parametrize(
    ("text", "start", "count", "times"),
    [
        # Clocks go from 02:00 to 03:00 on 8 March 2026: 02:30 is left out that day, not moved.
        ("30 2 * * *", "2026-03-07T12:00:00-05:00", 2, ["2026-03-09T02:30:00-04:00", "2026-03-10T02:30:00-04:00"]),
        ("0 * * * *", "2026-03-08T01:30:00-05:00", 2, ["2026-03-08T03:00:00-04:00", "2026-03-08T04:00:00-04:00"]),
        # They go from 02:00 back to 01:00 on 1 November 2026: 01:30 comes twice.
        ("30 1 * * *", "2026-10-31T12:00:00-04:00", 2, ["2026-11-01T01:30:00-04:00", "2026-11-01T01:30:00-05:00"]),
        ("@every 1h", "2026-11-01T00:30:00-04:00", 2, ["2026-11-01T01:30:00-04:00", "2026-11-01T01:30:00-05:00"]),
    ],
)
def test_clock_changes(text: str, start: str, count: int, times: list[str]) -> None:
    at = datetime.fromisoformat(start).astimezone(time_zone("America/New_York"))
    found = []
    for _ in range(count):
        following = parse_schedule(text).next_after(at)
        assert following is not None
        at = following
        found.append(at.isoformat())
    assert found == times


@pytest.mark.parametrize("text", ["0 0 31 2 *", "0 0 30 feb *", ", * * * *", "* * , * *"])
def test_a_schedule_that_never_comes(text: str) -> None:
    schedule = parse_schedule(text)
    assert schedule.next_after(START) is None
    assert schedule.latest(START - timedelta(days=4000), START) is None


def test_a_day_farther_than_five_years_is_none() -> None:
    # 2100 is no leap year.
    assert parse_schedule("0 0 29 2 *").next_after(datetime(2096, 3, 1, tzinfo=UTC)) is None
    assert parse_schedule("* * * * *").next_after(datetime(9999, 12, 31, 23, 59, tzinfo=UTC)) is None


# --- against counting minutes -----------------------------------------------------------------------


def _field(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    part = st.one_of(
        number.map(str),
        st.tuples(number, number).map(lambda pair: f"{min(pair)}-{max(pair)}"),
        st.tuples(number, number, st.integers(1, 9)).map(lambda t: f"{min(t[:2])}-{max(t[:2])}/{t[2]}"),
        st.integers(2, 40).map(lambda step: f"*/{step}"),
    )
    return st.one_of(st.sampled_from(["*", "?"]), st.lists(part, min_size=1, max_size=3).map(",".join))


def _values(text: str, low: int, high: int) -> set[int]:
    """What a field allows, read in another way: by asking of each value whether some part takes it."""

    def takes(part: str, value: int) -> bool:
        body, _, step = part.partition("/")
        first, _, last = body.partition("-")
        start = low if first in "*?" else int(first)
        end = high if first in "*?" or (step and not last) else int(last or first)
        return start <= value <= end and (value - start) % int(step or 1) == 0

    return {value for value in range(low, high + 1) if any(takes(part, value) for part in text.split(","))}


def _dumb_next(fields: list[str], start: datetime, limit: int) -> datetime | None:
    """The next matching minute by looking at each; None beyond `limit` minutes."""
    minutes, hours, days, months, weekdays = (
        _values(text, *bounds)
        for text, bounds in zip(fields, ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6)), strict=True)
    )
    free = {"*", "?"}
    either = fields[2] not in free and fields[4] not in free
    at = start.astimezone(UTC).replace(second=0, microsecond=0)
    for _ in range(limit):
        at += MINUTE
        shown = at.astimezone(start.tzinfo)
        by_day, by_weekday = shown.day in days, shown.isoweekday() % 7 in weekdays
        right_day = by_day or by_weekday if either else by_day and by_weekday
        if right_day and shown.month in months and shown.hour in hours and shown.minute in minutes:
            return shown
    return None


ZONES = ["UTC", "America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "America/Sao_Paulo", "Asia/Kathmandu"]
FIELDS = st.tuples(_field(0, 59), _field(0, 23), _field(1, 31), st.just("*"), _field(0, 6)).map(list)
# Days around which the clocks of these zones change, and any others.
STARTS = st.one_of(
    st.sampled_from(
        ["2026-03-07", "2026-03-28", "2026-10-31", "2026-10-24", "2026-04-04", "2018-11-03", "2018-02-17"]
    ).map(lambda day: datetime.fromisoformat(day).replace(tzinfo=UTC)),
    st.integers(0, 600).map(lambda days: START + timedelta(days=days)),
)


@given(FIELDS, STARTS, st.integers(0, 3 * 24 * 3600), st.sampled_from(ZONES))
@example(["30", "0", "*", "*", "*"], datetime(2018, 11, 3, tzinfo=UTC), 0, "America/Sao_Paulo")  # midnight is skipped
@example(["45", "1", "*", "*", "*"], datetime(2026, 4, 4, tzinfo=UTC), 0, "Australia/Lord_Howe")  # half an hour twice
@settings(max_examples=examples(150), deadline=None)
def test_the_next_time_is_that_of_counting_minutes(fields: list[str], day: datetime, past_s: int, zone: str) -> None:
    start = (day + timedelta(seconds=past_s)).astimezone(time_zone(zone))
    limit = 4 * 24 * 60
    expected = _dumb_next(fields, start, limit)
    found = parse_schedule(" ".join(fields)).next_after(start)
    if expected is None:
        assert found is None or found.astimezone(UTC) > start.astimezone(UTC) + limit * MINUTE - MINUTE
    else:
        assert found is not None and found.isoformat() == expected.isoformat()


@given(FIELDS, STARTS, st.integers(1, 24 * 60), st.sampled_from(ZONES))
@settings(max_examples=examples(40), deadline=None)
def test_the_latest_time_and_the_count_are_those_of_going_through_all(
    fields: list[str], day: datetime, past: int, zone: str
) -> None:
    after = day.astimezone(time_zone(zone))
    until = (day + past * MINUTE).astimezone(after.tzinfo)
    schedule = parse_schedule(" ".join(fields))
    passed = []
    at = schedule.next_after(after)
    while at is not None and at.astimezone(UTC) <= until.astimezone(UTC):
        passed.append(at)
        at = schedule.next_after(at)
    latest = schedule.latest(after, until)
    assert (latest and latest.isoformat()) == (passed[-1].isoformat() if passed else None)
    assert schedule.count(after, until, 101) == min(101, len(passed))


def test_times_missed_for_years_are_not_gone_through(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0
    real = cron.Schedule.next_after

    def counting(self: cron.Schedule, moment: datetime) -> datetime | None:
        nonlocal asked
        asked += 1
        return real(self, moment)

    monkeypatch.setattr(cron.Schedule, "next_after", counting)
    schedule, long_ago = parse_schedule("* * * * *"), START - timedelta(days=3650)
    assert schedule.latest(long_ago, START) == START
    assert schedule.count(long_ago, START, 101) == 101
    assert asked < 200
