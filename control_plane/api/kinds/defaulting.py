"""Defaults of fields a client left out, in place.

What needs other objects or allocation (service accounts, tolerations, priorities, cluster addresses) is not defaulted
here. Applying defaults twice changes nothing.
Source: Kubernetes API reference v1.37, "default" notes of each field.
"""

from __future__ import annotations

from rayplane.control_plane.api.kinds.registry import rules_by_object
from rayplane.control_plane.api.meta import Object


def default(obj: Object) -> None:
    """Fill the defaults of `obj` (which carries apiVersion and kind) in place.

    Kinds without defaults are left alone. The object must have passed the schema: wrong types are
    not looked for here.
    """
    rules_by_object(obj).defaults(obj)
