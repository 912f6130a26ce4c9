"""Words of the screen: what `?` tells, what the prompt completes. Pure."""

import re
import textwrap

CONTROL_PLANE, MACHINES, FORWARDS = "control-plane", "machines", "port-forwards"
OWN = {
    "cp": CONTROL_PLANE,
    CONTROL_PLANE: CONTROL_PLANE,
    MACHINES: MACHINES,
    "pf": FORWARDS,
    "portforward": FORWARDS,
    FORWARDS: FORWARDS,
}
"""Views that are no kind, by what they are called."""
COMMON = (
    *("pods", "deployments", "replicasets", "statefulsets", "daemonsets", "jobs", "cronjobs", "services", "ingresses"),
    *("configmaps", "secrets", "persistentvolumeclaims", "persistentvolumes", "nodes", "namespaces", "events"),
    *("leases", *dict.fromkeys(OWN.values()), "quit"),
)
SORTING = "".join(letter for letter in map(chr, range(ord("A"), ord("Z") + 1)) if letter not in "FGJ")
"""Capital letters that sort; the others have another meaning."""
_KEYS = """
:KIND          show a kind by any of its names, such as :po, :deploy or :events; `:po NAMESPACE` in one namespace
:ns NAME       stay in a namespace; 1 to 9 in those that are named at the top, 0 shows all again
:cp :machines  members and actors of the control plane, and its machines; :pf forwarded ports
/WORDS         rows that have all words; /!WORDS those that have not
enter          what belongs to the row: pods of a node or workload, the log of a pod; else its description
d y v x        describe, YAML, its events, its owners and what stands below it; J goes to its owner
N A S R T O I P and every other capital: sort by name, age, status, ready, restarts, node, IP, namespace, or the
               column that begins with it; again: the other way round; shift and arrows sort by the next column
l p            log as it grows, log of the run before
s              a shell in the pod; of what has replicas, how many
e              edit in $EDITOR; the server checks it, you see the difference and say yes
r              restart a rollout
F              forward a port to a pod; in :pf ctrl+d ends one
ctrl+d         delete it; ctrl+k kills: a pod at once, of the control plane an actor, of nodes the host
f c            in the control plane: freeze an actor, cut it off from all others, each for 10 seconds
w              all columns; arrows, j k g G, page up and down move
escape         close, end the filter, go back
q ctrl+c       leave
"""
_INDENT = 15


def keys(width: int) -> str:
    """What `?` tells, in lines of a terminal that has so many columns."""
    entries = re.sub(r"\n {2,}", " ", _KEYS.strip("\n"))
    indent = " " * _INDENT
    lines = [textwrap.fill(one, max(width, 2 * _INDENT), subsequent_indent=indent) for one in entries.splitlines()]
    return "\n" + "\n".join(lines) + "\n"
