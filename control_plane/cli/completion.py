"""Words that a shell completes, clusters, kinds and names of objects; and the command `completion`."""

import asyncio
import contextlib
import re
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

import typer
from typer.completion import completion_init, get_completion_script

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.machinery.resources import builtin_registry
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.state import HOME, StateDir
from rayplane.control_plane.faults.vocabulary import TARGETS
from rayplane.control_plane.rpc import RpcError

ANSWER_S = 3.0
NAMES_MAX = 500
_HARMLESS = re.compile(r"[A-Za-z0-9._:/-]+")
_FAILURES = (ApiError, RpcError, ClusterError, OSError, TimeoutError)


class Shell(StrEnum):
    """Shells that can be told."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def register(app: typer.Typer) -> None:
    completion_init()
    app.command(name="completion")(completion)


def completion(shell: Shell) -> None:
    """Print what makes a shell complete commands, kinds and names: `source <(rayplane completion bash)`.

    zsh takes it the same way; fish by `rayplane completion fish | source`.
    """
    typer.echo(get_completion_script(prog_name="rayplane", complete_var="_RAYPLANE_COMPLETE", shell=shell.value))


def clusters(incomplete: str) -> list[str]:
    """Names of this user's clusters."""
    return _begun(incomplete, (path.parent.name for path in Path.home().glob(f"{HOME}/*/cluster.json")))


def kinds(incomplete: str) -> list[str]:
    """Kinds that every cluster serves."""
    return _begun(incomplete, dict.fromkeys(info.plural for info in builtin_registry().all()))


def objects(ctx: typer.Context, incomplete: str) -> list[str]:
    """Kinds, and behind one the names of its objects, where the cluster tells them in time."""
    before: list[str] = ctx.params.get("what") or []
    kind, slash, _ = incomplete.partition("/")
    if not before and not slash:
        return kinds(incomplete)
    return _begun(incomplete, _names(ctx, f"{kind}/" if slash else "", kind if slash else before[0]))


def pods(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of pods."""
    return _begun(incomplete, _names(ctx, "", "pods"))


def namespaces(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of namespaces."""
    return _begun(incomplete, _names(ctx, "", "namespaces"))


def actors(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of the cluster's actors, as this machine knows them."""
    with contextlib.suppress(*_FAILURES):
        if (state := _place(ctx).read()) is not None:
            return _begun(incomplete, (one.name for one in state.topology.instances))
    return []


def targets(ctx: typer.Context, incomplete: str) -> list[str]:
    """What faults hit: kinds of parts, and actors by name."""
    return [*_begun(incomplete, TARGETS), *actors(ctx, incomplete)]


def _place(ctx: typer.Context) -> StateDir:
    return StateDir.of(ctx.params.get("name") or "default", ctx.params.get("state"))


def _names(ctx: typer.Context, prefix: str, kind: str) -> Iterable[str]:
    """Nothing where they cannot be had: a shell that completes wants no words of failures."""
    with contextlib.suppress(*_FAILURES):
        found = asyncio.run(_listed(_place(ctx), ctx.params.get("namespace") or "", kind))
        return [prefix + name for name in found]
    return ()


async def _listed(directory: StateDir, namespace: str, kind: str) -> list[str]:
    from rayplane.control_plane.cli.kinds import Kinds, resource_of
    from rayplane.control_plane.cluster.access import access

    async with asyncio.timeout(ANSWER_S), access(directory) as admin:
        info = (await Kinds(admin.api).resolve(kind))[0]
        within = (namespace or "default") if info.namespaced else ""
        page = await admin.api.list(resource_of(info), within, limit=NAMES_MAX)
        return [meta.name(obj) for obj in page.items]


def _begun(incomplete: str, words: Iterable[str]) -> list[str]:
    """Those that go on from what was written; none that would tell a shell to do something."""
    return sorted(word for word in words if word.startswith(incomplete) and _HARMLESS.fullmatch(word))
