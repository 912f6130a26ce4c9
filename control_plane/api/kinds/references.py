"""References to other objects and to those who answer for something: kinds and names, paths of a domain, signers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from rayplane.control_plane.api.errors import invalid, quote, required, too_long
from rayplane.control_plane.api.kinds.metadata import Errors, checked
from rayplane.control_plane.api.machinery import names

_PATH_TEXT: Final = r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+"
_PATH: Final = re.compile(_PATH_TEXT)


def domain_prefixed_path(value: str, path: str, errs: Errors) -> None:
    """A path below a domain, such as `acme.io/foo`."""
    if not value:
        errs.append(required(path))
        return
    host, _, rest = value.partition("/")
    if not host or not rest:
        errs.append(invalid(path, value, 'must be a domain-prefixed path (such as "acme.io/foo")'))
        return
    checked(names.subdomain_errors(host), host, path, errs)
    if not _PATH.fullmatch(rest):
        errs.append(invalid(path, rest, f"Invalid path (regex used for validation is '{_PATH_TEXT}')"))


def kind_and_name(ref: Mapping[str, Any], path: str, errs: Errors, *, texts: bool = False) -> None:
    """The kind and the name of another object, each a part of a path; `texts` says more of what is missing."""
    for field in ("kind", "name"):
        value = ref.get(field) or ""
        if not value:
            errs.append(required(f"{path}.{field}", f"{field} is required" if texts else ""))
        else:
            checked(names.path_segment_errors(value), value, f"{path}.{field}", errs)


def typed_reference(ref: Mapping[str, Any], path: str, errs: Errors) -> None:
    """An object of the same namespace, or of the cluster, by group, kind and name."""
    group = ref.get("apiGroup")
    if group is not None:
        checked(names.subdomain_errors(group), group, f"{path}.apiGroup", errs)
    kind_and_name(ref, path, errs, texts=True)


def is_kubernetes_signer(name: str) -> bool:
    """Whether the name is one of Kubernetes' own."""
    host = name.partition("/")[0]
    return host == "kubernetes.io" or host.endswith(".kubernetes.io")


def signer_name(value: str, path: str, errs: Errors) -> None:
    """Who signs certificates: a domain and a name of its own, such as `example.com/signer-name`."""
    if not value:
        errs.append(required(path))
        return
    domain, _, own = value.partition("/")
    if value.count("/") != 1:
        text = "must be a fully qualified domain and path of the form 'example.com/signer-name'"
        errs.append(invalid(path, value, text))
        return
    if len(domain.encode()) > _SUBDOMAIN_MAX:
        errs.append(too_long(path, _SUBDOMAIN_MAX))
    _labels(domain, names.label_errors, path, errs)
    if "." not in domain:
        errs.append(invalid(path, domain, "should be a domain with at least two segments separated by dots"))
    _labels(own, names.subdomain_errors, path, errs)
    if len(value.encode()) > _SIGNER_MAX:
        errs.append(too_long(path, _SIGNER_MAX))


def _labels(text: str, check: Callable[[str], Sequence[str]], path: str, errs: Errors) -> None:
    """The problems of the first label that has any."""
    for label in text.split("."):
        problems = [f"validating label {quote(label)}: {problem}" for problem in check(label)]
        if problems:
            checked(problems, text, path, errs)
            return


_SUBDOMAIN_MAX = 253
_SIGNER_MAX = _SUBDOMAIN_MAX + 1 + (_SUBDOMAIN_MAX + 1 + 63)
