"""Syntax of names: RFC 1123 and RFC 1035 labels, subdomains, qualified names, label values.

Each function returns the problems of a value as texts in Kubernetes' words, empty when there are
none, so that a caller can put them under any field. Checks that pass cost one precompiled match.
Source: Kubernetes concepts "Object Names and IDs", "Labels and Selectors"; RFC 1035, RFC 1123.
"""

from __future__ import annotations

import ipaddress
import re

from rayplane.control_plane.api.machinery.remembering import remembered

_LABEL_TEXT = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN_TEXT = rf"{_LABEL_TEXT}(\.{_LABEL_TEXT})*"
_DNS1035_TEXT = "[a-z]([-a-z0-9]*[a-z0-9])?"
_NAME_TEXT = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_LABEL = re.compile(_LABEL_TEXT)
_SUBDOMAIN = re.compile(_SUBDOMAIN_TEXT)
_DNS1035 = re.compile(_DNS1035_TEXT)
_NAME = re.compile(_NAME_TEXT)
_CONFIG_KEY = re.compile("[-._a-zA-Z0-9]+")
_PORT_NAME = re.compile("[-a-z0-9]+")
_ENV = re.compile(r"[ -<>-~]+")
_HEADER_TEXT = "[-A-Za-z0-9]+"
_HEADER = re.compile(_HEADER_TEXT)
_PERCENT = re.compile("[0-9]+%")
_PORT_NUMBER = re.compile("[0-9]{1,5}")
_BITS = re.compile("[0-9]{1,3}")
_IP_ERROR = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"


def regex_error(message: str, pattern: str, *examples: str) -> str:
    """`message (e.g. 'x',  or 'y', regex used for validation is 'pattern')`, double space kept."""
    if not examples:
        return f"{message} (regex used for validation is '{pattern}')"
    shown = "".join(f"'{one}', " if i == 0 else f" or '{one}', " for i, one in enumerate(examples))
    return f"{message} (e.g. {shown}regex used for validation is '{pattern}')"


_SUBDOMAIN_ERROR = regex_error(
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or "
    "'.', and must start and end with an alphanumeric character",
    _SUBDOMAIN_TEXT,
    "example.com",
)
_WILDCARD_ERROR = regex_error(
    "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of "
    "lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
    rf"\*\.{_SUBDOMAIN_TEXT}",
    "*.example.com",
)
_LABEL_ERROR = regex_error(
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', "
    "and must start and end with an alphanumeric character",
    _LABEL_TEXT,
    "my-name",
    "123-abc",
)
_DNS1035_ERROR = regex_error(
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', "
    "start with an alphabetic character, and end with an alphanumeric character",
    _DNS1035_TEXT,
    "my-name",
    "abc-123",
)
_NAME_PART_ERROR = "name part " + regex_error(
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
    _NAME_TEXT,
    "MyName",
    "my.name",
    "123-abc",
)
_LABEL_VALUE_TEXT = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?"
_LABEL_VALUE_ERROR = regex_error(
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', "
    "and must start and end with an alphanumeric character",
    _LABEL_VALUE_TEXT,
    "MyValue",
    "my_value",
    "12345",
)
_QUALIFIED_ERROR = (
    regex_error(
        "a valid label key must consist of alphanumeric characters, '-', '_' or '.', "
        "and must start and end with an alphanumeric character",
        _NAME_TEXT,
        "MyName",
        "my.name",
        "123-abc",
    )
    + " with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
)
_CONFIG_KEY_ERROR = regex_error(
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
    "[-._a-zA-Z0-9]+",
    "key.name",
    "KEY_NAME",
    "key-name",
)


def _at_most(length: int, unit: str = "characters") -> str:
    return f"must be no more than {length} {unit}"


@remembered(16_384)
def subdomain_errors(name: str) -> tuple[str, ...]:
    """Problems of a lowercase RFC 1123 subdomain."""
    found: list[str] = []
    if len(name) > 253:
        found.append(_at_most(253))
    if not _SUBDOMAIN.fullmatch(name):
        found.append(_SUBDOMAIN_ERROR)
    return tuple(found)


@remembered(4_096)
def label_errors(name: str) -> tuple[str, ...]:
    """Problems of a lowercase RFC 1123 label."""
    found: list[str] = []
    if len(name) > 63:
        found.append(_at_most(63))
    if not _LABEL.fullmatch(name):
        found.append("must not contain dots" if _SUBDOMAIN.fullmatch(name) else _LABEL_ERROR)
    return tuple(found)


@remembered(4_096)
def dns1035_errors(name: str) -> tuple[str, ...]:
    """Problems of an RFC 1035 label, as services are named."""
    found: list[str] = []
    if len(name) > 63:
        found.append(_at_most(63))
    if not _DNS1035.fullmatch(name):
        found.append(_DNS1035_ERROR)
    return tuple(found)


@remembered(16_384)
def qualified_name_errors(name: str) -> tuple[str, ...]:
    """Problems of a label or annotation key, resource name or finalizer: [prefix/]name."""
    prefix, slash, own = name.rpartition("/")
    found: list[str] = []
    if "/" in prefix:
        return (_QUALIFIED_ERROR,)
    if slash:
        if not prefix:
            found.append("prefix part must be non-empty")
        else:
            if len(prefix) > 253:
                found.append("prefix part " + _at_most(253, "bytes"))
            if not _SUBDOMAIN.fullmatch(prefix):
                found.append("prefix part " + _SUBDOMAIN_ERROR)
    if not own:
        found.append("name part must be non-empty")
    elif len(own) > 63:
        found.append("name part " + _at_most(63, "bytes"))
    if not _NAME.fullmatch(own):
        found.append(_NAME_PART_ERROR)
    return tuple(found)


@remembered(16_384)
def label_value_errors(value: str) -> tuple[str, ...]:
    """Problems of a label's value."""
    found: list[str] = []
    if len(value) > 63:
        found.append(_at_most(63, "bytes"))
    if value and not _NAME.fullmatch(value):
        found.append(_LABEL_VALUE_ERROR)
    return tuple(found)


def wildcard_errors(name: str) -> tuple[str, ...]:
    """Problems of a subdomain whose first label stands for any."""
    found: list[str] = []
    if len(name) > 253:
        found.append(_at_most(253))
    if not name.startswith("*.") or not _SUBDOMAIN.fullmatch(name[2:]):
        found.append(_WILDCARD_ERROR)
    return tuple(found)


def config_key_errors(key: str) -> tuple[str, ...]:
    """Problems of a key of a ConfigMap or Secret."""
    found: list[str] = []
    if len(key) > 253:
        found.append(_at_most(253))
    if not _CONFIG_KEY.fullmatch(key):
        found.append(_CONFIG_KEY_ERROR)
    if key == ".":
        found.append("must not be '.'")
    elif key == "..":
        found.append("must not be '..'")
    elif key.startswith(".."):
        found.append("must not start with '..'")
    return tuple(found)


_SEARCH_LABEL_TEXT = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?"
_SEARCH_TEXT = rf"{_SEARCH_LABEL_TEXT}(\.{_SEARCH_LABEL_TEXT})*"
_SEARCH = re.compile(_SEARCH_TEXT)
_SEARCH_ERROR = regex_error(
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or "
    "'.', and must start and end with an alphanumeric character",
    _SEARCH_TEXT,
    "example.com",
)


def search_domain_errors(name: str) -> tuple[str, ...]:
    """Problems of a domain that a resolver searches: a subdomain that may have underscores."""
    found: list[str] = []
    if len(name) > 253:
        found.append(_at_most(253))
    if not _SEARCH.fullmatch(name):
        found.append(_SEARCH_ERROR)
    return tuple(found)


def header_name_errors(name: str) -> tuple[str, ...]:
    """Problems of the name of an HTTP header."""
    if _HEADER.fullmatch(name):
        return ()
    text = "a valid HTTP header must consist of alphanumeric characters or '-'"
    return (regex_error(text, _HEADER_TEXT, "X-Header-Name"),)


def env_name_errors(name: str) -> tuple[str, ...]:
    """Problems of an environment variable's name: printable ASCII without '='."""
    if not name:
        return ("environment variable name must be non-empty",)
    if _ENV.fullmatch(name):
        return ()
    text = "a valid environment variable name must consist only of printable ASCII characters other than '='"
    return (text,)


@remembered(4_096)
def port_name_errors(name: str) -> tuple[str, ...]:
    """Problems of an IANA service name, as container ports are named."""
    found: list[str] = []
    if len(name) > 15:
        found.append(_at_most(15))
    if not _PORT_NAME.fullmatch(name):
        found.append("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    if not any("a" <= c <= "z" for c in name):
        found.append("must contain at least one letter (a-z)")
    if "--" in name:
        found.append("must not contain consecutive hyphens")
    if name and (name[0] == "-" or name[-1] == "-"):
        found.append("must not begin or end with a hyphen")
    return tuple(found)


def path_segment_errors(name: str) -> tuple[str, ...]:
    """Problems of a name that is only a URL path segment, as RBAC objects are named."""
    if "/" not in name and "%" not in name and name not in (".", ".."):
        return ()
    if name in (".", ".."):
        return (f"may not be '{name}'",)
    return tuple(f"may not contain '{one}'" for one in ("/", "%") if one in name)


def is_number_of_port(text: str) -> bool:
    """Whether a text writes a port's number out, in range or not; else it may be the port's name."""
    return _PORT_NUMBER.fullmatch(text) is not None


def is_percent(text: str) -> bool:
    return _PERCENT.fullmatch(text) is not None


@remembered(4_096)
def ip_errors(text: str) -> tuple[str, ...]:
    """Problems of an IPv4 or IPv6 address, in canonical form or not."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        octets = text.split(".")
        padded = len(octets) == 4 and all(_BITS.fullmatch(octet.lstrip("0") or "0") for octet in octets)
        if padded and all(int(octet.lstrip("0") or 0) < 256 for octet in octets):
            return ("must not have leading 0s",)
        return (_IP_ERROR,)
    if "%" in text:
        return (_IP_ERROR,)
    if address.version == 6 and address.ipv4_mapped is not None:
        return ("must not be an IPv4-mapped IPv6 address",)
    return ()


@remembered(4_096)
def is_ip(text: str) -> bool:
    """Whether this is an IPv4 or IPv6 address, without a zone."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def is_cidr(text: str) -> bool:
    """Whether this is `address/bits`: other forms of a mask are not known to Kubernetes."""
    _, slash, bits = text.partition("/")
    if not slash or not _BITS.fullmatch(bits) or "%" in text:
        return False
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True
