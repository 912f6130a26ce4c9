"""Commands on whole clusters: up, down, status, endpoints, kubeconfig, add, remove."""

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayplane.control_plane.cli import completion
from rayplane.control_plane.cli.options import (
    Autoscale,
    MaxNodes,
    MinNodes,
    Name,
    Output,
    State,
    Ui,
    UnneededTime,
    console,
    errors,
    node_limits,
    progress,
    run,
    state_dir,
    tell,
    wants_json,
)

if TYPE_CHECKING:
    from rayplane.control_plane.cluster.config import ClusterConfig
    from rayplane.control_plane.cluster.listening import Listener
    from rayplane.control_plane.cluster.state import ClusterState, StateDir
    from rayplane.proto.rayplane.v1 import supervisor_pb2 as pb

# On an idle machine; a busy one gets more, up to so many times.
CHANGE_TIMEOUT_S = 180.0
SLOWDOWN_MAX = 10.0
SHOWN_LEFT = 5


class Kind(StrEnum):
    """The kinds of actors that `add` and `remove` take."""

    MEMBER = "member"
    APISERVER = "apiserver"
    NODE = "node"


def register(app: typer.Typer) -> None:
    for command in (up, down, status, add, remove):
        app.command()(command)
    app.command(name="endpoints")(show_endpoints)
    app.command(name="kubeconfig")(show_kubeconfig)


def up(
    name: Name = "default",
    host: Annotated[
        str, typer.Option(help="`ray` or `process`.", autocompletion=completion.one_of("ray", "process"))
    ] = "ray",
    address: Annotated[str, typer.Option(help="Ray cluster to join: `auto` or HOST:PORT.")] = "",
    members: Annotated[int, typer.Option(help="etcd members, an odd number.")] = 3,
    apiservers: Annotated[int, typer.Option(help="API servers.")] = 2,
    schedulers: Annotated[int, typer.Option(help="Schedulers; one leads.")] = 2,
    controllers: Annotated[int, typer.Option(help="Controller managers; one leads.")] = 2,
    nodes: Annotated[int, typer.Option(help="Node hosts.")] = 3,
    nodes_per_host: Annotated[int, typer.Option(help="Nodes of each node host.")] = 1,
    node_cpu: Annotated[str, typer.Option(help="CPU of a node.")] = "4",
    node_memory: Annotated[str, typer.Option(help="Memory of a node.")] = "8Gi",
    autoscale: Autoscale = None,
    min_nodes: MinNodes = None,
    max_nodes: MaxNodes = 10,
    scale_down_unneeded_time: UnneededTime = "",
    runtime: Annotated[
        str,
        typer.Option(
            help="`simulated`, `process`, `mixed` (simulated unless a RuntimeClass says `process`), or `cri:unix:///PATH`.",
            autocompletion=completion.one_of("simulated", "process", "mixed"),
        ),
    ] = "simulated",
    isolation: Annotated[
        str,
        typer.Option(
            help="Of real pods: `namespaces` of their own, `none`, or `auto`, what the machine can (the usual, but "
            "for a Ray cluster that is joined); kept.",
            autocompletion=completion.one_of("namespaces", "none", "auto"),
        ),
    ] = "",
    network_policy: Annotated[
        str,
        typer.Option(
            help="Network policies of real pods: `on` (no pod starts where they are not kept), `off`, `auto`; kept.",
            autocompletion=completion.one_of("on", "off", "auto"),
        ),
    ] = "",
    egress: Annotated[
        str,
        typer.Option(
            help="Of isolated pods out of the cluster: `relay` by their host, or `none`; kept.",
            autocompletion=completion.one_of("relay", "none"),
        ),
    ] = "",
    egress_allow: Annotated[
        str, typer.Option(help="Networks of the machine's own that the relay reaches too, `a,b`, or `none`; kept.")
    ] = "",
    timing: Annotated[
        str,
        typer.Option(
            help="`fast` (where nothing is said), `kubernetes` or `sparse`; kept.",
            autocompletion=completion.one_of("fast", "kubernetes", "sparse"),
        ),
    ] = "",
    history: Annotated[
        str,
        typer.Option(help="For how long the past can be seen at least, such as 1h (10m where nothing is said); kept."),
    ] = "",
    ray_tls: Annotated[
        bool, typer.Option("--ray-tls", help="Mutual TLS between Ray's own processes; they start more slowly.")
    ] = False,
    encryption_config: Annotated[
        Path | None, typer.Option(help="EncryptionConfiguration of the API servers, in place of the cluster's own.")
    ] = None,
    audit_policy: Annotated[
        str,
        typer.Option(help="Audit policy of the API servers: a file, `default`, or `none`; kept, and followed."),
    ] = "",
    authentication_config: Annotated[
        str,
        typer.Option(help="AuthenticationConfiguration of the API servers: a file, or `none`; kept, and followed."),
    ] = "",
    authorization_config: Annotated[
        str, typer.Option(help="AuthorizationConfiguration of the API servers: a file, or `none`; kept, and followed.")
    ] = "",
    authentication_token_webhook_config_file: Annotated[
        str, typer.Option(help="Kubeconfig of the webhook that is sent unknown tokens, or `none`; its path is kept.")
    ] = "",
    admission_control_config_file: Annotated[
        str, typer.Option(help="AdmissionConfiguration of the API servers: a file, or `none`; kept, and followed.")
    ] = "",
    enable_admission_plugins: Annotated[
        str, typer.Option(help="Admission plug-ins to switch on, `a,b`, or `none`; kept with the cluster.")
    ] = "",
    disable_admission_plugins: Annotated[
        str, typer.Option(help="Admission plug-ins to switch off, `a,b`, or `none`; kept with the cluster.")
    ] = "",
    scheduling: Annotated[
        str,
        typer.Option(
            help="What `default-scheduler` does: `pack` (until told otherwise) or `spread`; kept.",
            autocompletion=completion.one_of("pack", "spread"),
        ),
    ] = "",
    scheduler_config: Annotated[
        str,
        typer.Option(help="KubeSchedulerConfiguration of the schedulers: a file, or `none`; kept with the cluster."),
    ] = "",
    pull: Annotated[
        str,
        typer.Option(
            help="Registries that images are pulled from: `docker.io,ghcr.io=http://MIRROR`, `all` or `none`; kept."
        ),
    ] = "",
    missing_images: Annotated[
        str,
        typer.Option(
            help="Images that are not there: `stand-in` (the machine's programs) or `refuse`; kept.",
            autocompletion=completion.one_of("stand-in", "refuse"),
        ),
    ] = "",
    kubelet_config: Annotated[
        str, typer.Option(help="KubeletConfiguration of the nodes: a file, or `none`; kept with the cluster.")
    ] = "",
    ui: Ui = "",
    stages: Annotated[
        list[str] | None,
        typer.Option(help="Stages to put in: one of `rayplane stages`, or a file or folder (if called so, `./NAME`)."),
    ] = None,
    log_format: Annotated[
        str, typer.Option(help="Of all logs: `text` or `json`.", autocompletion=completion.one_of("text", "json"))
    ] = "text",
    output: Output = "",
    state: State = None,
) -> None:
    """Start everything, wait until it is ready, print how to reach it.

    At most 15 clusters run on a machine at the same time: each has a part of 127.0.0.0/8 of its own.
    """
    from rayplane.control_plane.cli import option_files as files
    from rayplane.control_plane.cluster.config import AUTO, ClusterConfig

    config = ClusterConfig(
        name=name,
        host=host,
        address=address,
        members=members,
        apiservers=apiservers,
        schedulers=schedulers,
        controllers=controllers,
        nodes=nodes,
        nodes_per_host=nodes_per_host,
        node_cpu=node_cpu,
        node_memory=node_memory,
        autoscale=node_limits(autoscale, min_nodes, max_nodes, nodes=nodes * nodes_per_host),
        unneeded_time=scale_down_unneeded_time,
        runtime=runtime,
        isolation=isolation or ("" if address else AUTO),  # one machine speaks for itself alone
        network_policy=network_policy,
        ui=ui,
        egress=egress,
        egress_allow=egress_allow,
        timing=timing,
        history=history,
        audit_policy=files.audit_text(audit_policy),
        authentication_config=files.text_of("--authentication-config", authentication_config),
        authorization_config=files.text_of("--authorization-config", authorization_config),
        audit_policy_file="" if audit_policy == "default" else files.followed_path(audit_policy),
        admission_config=files.admission_text_of(admission_control_config_file),
        admission_config_file=files.followed_path(admission_control_config_file),
        authentication_config_file=files.followed_path(authentication_config),
        authorization_config_file=files.followed_path(authorization_config),
        authentication_webhook=files.absolute(authentication_token_webhook_config_file),
        enable_admission_plugins=enable_admission_plugins,
        disable_admission_plugins=disable_admission_plugins,
        scheduling=scheduling,
        scheduler_config=files.text_of("--scheduler-config", scheduler_config),
        pull=pull,
        missing_images=missing_images,
        kubelet_config=files.kubelet_text(kubelet_config),
        log_format=log_format,
        ray_tls=ray_tls,
    )
    _launch(config, state_dir(name, state), encryption_config, stages or [], as_json=wants_json(output))


def _launch(
    config: "ClusterConfig", directory: "StateDir", encryption_config: Path | None, stages: list[str], *, as_json: bool
) -> None:
    from rayplane.control_plane.cli.option_files import content
    from rayplane.control_plane.cluster import launch
    from rayplane.control_plane.cluster.stages import put, read

    _check(config)
    encryption = content("--encryption-config", encryption_config)
    played = read(stages) if stages else []
    with progress(quiet=as_json) as say:
        found = run(launch.up(config, directory, say, encryption=encryption))
    run(put(directory, played))
    print_access(directory, found, as_json=as_json)


def _check(config: "ClusterConfig") -> None:
    """Raises UsageError; what is odd about the schedulers' configuration is told."""
    from rayplane.control_plane.cluster.config import NONE, scheduler_configuration

    config.validate()
    if config.scheduler_config not in ("", NONE):
        for note in scheduler_configuration(config.scheduler_config).notes:
            errors.print(f"--scheduler-config: {note}")


def down(
    name: Name = "default",
    purge: Annotated[bool, typer.Option("--purge", help="Delete its data too.")] = False,
    output: Output = "",
    state: State = None,
) -> None:
    """End every process of the cluster; its data stays for the next `up`.

    With a shutdownGracePeriod (--kubelet-config) pods are told before, the least important ones first.
    """
    from rayplane.control_plane.cluster import launch

    as_json, directory = wants_json(output), state_dir(name, state)
    existed = (directory.path / "cluster.json").exists()
    with progress(quiet=as_json) as say:
        left = run(launch.down(directory, say, purge=purge))
    if as_json:
        print(json.dumps({"name": name, "existed": existed, "purged": existed and purge, "left": left}, indent=2))
        return
    if not existed:
        console.print(f"no cluster called {name!r} in {directory.path}")
    else:
        console.print(f"cluster {name!r} is down" + ("; its data is deleted" if purge else ""))
    if left:
        more = f" and {len(left) - SHOWN_LEFT} more" if len(left) > SHOWN_LEFT else ""
        console.print(f"left in {directory.path}, not made by rayplane: {', '.join(left[:SHOWN_LEFT])}{more}")


def status(
    name: Name = "default",
    output: Output = "",
    ports: Annotated[bool, typer.Option("--ports", help="Show every port, what speaks there and who may.")] = False,
    state: State = None,
) -> None:
    """Measure whether every part works, show members, actors and nodes, and say what is wrong (exit code 1)."""
    from rayplane.control_plane.cli.standing import print_status
    from rayplane.control_plane.cluster.access import access, refresh
    from rayplane.control_plane.cluster.status import status as cluster_status

    as_json = wants_json(output)
    directory = state_dir(name, state)
    if ports:
        _show_ports(directory, as_json=as_json)
        return

    async def ask() -> dict[str, Any]:
        async with access(directory) as admin:
            found = await cluster_status(admin)
            if found["healthy"]:
                # While all is well: a `down` that comes when nobody can be asked any more must know where all were.
                await refresh(directory, admin)
            return found

    found = run(ask())
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        print_status(found)
    if not found["healthy"]:
        raise typer.Exit(1)


def _show_ports(directory: "StateDir", *, as_json: bool) -> None:
    from rayplane.control_plane.cli.standing import ports_table
    from rayplane.control_plane.cluster.access import access
    from rayplane.control_plane.cluster.listening import listeners

    async def ask() -> "list[Listener]":
        async with access(directory) as admin:
            return await listeners(admin)

    found = run(ask())
    if as_json:
        print(json.dumps({"ports": [asdict(row) for row in found]}, indent=2))
        return
    console.print(ports_table(found))


def show_endpoints(name: Name = "default", output: Output = "", state: State = None) -> None:
    """Show where everything is, and which certificate to show there."""
    from rayplane.control_plane.cluster.access import endpoints

    directory = state_dir(name, state)
    found = endpoints(directory, _renewed(directory))
    if wants_json(output):
        print(json.dumps(found))
        return
    for key, value in found.items():
        console.print(f"{key:11} {value if isinstance(value, str) else ' '.join(value)}")


def show_kubeconfig(name: Name = "default", state: State = None) -> None:
    """Print the path of the administrator's kubeconfig, which leads to where the load balancer is now."""
    directory = state_dir(name, state)
    run(_repointed(directory, _renewed(directory)))
    print(directory.kubeconfig)


async def _repointed(directory: "StateDir", state: "ClusterState") -> None:
    from rayplane.control_plane.cluster.access import access, answers, refresh
    from rayplane.control_plane.cluster.topology import Role

    if not await answers(state.topology.of(Role.LOAD_BALANCER)[0], "https"):
        async with access(directory) as admin:
            await refresh(directory, admin)


def _renewed(directory: "StateDir") -> "ClusterState":
    """A running cluster's state, with an administrator's certificate that lasts."""
    from rayplane.control_plane.cluster.renewal import renew_admin
    from rayplane.storage.env import SystemClock

    state = directory.read_reachable()
    renew_admin(directory, state, SystemClock().now())
    return state


def add(
    kind: Kind,
    actor: Annotated[str, typer.Argument(metavar="[NAME]", help="Its name.")] = "",
    name: Name = "default",
    kubelet_config: Annotated[
        str, typer.Option(help="Of a node: a file with its KubeletConfiguration, in place of the cluster's.")
    ] = "",
    runtime: Annotated[
        str,
        typer.Option(
            help="Of a node: `simulated`, `process`, `mixed` or `cri:unix:///PATH`, in place of the cluster's.",
            autocompletion=completion.one_of("simulated", "process", "mixed"),
        ),
    ] = "",
    output: Output = "",
    state: State = None,
) -> None:
    """Add a member, an API server or a node to the running cluster."""
    from rayplane.control_plane.cli.option_files import kubelet_text
    from rayplane.control_plane.cluster.config import NONE, check_runtime
    from rayplane.proto.rayplane.v1 import supervisor_pb2 as pb

    text = "" if kubelet_config == NONE else kubelet_text(kubelet_config)
    if runtime:
        check_runtime(runtime)
    request = pb.AddRequest(role=kind.value, name=actor, kubelet_config=text, runtime=runtime)
    _change("Add", request, f"adding {actor or kind.value}", "added", state_dir(name, state), output)


def remove(
    kind: Kind,
    actor: Annotated[
        str,
        typer.Argument(metavar="[NAME]", help="Its name; the last one by default.", autocompletion=completion.of_kind),
    ] = "",
    name: Name = "default",
    output: Output = "",
    state: State = None,
) -> None:
    """Remove a member, an API server or a node from the running cluster; nothing is lost.

    The pods of a node are told to end, the least important ones first, within its shutdownGracePeriod or ten seconds.
    """
    from rayplane.proto.rayplane.v1 import supervisor_pb2 as pb

    request = pb.RemoveRequest(role=kind.value, name=actor)
    _change("Remove", request, f"removing {actor or kind.value}", "removed", state_dir(name, state), output)


def _change(
    method: str, request: "pb.AddRequest | pb.RemoveRequest", doing: str, done: str, directory: "StateDir", output: str
) -> None:
    from rayplane.control_plane.cluster.access import access, refresh
    from rayplane.control_plane.cluster.patience import stretched

    as_json = wants_json(output)

    async def call() -> str:
        async with access(directory) as admin:
            answer = await getattr(admin.supervisor, method)(
                request, timeout=stretched(CHANGE_TIMEOUT_S, times_max=SLOWDOWN_MAX)
            )
            await refresh(directory, admin)
            return str(answer.name)

    with progress(quiet=as_json) as say:
        say(doing)
        name = run(call())
    tell({"name": name, "done": done}, f"{name} {done}", as_json=as_json)


def print_access(directory: "StateDir", state: "ClusterState", *, as_json: bool) -> None:
    """How to reach a cluster that is up."""
    from rayplane.control_plane.cluster import ray_cluster
    from rayplane.control_plane.cluster.access import endpoints

    found = endpoints(directory, state)
    name = state.config.name
    if as_json:
        print(json.dumps({"name": name} | found))
        return
    console.print(f"cluster {name!r} is up")
    console.print(f"  kubectl   export KUBECONFIG={found['kubeconfig']}")
    console.print(f"  API       {found['apiserver']}")
    console.print(f"  gRPC      {' '.join(found['grpc'])}")
    console.print(f"  etcd      {' '.join(found['etcd'])}")
    console.print(f"  ingress   {found['ingress']}  {found['ingressTls']}")
    if ray_cluster.listens_widely(state.host):
        console.print("  CAREFUL   this version of Ray listens beyond loopback; see SECURITY.md, or use Ray 2.60")
    console.print(f"  end it    rayplane down{directory.flags(name)}")
