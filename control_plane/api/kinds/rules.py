"""Rules of one kind: a value that names everything that is special to it.

A room (`kinds/<group>/<kind>.py`) holds the functions and one `Rules` per kind. A rule that a kind does not have is
said to be absent, with the reason: a rule that nobody thought of is `FORGOTTEN`, which the tests refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from rayplane.control_plane.api.errors import FieldError
from rayplane.control_plane.api.kinds.metadata import NameCheck, finalizer_warnings
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import NAME_AND_CREATED_AT, Printer
from rayplane.control_plane.api.machinery.field_selectors import METADATA_FIELDS
from rayplane.control_plane.api.meta import Object

Errors = list[FieldError]


class Absent:
    """A rule that a kind does not have, and why; called, it does nothing and finds nothing."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __call__(self, *_: Object) -> Any:
        return ()

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"Absent({self.reason!r})"


_BESIDE_CONTENT: Final = frozenset({"apiVersion", "kind", "metadata"})


def content_differs(new: Object, old: Object) -> bool:
    """Whether anything but metadata differs."""
    return any(new.get(field) != old.get(field) for field in (new.keys() | old.keys()) - _BESIDE_CONTENT)


CLIENTS_METADATA: Final = frozenset({"labels", "annotations", "finalizers", "ownerReferences"})
"""The fields of metadata that are the clients' own."""


@dataclass(frozen=True, slots=True)
class Status:
    """A status that ordinary writes cannot change."""

    initial: dict[str, Any] | None = None
    """What a new object starts with; None for no status at all."""
    given_on_create: bool = False
    """Whether a client may set it when it creates the object: kubelets register nodes in one request."""
    metadata: frozenset[str] = CLIENTS_METADATA
    """Fields of metadata that a write of the status may also change, as Kubernetes' strategy of the kind has it."""


FORGOTTEN: Final[Any] = Absent("nobody has said so far")
NO_DEFAULTS: Final = Absent("no field of it has a default")
NO_STATUS: Final = Absent("it has no status, or one that is its content")
NO_PREPARATION: Final = Absent("what a client writes is kept as it is")
NO_VALIDATION: Final = Absent("its schema and metadata are all that is looked at")
NO_UPDATE_RULES: Final = Absent("what may be created may also be changed to")
NO_STATUS_RULES: Final = Absent("who may write its status is believed")
NO_WARNINGS: Final[Any] = Absent("nothing in it is deprecated, or easily mistaken")
NO_CHANGE_COUNTS: Final = Absent("it stays the first generation")
NO_SCALE: Final = Absent("it has no number of replicas")
REQUEST_ONLY: Final = Absent("it is a question, answered at once and never stored")


@dataclass(frozen=True, slots=True)
class ScalePaths:
    """JSON paths (with a leading dot) of a kind's replica counts; `selector` may be empty."""

    spec: str = ".spec.replicas"
    status: str = ".status.replicas"
    selector: str = ".spec.selector"

    @classmethod
    def of(cls, scale: Mapping[str, Any] | None) -> ScalePaths | None:
        """The paths that a definition's scale subresource names; None without one."""
        if not scale:
            return None
        return cls(
            spec=scale.get("specReplicasPath") or ".spec.replicas",
            status=scale.get("statusReplicasPath") or ".status.replicas",
            selector=scale.get("labelSelectorPath") or "",
        )


WORKLOAD_PATHS: Final = ScalePaths()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The rules of one kind. `defaults` and `prepare_*` change objects in place."""

    name: NameCheck = field(default=FORGOTTEN)
    """Problems of `metadata.name`."""
    defaults: Callable[[Object], None] = field(default=FORGOTTEN)
    """Fill in the fields that a client left out. Twice is as good as once."""
    defaults_in_status: bool = False
    """Whether labels or fields of the status are among these: a write of the status needs them then."""
    prepare_create: Callable[[Object], None] = field(default=FORGOTTEN)
    """Make of a client's object what a new object of the kind looks like."""
    prepare_update: Callable[[Object, Object], None] = field(default=FORGOTTEN)
    """(new, old): keep what an ordinary update cannot change."""
    prepare_status_update: Callable[[Object, Object], None] = field(default=FORGOTTEN)
    """(new, old): keep what a write of the status cannot change in it."""
    validate: Callable[[Object], Errors] = field(default=FORGOTTEN)
    """Problems of a new object, and of what an update makes of one where `revalidates`."""
    validate_update: Callable[[Object, Object], Errors] = field(default=FORGOTTEN)
    """(new, old): problems of the change itself."""
    validate_status_update: Callable[[Object, Object], Errors] = NO_STATUS_RULES
    """(new, old): problems of a write of the status; metadata apart, nothing else is looked at there."""
    validate_parts: Mapping[str, Callable[[Object, Object], Errors]] = field(default_factory=dict)
    """(new, old): problems of a write of another part of the object, by its subresource."""
    needs_version: bool = False
    """Whether an update must say by its resourceVersion what it replaces."""
    revalidates: bool = True
    """False where the rules for updates say all: validating the unchanged rest again would refuse old objects."""
    status: Status | Absent = field(default=FORGOTTEN)
    generation: bool = field(default=FORGOTTEN)
    """Whether metadata.generation counts the changes of the kind."""
    counts: Callable[[Object, Object], bool] = content_differs
    """(new, old): whether an update counts as one. Its status is the old one by then, where it has one of its own."""
    printer: Printer = field(default=FORGOTTEN)
    """Columns of tables."""
    fields: tuple[str, ...] = field(default=FORGOTTEN)
    """Paths that a field selector may name."""
    scale: ScalePaths | Absent = field(default=FORGOTTEN)
    warnings: Callable[[Object, Object | None], Sequence[str]] = NO_WARNINGS
    """(new, old or None for a new object): what a client is told of an object that is accepted."""
    made_by_update: bool = False
    """Whether an update of what is not there makes it, for who may create it."""
    deprecated: str = ""
    """What every client is told who uses the kind, if it is to go."""
    orphans: bool = field(default=False)
    """Whether dependents stay when a client does not say what to do with them."""
    has_dependents: bool = True
    """False where nothing depends on it, whatever a client asks to be done with dependents."""
    ends_by_itself: bool = False
    """Whether a delete request only marks it, and what its deletion waits for is the kind's own affair."""


AS_WRITTEN: Final = Rules(
    name=names.subdomain_errors,
    prepare_create=NO_PREPARATION,
    prepare_update=NO_PREPARATION,
    prepare_status_update=NO_PREPARATION,
    fields=METADATA_FIELDS,
    scale=NO_SCALE,
)
"""What most kinds have in common: a subdomain for a name, kept as clients write it. The rest is FORGOTTEN here:
each kind says it itself, by `dataclasses.replace`."""

PLAIN: Final = replace(
    AS_WRITTEN,
    defaults=Absent("not known"),
    validate=Absent("its schema is all that is known of it"),
    validate_update=NO_UPDATE_RULES,
    status=NO_STATUS,
    generation=False,
    warnings=finalizer_warnings,
    printer=NAME_AND_CREATED_AT,
)
"""Rules of kinds that are not Kubernetes' own."""
