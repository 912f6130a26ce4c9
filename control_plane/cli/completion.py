"""Words that a shell completes, clusters, kinds and names of objects; and the command `completion`."""

import contextlib
import re
from collections.abc import Callable, Iterable
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer import _completion_classes
from typer.completion import completion_init, get_completion_script

from rayplane.control_plane.cluster.errors import ClusterError

if TYPE_CHECKING:
    from rayplane.control_plane.cluster.state import StateDir
    from rayplane.control_plane.cluster.topology import Topology

_HARMLESS = re.compile(r"[A-Za-z0-9._:/,-]+")
# Readline cuts words at `=` and `:` too, as in --name=web and system:node: we are told the words as they were
# written, and readline what comes behind its last cut.
_BASH = r"""_rayplane_completion() {
    local IFS=$'\n' line="${COMP_LINE:0:COMP_POINT}"
    local word="${line##*[[:space:]]}" cut="" reply
    [[ "$COMP_WORDBREAKS" == *:* && "$word" == *:* ]] && cut="${word%:*}:"
    COMPREPLY=()
    for reply in $(env _TYPER_COMPLETE_ARGS="$line" _TYPER_COMPLETE_FISH_ACTION=get-args \
                   _RAYPLANE_COMPLETE=complete_fish "$1"); do
        reply="${reply%%$'\t'*}"
        COMPREPLY+=("${reply#"$cut"}")
    done
}

complete -o default -F _rayplane_completion rayplane
"""


class Shell(StrEnum):
    """Shells that can be told."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def register(app: typer.Typer) -> None:
    app.command(name="completion")(completion)


def begin() -> None:
    """Make ready to answer shells."""
    completion_init()
    # It looks for markup in help; there is none in ours, and what it looks with takes longer to load than all else.
    _completion_classes._sanitize_help_text = lambda text: text


def candidates(command: Any, words: list[str]) -> list[str]:
    """What goes on from the last of the words, each with a tabulator and its help where it has one."""
    shell = _completion_classes.FishComplete(command, {}, "", "")
    return [shell.format_completion(item) for item in shell.get_completions(words[:-1], words[-1])]


def completion(shell: Shell) -> None:
    """Print what makes a shell complete commands, kinds and names: `source <(rayplane completion bash)`.

    zsh takes it the same way; fish by `rayplane completion fish | source`.
    """
    if shell is Shell.BASH:
        typer.echo(_BASH, nl=False)
        return
    typer.echo(get_completion_script(prog_name="rayplane", complete_var="_RAYPLANE_COMPLETE", shell=shell.value))


def one_of(*words: str) -> Callable[[str], list[str]]:
    """What completes a word of which there are few."""
    return lambda incomplete: _begun(incomplete, words)


def clusters(incomplete: str) -> list[str]:
    """Names of this user's clusters."""
    from rayplane.control_plane.cluster.state import HOME

    return _begun(incomplete, (path.parent.name for path in Path.home().glob(f"{HOME}/*/cluster.json")))


def kinds(incomplete: str) -> list[str]:
    """Kinds that every cluster serves."""
    from rayplane.control_plane.api.machinery.resources import builtin_registry

    before, comma, _ = incomplete.rpartition(",")
    plurals = dict.fromkeys(info.plural for info in builtin_registry().all())
    return _begun(incomplete, (before + comma + plural for plural in plurals))


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
    return _begun(incomplete, (one.name for one in _topology(ctx).instances))


def machines(ctx: typer.Context, incomplete: str) -> list[str]:
    """Addresses of the cluster's machines."""
    return _begun(incomplete, _topology(ctx).addresses)


def targets(ctx: typer.Context, incomplete: str) -> list[str]:
    """What faults hit: kinds of parts, actors by name, and Ray's processes."""
    from rayplane.control_plane.faults.vocabulary import RAY, TARGETS

    return [*_begun(incomplete, TARGETS), *actors(ctx, incomplete), *_begun(incomplete, RAY)]


def whom(ctx: typer.Context, incomplete: str) -> list[str]:
    """Which of a target's kind a fault hits."""
    from rayplane.control_plane.faults.vocabulary import ANY, TARGETS

    target = ctx.params.get("target")
    if target not in TARGETS:
        return []
    return _begun(incomplete, (ANY, *(_names(ctx, "", "pods") if target == "pod" else _of_kind(ctx, target))))


def of_kind(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of the actors of the kind that was said, and of nodes."""
    return _begun(incomplete, _of_kind(ctx, ctx.params.get("kind") or ""))


def scenarios(incomplete: str) -> list[str]:
    """Names of the simulated scenarios that are built in; a shell completes files where none begins so."""
    folder = files("rayplane.control_plane") / "simulation" / "scenarios"  # without loading the simulation
    return _begun(incomplete, (file.name.removesuffix(".yaml") for file in folder.iterdir()))


def _of_kind(ctx: typer.Context, kind: str) -> Iterable[str]:
    from rayplane.control_plane.cluster.topology import Role
    from rayplane.control_plane.faults.vocabulary import FOLLOWER, LEADER

    if kind == Role.NODE_HOST.removesuffix("-host"):
        return [node for host in _topology(ctx).of(Role.NODE_HOST) for node in host.nodes]
    role = Role.MEMBER if kind in (LEADER, FOLLOWER) else kind
    return [one.name for one in _topology(ctx).instances if one.role == role]


def _topology(ctx: typer.Context) -> "Topology":
    """Without actors where no cluster is known."""
    from rayplane.control_plane.cluster.topology import Topology

    with contextlib.suppress(ClusterError, OSError):
        if (state := _place(ctx).read()) is not None:
            return state.topology
    return Topology(())


def _place(ctx: typer.Context) -> "StateDir":
    from rayplane.control_plane.cluster.state import StateDir

    return StateDir.of(ctx.params.get("name") or "default", ctx.params.get("state"))


def _names(ctx: typer.Context, prefix: str, kind: str) -> Iterable[str]:
    """Nothing where they cannot be had: a shell that completes wants no words of failures."""
    import asyncio

    from rayplane.control_plane.cli.names import FAILURES, listed

    with contextlib.suppress(*FAILURES):
        found = asyncio.run(listed(_place(ctx), ctx.params.get("namespace") or "", kind))
        return [prefix + name for name in found]
    return ()


def _begun(incomplete: str, words: Iterable[str]) -> list[str]:
    """Those that go on from what was written; none that would tell a shell to do something."""
    return sorted(word for word in words if word.startswith(incomplete) and _HARMLESS.fullmatch(word))
