"""Names of signers of certificates: a path of a domain."""

from __future__ import annotations

from typing import Final

from rayplane.control_plane.api.errors import invalid, quote, required, too_long
from rayplane.control_plane.api.kinds.metadata import Errors, NameCheck
from rayplane.control_plane.api.machinery import names

_DOMAIN_MAX: Final = 253
_NAME_MAX: Final = 571


def is_kubernetes_signer(name: str) -> bool:
    """Whether the name is one of Kubernetes' own."""
    host = name.partition("/")[0]
    return host == "kubernetes.io" or host.endswith(".kubernetes.io")


def validate_signer_name(name: str, path: str, errs: Errors) -> None:
    if not name:
        errs.append(required(path))
        return
    domain, _, own = name.partition("/")
    if name.count("/") != 1:
        text = "must be a fully qualified domain and path of the form 'example.com/signer-name'"
        errs.append(invalid(path, name, text))
        return
    if len(domain) > _DOMAIN_MAX:
        errs.append(too_long(path, _DOMAIN_MAX))
    _parts(domain, names.label_errors, path, errs)
    if "." not in domain:
        text = "should be a domain with at least two segments separated by dots"
        errs.append(invalid(path, domain, text))
    _parts(own, names.subdomain_errors, path, errs)
    if len(name) > _NAME_MAX:
        errs.append(too_long(path, _NAME_MAX))


def _parts(text: str, check: NameCheck, path: str, errs: Errors) -> None:
    """Each part between dots is good; the first that is not is told of."""
    for part in text.split("."):
        problems = check(part)
        if problems:
            errs += [invalid(path, text, f"validating label {quote(part)}: {problem}") for problem in problems]
            return
