"""etcd's command-line values as a member's configuration: pure.

Flags keep etcd's names and meanings (etcd 3.5, "Configuration options"); what rayplane does not have is not accepted,
lest somebody relies on it.
"""

import re
from collections.abc import Iterator

from rayplane.control_plane import durations
from rayplane.control_plane.etcd.server import RefusedToStart

#: As etcd demands: a heartbeat must have several chances to arrive before an election.
ELECTION_HEARTBEATS_MIN = 5
ELECTION_MS_MAX = 50_000
_URL = re.compile(r"(https?)://(\[[0-9a-fA-F:.]+\]|[^/:,]+):(\d{1,5})/?")


class UsageError(RefusedToStart):
    """A flag's value cannot be used; the message names the flag and a good value."""


def parse_duration(flag: str, text: str) -> float:
    """Seconds of a duration as Go writes it ("1m30s", "500ms"; "0" is none)."""
    try:
        span_s = durations.parse_duration(text)
    except durations.DurationError:
        span_s = -1.0
    if span_s < 0:
        raise UsageError(f"--{flag} {text!r} must be a duration like 500ms, 10s or 1m30s")
    return span_s


def parse_url(flag: str, text: str) -> tuple[str, str]:
    """Scheme and host:port of the one URL that a listener or an advertisement may have here."""
    if "," in text:
        raise UsageError(f"--{flag} takes one URL, {text!r} has more: listen on 0.0.0.0 to be reached at all addresses")
    match = _URL.fullmatch(text)
    if match is None or int(match.group(3)) > 65535:
        raise UsageError(f"--{flag} {text!r} must be http://HOST:PORT or https://HOST:PORT")
    return match.group(1), f"{match.group(2)}:{match.group(3)}"


def parse_cluster(text: str) -> dict[str, str]:
    """Name to peer URL of `a=http://host:port,b=...`."""
    cluster: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        name, _, url = part.partition("=")
        parse_url("initial-cluster", url)
        if not name or name in cluster:
            raise UsageError(f"--initial-cluster: {part!r} must be NAME=URL, with one URL for each name")
        cluster[name] = url.rstrip("/")
    return cluster


def election_ticks(heartbeat_ms: int, election_ms: int) -> int:
    """Ticks of one heartbeat each in an election timeout."""
    if heartbeat_ms < 1:
        raise UsageError(f"--heartbeat-interval[{heartbeat_ms}ms] must be at least 1")
    if election_ms < ELECTION_HEARTBEATS_MIN * heartbeat_ms:
        raise UsageError(
            f"--election-timeout[{election_ms}ms] should be at least as {ELECTION_HEARTBEATS_MIN} times as "
            f"--heartbeat-interval[{heartbeat_ms}ms]"
        )
    if election_ms > ELECTION_MS_MAX:
        raise UsageError(f"--election-timeout[{election_ms}ms] is too long, and should be set less than 50000ms")
    return election_ms // heartbeat_ms


def with_bare_booleans(arguments: list[str]) -> Iterator[str]:
    """Go's `--flag=true` and `--flag=false` as `--flag` and `--no-flag`."""
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name.startswith("--") and value in ("true", "false"):
            yield name if value == "true" else f"--no-{name[2:]}"
        else:
            yield argument
