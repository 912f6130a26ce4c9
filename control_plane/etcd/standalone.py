"""One member as a process of its own: its command line, its event loop, its end.

    python -m rayplane.control_plane.etcd --name n1 --data-dir D --listen-client-urls http://127.0.0.1:2379

Prints one line of JSON when it listens: name, member_id and cluster_id (decimal), client_url, peer_url. Everything
else goes to standard error. SIGTERM and SIGINT stop it in order. Exit codes: 0 stopped or removed from the cluster,
1 failed or refused to start, 2 wrong usage; a failure is one line that says what to do.

Concurrency: one thread runs the loop; file syncs run in the loop's executor.
"""

import asyncio
import logging
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple, NoReturn

import orjson
import typer
import uvloop

from rayplane.control_plane.component_base import logs
from rayplane.control_plane.component_base.log_settings import FORMATS, TEXT
from rayplane.control_plane.component_base.standalone import run_command, start_unless, told_to_stop
from rayplane.control_plane.component_base.version import VERSION
from rayplane.control_plane.etcd.flags import UsageError, election_ticks, parse_cluster, parse_duration, parse_url
from rayplane.control_plane.etcd.flags import with_bare_booleans as bare
from rayplane.control_plane.etcd.server import Member, MemberConfig, RefusedToStart
from rayplane.control_plane.rpc import EVERYONE
from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
from rayplane.control_plane.rpc.tls import Credentials
from rayplane.storage.env import Env, LocalDisk, SystemClock, failpoints, settle_heap
from rayplane.storage.errors import StorageError

log = logging.getLogger(__name__)

_DEFAULTS = MemberConfig(name="", client_address="", peer_address="")
_FAILURES = (RefusedToStart, StorageError, OSError)


@dataclass(frozen=True, slots=True)
class Standalone:
    """The parts of a member's process: the member's configuration, and what lies around it."""

    config: MemberConfig
    data_dir: str
    client_tls: Credentials | None
    peer_tls: Credentials | None


app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def _flag(name: str, text: str) -> typer.models.OptionInfo:
    """A flag of this name, which can be given as etcd's environment variable too."""
    variable = "ETCD_" + name.partition("/")[0].upper().replace("-", "_")
    option: typer.models.OptionInfo = typer.Option(f"--{name}", help=text, envvar=variable, show_envvar=False)
    return option


def _switch(name: str, text: str) -> typer.models.OptionInfo:
    """A flag that is `--NAME=true` or `--NAME=false`, as `with_bare_booleans` gives them."""
    return _flag(f"{name}/--no-{name}", text)


_PROGRESS = "experimental-watch-progress-notify-interval"
_CORRUPT_CHECK = "experimental-corrupt-check-time"


@app.command()
def member(
    *,
    name: Annotated[str, _flag("name", "Unique name within the cluster.")] = "default",
    data_dir: Annotated[str, _flag("data-dir", "Where it keeps everything.  [default: NAME.etcd]")] = "",
    listen_client_urls: Annotated[
        str, _flag("listen-client-urls", "URL to serve clients on; port 0 takes any.")
    ] = "http://127.0.0.1:2379",
    advertise_client_urls: Annotated[
        str, _flag("advertise-client-urls", "URL that clients are told.  [default: the one it listens on]")
    ] = "",
    listen_peer_urls: Annotated[
        str, _flag("listen-peer-urls", "URL to serve other members on.")
    ] = "http://127.0.0.1:2380",
    initial_advertise_peer_urls: Annotated[
        str, _flag("initial-advertise-peer-urls", "URL that other members reach it at.  [default: that of the cluster]")
    ] = "",
    initial_cluster: Annotated[
        str, _flag("initial-cluster", "NAME=PEER-URL of every member, with commas.  [default: this one alone]")
    ] = "",
    initial_cluster_state: Annotated[str, _flag("initial-cluster-state", "new or existing.")] = "new",
    initial_cluster_token: Annotated[
        str, _flag("initial-cluster-token", "Keeps clusters apart that reuse addresses.")
    ] = "etcd-cluster",
    heartbeat_interval: Annotated[int, _flag("heartbeat-interval", "Milliseconds between heartbeats.")] = 100,
    election_timeout: Annotated[
        int, _flag("election-timeout", "Milliseconds without a leader before a campaign, at least.")
    ] = 800,
    snapshot_count: Annotated[
        int, _flag("snapshot-count", "Applied entries between two snapshots.")
    ] = _DEFAULTS.snapshot_count,
    catch_up_entries: Annotated[
        int, _flag("experimental-snapshot-catchup-entries", "Entries kept in memory behind a snapshot.")
    ] = _DEFAULTS.catch_up_entries,
    wal_segment_bytes: Annotated[
        int, _flag("wal-segment-bytes", "Size of one preallocated file of the log; not a flag of etcd's.")
    ] = _DEFAULTS.wal_segment_bytes,
    quota_backend_bytes: Annotated[
        int, _flag("quota-backend-bytes", "Size of the store that raises an alarm; 0: 2 GiB, negative: none.")
    ] = 0,
    max_request_bytes: Annotated[
        int, _flag("max-request-bytes", "Largest request that is taken.")
    ] = _DEFAULTS.max_request_bytes,
    max_txn_ops: Annotated[int, _flag("max-txn-ops", "Most operations in a transaction.")] = _DEFAULTS.max_txn_ops,
    initial_corrupt_check: Annotated[
        bool, _switch("experimental-initial-corrupt-check", "Compare the store with the other members' before serving.")
    ] = False,
    corrupt_check: Annotated[
        str, _flag(_CORRUPT_CHECK, "Time between two comparisons of all members' stores; 0 for none.")
    ] = "0",
    progress_notify: Annotated[
        str, _flag(_PROGRESS, "Silence after which a watch that asked for it is told the revision.")
    ] = f"{_DEFAULTS.progress_notify_interval_s:.0f}s",
    cert_file: Annotated[str, _flag("cert-file", "Certificate for clients, PEM.")] = "",
    key_file: Annotated[str, _flag("key-file", "Its key, PEM.")] = "",
    trusted_ca_file: Annotated[str, _flag("trusted-ca-file", "Authority of the clients' certificates, PEM.")] = "",
    client_cert_auth: Annotated[bool, _switch("client-cert-auth", "Clients must show a certificate.")] = True,
    peer_cert_file: Annotated[str, _flag("peer-cert-file", "Certificate between members, PEM.")] = "",
    peer_key_file: Annotated[str, _flag("peer-key-file", "Its key, PEM.")] = "",
    peer_trusted_ca_file: Annotated[
        str, _flag("peer-trusted-ca-file", "Authority of the members' certificates, PEM.")
    ] = "",
    peer_client_cert_auth: Annotated[bool, _switch("peer-client-cert-auth", "Members must show a certificate.")] = True,
    auth_token: Annotated[
        str, _flag("auth-token", "Kind of tokens: simple, or jwt,sign-method=...,priv-key=FILE,pub-key=FILE,ttl=...")
    ] = _DEFAULTS.auth_token,
    auth_token_ttl: Annotated[
        int, _flag("auth-token-ttl", "Seconds that a simple token lives after its last use.")
    ] = int(_DEFAULTS.auth_token_ttl_s),
    bcrypt_cost: Annotated[int, _flag("bcrypt-cost", "Work for a password hash, 4 to 31.")] = _DEFAULTS.bcrypt_cost,
    log_level: Annotated[str, _flag("log-level", "debug, info, warn or error.")] = "warn",
    log_format: Annotated[str, _flag("log-format", "text or json.")] = TEXT,
) -> None:
    """Run one etcd member. Flags are etcd's; each can be given as ETCD_NAME_OF_FLAG in the environment."""
    _log_to_stderr(log_level, log_format, name)
    _arm_failpoints()
    urls = _Urls(*parse_url("listen-client-urls", listen_client_urls), *parse_url("listen-peer-urls", listen_peer_urls))
    config = MemberConfig(
        name=name,
        build=VERSION,
        client_address=urls.client_address,
        peer_address=urls.peer_address,
        initial_cluster=_cluster(name, initial_cluster, initial_advertise_peer_urls, urls),
        initial_cluster_token=initial_cluster_token,
        cluster_state=initial_cluster_state,
        scheme=urls.client_scheme,
        advertise_client_url=_advertised("advertise-client-urls", advertise_client_urls),
        # As in etcd: an authority that is given here signs for nobody else.
        client_callers=EVERYONE,
        peer_callers=EVERYONE,
        tick_s=heartbeat_interval / 1000,
        election_ticks=election_ticks(heartbeat_interval, election_timeout),
        snapshot_count=snapshot_count,
        catch_up_entries=catch_up_entries,
        wal_segment_bytes=wal_segment_bytes,
        quota_bytes=max(0, quota_backend_bytes or _DEFAULTS.quota_bytes),
        max_request_bytes=max_request_bytes,
        max_txn_ops=max_txn_ops,
        progress_notify_interval_s=parse_duration(_PROGRESS, progress_notify),
        initial_corrupt_check=initial_corrupt_check,
        corrupt_check_s=parse_duration(_CORRUPT_CHECK, corrupt_check),
        auth_token=auth_token,
        auth_token_ttl_s=auth_token_ttl,
        bcrypt_cost=bcrypt_cost,
    )
    client_files = (trusted_ca_file, cert_file, key_file)
    peer_files = (peer_trusted_ca_file, peer_cert_file, peer_key_file)
    client_tls = _credentials(urls.client_scheme, "", client_files, demanded=client_cert_auth)
    peer_tls = _credentials(urls.peer_scheme, "peer-", peer_files, demanded=peer_client_cert_auth)
    _run(Standalone(config, data_dir or f"{name}.etcd", client_tls, peer_tls))


class _Urls(NamedTuple):
    """URLs that the member listens on."""

    client_scheme: str
    client_address: str
    peer_scheme: str
    peer_address: str


def _advertised(flag: str, url: str) -> str:
    if url:
        parse_url(flag, url)
    return url.rstrip("/")


def _cluster(name: str, initial_cluster: str, advertised: str, urls: _Urls) -> dict[str, str]:
    """Every member's peer URL; this one's must be the one it advertises."""
    peer_url = _advertised("initial-advertise-peer-urls", advertised)
    cluster = parse_cluster(initial_cluster) or {name: peer_url or f"{urls.peer_scheme}://{urls.peer_address}"}
    if peer_url and cluster.get(name, peer_url) != peer_url:
        raise UsageError(f"--initial-cluster has {name}={cluster[name]}, --initial-advertise-peer-urls is {peer_url}")
    return cluster


def _run(settings: Standalone) -> None:
    try:
        settings.config.validate()
    except RefusedToStart as e:
        raise UsageError(str(e)) from None
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run_member(settings))


def _credentials(scheme: str, prefix: str, files: tuple[str, str, str], *, demanded: bool) -> Credentials | None:
    if scheme == "http":
        return None
    if not all(files) or not demanded:
        raise UsageError(
            f"an https URL needs --{prefix}cert-file, --{prefix}key-file, --{prefix}trusted-ca-file and "
            f"--{prefix}client-cert-auth: callers are known by their certificates"
        )
    return Credentials(*(Path(f).read_bytes() for f in files))


def _log_to_stderr(level: str, form: str, name: str) -> None:
    names = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}
    if level not in names:
        raise UsageError(f"--log-level {level!r} must be one of {', '.join(names)}")
    if form not in FORMATS:
        raise UsageError(f"--log-format {form!r} must be one of {', '.join(FORMATS)}")
    logs.to_stderr(names[level], form, logs.Speaker("etcd", name))


def _arm_failpoints() -> None:
    try:
        failpoints.arm_from_environment()
    except failpoints.UnknownFailpoint as e:
        raise UsageError(f"{failpoints.ENVIRONMENT}: {e}") from None


async def run_member(settings: Standalone) -> None:
    """Until it is told to stop, is removed, or fails; raises the failure."""
    config = settings.config
    network = GrpcNetwork(settings.client_tls)
    peers = network if settings.peer_tls == settings.client_tls else GrpcNetwork(settings.peer_tls)
    env = Env(clock=SystemClock(), rng=random.Random(), disk=LocalDisk(settings.data_dir))
    running = Member(config, env, network, peer_network=peers)
    told = told_to_stop()
    try:
        await start_unless(told, running.start())
        if not told.is_set():
            _announce(running)
            settle_heap()
        stop = asyncio.ensure_future(told.wait())
        ended = asyncio.ensure_future(running.wait_stopped())
        await asyncio.wait((stop, ended), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        ended.cancel()
        await running.stop()
    finally:
        await network.close()
        await peers.close()
    if running.failure is not None:
        raise running.failure
    if running.removed:
        print(f"etcd: member {config.name} was removed from the cluster", file=sys.stderr)


def _announce(running: Member) -> None:
    line = {
        "name": running.config.name,
        "member_id": running.member_id,
        "cluster_id": running.cluster_id,
        "client_url": running.client_url,
        "peer_url": running.config.peer_url,
    }
    print(orjson.dumps(line).decode(), flush=True)


def main() -> NoReturn:
    """Run the command of sys.argv and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run a command; its exit code."""
    program = "python -m rayplane.control_plane.etcd"
    return run_command(app, [*bare(arguments)], name="etcd", program=program, usage=UsageError, failures=_FAILURES)
