"""Health of a component over HTTP: `/healthz`, `/livez` and `/readyz`, each with its checks by name. Pure.

    /readyz         `ok`; with `?verbose`, and where a check fails, a line for each; `?exclude=` passes one over
    /readyz/NAME    one check, with what is wrong with it

Source: k8s.io/apiserver/pkg/server/healthz (texts), kube-scheduler's and kube-controller-manager's checks.
"""

from collections.abc import Callable, Mapping
from urllib.parse import parse_qs

from rayplane.control_plane.component_base.zpages import Health, Page

KINDS = ("healthz", "livez", "readyz")
PATHS = tuple(f"/{kind}" for kind in KINDS)
ENDING = "process is shutting down"
#: What is wrong with each check of a kind, in the order in which they are told; an empty text where nothing is.
Problems = Mapping[str, str]
Checks = Callable[[str], Problems]


def kind_of(path: str) -> str:
    """The kind of checks that a path is about; empty where it is about none."""
    kind = path.lstrip("/").partition("/")[0]
    return kind if kind in KINDS else ""


def of_elected(kind: str, election: str, *, ending: bool, sync: str, synced: bool) -> dict[str, str]:
    """Problems of a component of which one replica leads. `sync`: its check of having seen what there is."""
    if kind == "livez":
        return {"ping": ""}
    problems = {"leaderElection": election}
    if kind == "readyz":
        problems |= {"shutdown": ENDING if ending else "", sync: "" if synced else "informers have not synced yet"}
    return problems


def answer(path: str, query: str, problems: Problems, outcomes: Health) -> Page | None:
    """The page at a path of these; None where no check has its name. `outcomes` are told how the checks went.

    `query`: what stands behind the path's `?`, as it was sent.
    """
    kind, _, single = path.strip("/").partition("/")
    if single:
        if single not in problems:
            return None
        problem = problems[single]
        return Page(f"internal server error: {problem}\n".encode(), status=500) if problem else Page(b"ok")
    asked = parse_qs(query, keep_blank_values=True)
    excluded = [*dict.fromkeys(asked.get("exclude", ()))]
    counted = {name: not problem for name, problem in problems.items() if name not in excluded}
    outcomes.observe(kind, counted)
    healthy = all(counted.values())
    if healthy and "verbose" not in asked:
        return Page(b"ok")
    lines = []
    for name, problem in problems.items():
        if name in excluded:
            lines.append(f"[+]{name} excluded: ok")
        else:
            # Whoever may see that all is well need not see what is not: that is told to those who may ask for one.
            lines.append(f"[-]{name} failed: reason withheld" if problem else f"[+]{name} ok")
    if unknown := sorted({*excluded} - problems.keys()):
        named = ",".join(f'"{one}"' for one in unknown)
        lines.append(f"warn: some health checks cannot be excluded: no matches for {named}")
    lines.append(f"{kind} check {'passed' if healthy else 'failed'}")
    return Page("".join(f"{line}\n" for line in lines).encode(), status=200 if healthy else 500)
