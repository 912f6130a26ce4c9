"""Names, in the words of Kubernetes when they are none."""

from collections.abc import Callable, Sequence

import pytest

from rayplane.control_plane.api.machinery import names

Check = Callable[[str], Sequence[str]]
LABEL = "a lowercase RFC 1123 label must consist of"
SUBDOMAIN = "a lowercase RFC 1123 subdomain must consist of"
KEY = "name part must consist of"
ADDRESS = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"

CASES: list[tuple[Check, str, list[str]]] = [
    (names.label_errors, "a-1", []),
    (names.label_errors, "a.b", ["must not contain dots"]),
    (names.label_errors, "A", [LABEL]),
    (names.label_errors, "", [LABEL]),
    (names.label_errors, "a" * 64, ["must be no more than 63 characters"]),
    (names.label_errors, "A" * 64, ["must be no more than 63 characters", LABEL]),
    (names.subdomain_errors, "a.b-1.c", []),
    (names.subdomain_errors, "a..b", [SUBDOMAIN]),
    (names.subdomain_errors, "a" * 254, ["must be no more than 253 characters"]),
    (names.qualified_name_errors, "example.com/MyName", []),
    (names.qualified_name_errors, "a/b/c", ["a valid label key must consist of"]),
    (names.qualified_name_errors, "/b", ["prefix part must be non-empty"]),
    (names.qualified_name_errors, "A/b", [f"prefix part {SUBDOMAIN}"]),
    (names.qualified_name_errors, "a" * 254 + "/b", ["prefix part must be no more than 253 bytes"]),
    (names.qualified_name_errors, "b" * 64, ["name part must be no more than 63 bytes"]),
    (names.qualified_name_errors, "", ["name part must be non-empty", KEY]),
    (names.label_value_errors, "", []),
    (names.label_value_errors, "a" * 64, ["must be no more than 63 bytes"]),
    (names.label_value_errors, "-a", ["a valid label must be an empty string or consist of"]),
    (names.config_key_errors, "a" * 254, ["must be no more than 253 characters"]),
    (names.config_key_errors, "..a", ["must not start with '..'"]),
    (names.port_name_errors, "http-2", []),
    (names.port_name_errors, "80", ["must contain at least one letter (a-z)"]),
    (names.port_name_errors, "A", ["must contain only alpha-numeric", "must contain at least one letter (a-z)"]),
    (names.port_name_errors, "a" * 16, ["must be no more than 15 characters"]),
    (names.port_name_errors, "-a--b", ["must not contain consecutive hyphens", "must not begin or end with a hyphen"]),
    (names.env_name_errors, "a b.c", []),
    (names.env_name_errors, "", ["environment variable name must be non-empty"]),
    (names.env_name_errors, "a=b", ["a valid environment variable name must consist only of printable ASCII"]),
    (names.search_domain_errors, "_a.b_c", []),
    (names.search_domain_errors, "a_", [f"{SUBDOMAIN} lower case alphanumeric characters, '_', '-' or '.'"]),
    (names.header_name_errors, "X-A", []),
    (names.header_name_errors, "a b", ["a valid HTTP header must consist of alphanumeric characters or '-'"]),
    (names.ip_errors, "10.0.0.1", []),
    (names.ip_errors, "2001:DB8::0:1", []),
    (names.ip_errors, "010.0.0.1", ["must not have leading 0s"]),
    (names.ip_errors, "010.0.0.256", [ADDRESS]),
    (names.ip_errors, "::ffff:1.2.3.4", ["must not be an IPv4-mapped IPv6 address"]),
    (names.ip_errors, "fe80::1%eth0", [ADDRESS]),
    (names.ip_errors, "", [ADDRESS]),
]


@pytest.mark.parametrize(("check", "text", "said"), CASES)
def test_a_name_is_one_or_the_words_say_why_not(check: Check, text: str, said: list[str]) -> None:
    found = check(text)
    assert len(found) == len(said), found
    assert all(one.startswith(start) for one, start in zip(found, said, strict=True)), found
