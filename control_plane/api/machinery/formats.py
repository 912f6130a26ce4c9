"""Formats of texts in schemas: dates, spans, addresses, identifiers. Pure; each is looked at in linear time.

A format that is not known says nothing, as in OpenAPI. Source: kube-openapi `pkg/validation/strfmt`, and
apiextensions-apiserver's list of the formats that it supports.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable
from datetime import date, datetime
from typing import Final
from urllib.parse import urlsplit

from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.durations import DurationError, parse_duration

_DATE_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_SPAN: Final = re.compile(r"((\d+)\s*([A-Za-zµ]+))+", re.ASCII)
_UUID: Final = "[0-9a-f]{{8}}-?[0-9a-f]{{4}}-?{version}[0-9a-f]{{3}}-?{variant}[0-9a-f]{{3}}-?[0-9a-f]{{12}}"
# Compiled when it is needed: that takes as long as importing a hundred modules.
_HOST_CHARS: Final = r"a-zA-Z0-9\u00a1-\uffff"
_HOST_PART: Final = f"([{_HOST_CHARS}]([{_HOST_CHARS}-]{{0,62}}))"
_HOST: Final = rf"{_HOST_PART}(\.{_HOST_PART})*\.?"
_EMAIL: Final = re.compile(r"[^\s@<>()\[\],;:\"]+@[^\s@<>()\[\],;:\"]+")
_TEXT_MAX: Final = 64 * 1024
"""Longer texts are of no format."""


def _pattern(text: str, flags: re.RegexFlag = re.IGNORECASE) -> Callable[[str], bool]:
    return lambda value: re.fullmatch(text, value, re.ASCII | flags) is not None


def _uuid(version: str, variant: str) -> Callable[[str], bool]:
    return _pattern(_UUID.format(version=version, variant=variant))


def _address(version: int) -> Callable[[str], bool]:
    def is_address(text: str) -> bool:
        try:
            return "%" not in text and ipaddress.ip_address(text).version == version
        except ValueError:
            return False

    return is_address


def _is_cidr(text: str) -> bool:
    address, slash, bits = text.partition("/")
    try:
        network = ipaddress.ip_interface(text)
    except ValueError:
        return False
    return bool(slash and address and bits.isdigit() and network.version in (4, 6))


def _is_uri(text: str) -> bool:
    if any(c.isspace() or ord(c) < 32 for c in text):
        return False
    try:
        parts = urlsplit(text)
        return (bool(parts.scheme) or text.startswith("/")) and (parts.port is None or parts.port >= 0)
    except ValueError:
        return False


def is_date_time(text: str) -> bool:
    """A time of RFC 3339."""
    match = _DATE_TIME.fullmatch(text)
    if match is None:
        return False
    try:
        # A leap second is a time, too.
        clock = match[2][:6] + "59" if match[2].endswith(":60") else match[2]
        datetime.fromisoformat(f"{match[1]}T{clock}{'+00:00' if match[4] in 'Zz' else match[4]}")
    except ValueError:
        return False
    return True


def _is_date(text: str) -> bool:
    try:
        return len(text) == 10 and date.fromisoformat(text) is not None
    except ValueError:
        return False


_UNIT_NAMES: Final = (
    *("ns", "nano", "nanos", "nanosecond", "nanoseconds", "us", "µs", "micro", "micros", "microsecond", "microseconds"),
    *("ms", "milli", "millis", "millisecond", "milliseconds", "s", "sec", "secs", "second", "seconds"),
    *("m", "min", "mins", "minute", "minutes", "h", "hr", "hrs", "hour", "hours"),
    *("d", "day", "days", "w", "wk", "wks", "week", "weeks"),
)


def _is_duration(text: str) -> bool:
    try:
        parse_duration(text)
    except DurationError:
        spaced = _SPAN.fullmatch(text.strip())
        return spaced is not None and all(unit.lower() in _UNIT_NAMES for unit in re.findall(r"[A-Za-zµ]+", text))
    return True


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return False
    return True


def _digits(text: str) -> list[int]:
    return [10 if c in "xX" else int(c) for c in text if c.isdigit() or c in "xX"]


def _is_isbn10(text: str) -> bool:
    if not re.fullmatch(r"([0-9][- ]?){9}[0-9Xx]", text, re.ASCII):
        return False
    return sum((10 - place) * digit for place, digit in enumerate(_digits(text))) % 11 == 0


def _is_isbn13(text: str) -> bool:
    if not re.fullmatch(r"([0-9][- ]?){12}[0-9]", text, re.ASCII):
        return False
    return sum((1 + 2 * (place % 2)) * digit for place, digit in enumerate(_digits(text))) % 10 == 0


def _is_credit_card(text: str) -> bool:
    digits = re.sub(r"[- ]", "", text)
    if not re.fullmatch(r"[0-9]{12,19}", digits, re.ASCII):
        return False
    doubled = [int(c) * (1 + place % 2) for place, c in enumerate(reversed(digits))]
    return sum(one - 9 if one > 9 else one for one in doubled) % 10 == 0


def _is_hostname(text: str) -> bool:
    return len(text) <= 253 and re.fullmatch(_HOST, text) is not None


_BYTE: Final = r"\s*([0-9]{1,2}|1[0-9]{2}|2[0-4][0-9]|25[0-5])\s*"
_CHECKS: Final[dict[str, Callable[[str], bool]]] = {
    "bsonobjectid": _pattern(r"[0-9a-f]{24}"),
    "uri": _is_uri,
    "email": lambda text: _EMAIL.fullmatch(text) is not None,
    "hostname": _is_hostname,
    "ipv4": _address(4),
    "ipv6": _address(6),
    "cidr": _is_cidr,
    "mac": _pattern(r"([0-9a-f]{2}([:-][0-9a-f]{2}){5,7}|([0-9a-f]{4}\.){2,3}[0-9a-f]{4})"),
    "uuid": _uuid("[0-9a-f]", "[0-9a-f]"),
    "uuid3": _uuid("3", "[0-9a-f]"),
    "uuid4": _uuid("4", "[89ab]"),
    "uuid5": _uuid("5", "[89ab]"),
    "isbn": lambda text: _is_isbn10(text) or _is_isbn13(text),
    "isbn10": _is_isbn10,
    "isbn13": _is_isbn13,
    "creditcard": _is_credit_card,
    "ssn": _pattern(r"[0-9]{3}[- ]?[0-9]{2}[- ]?[0-9]{4}"),
    "hexcolor": _pattern(r"#?([0-9a-f]{3}|[0-9a-f]{6})"),
    "rgbcolor": _pattern(rf"rgb\({_BYTE},{_BYTE},{_BYTE}\)"),
    "byte": _is_base64,
    "password": lambda text: True,
    "date": _is_date,
    "duration": _is_duration,
    "datetime": is_date_time,
    "date-time": is_date_time,
    "k8s-short-name": lambda text: not names.label_errors(text),
    "k8s-long-name": lambda text: not names.subdomain_errors(text),
}
# How they are written without a difference: as go-openapi keeps them.
_PLAIN: Final = {name.replace("-", ""): check for name, check in _CHECKS.items()}


def is_known(format_name: str) -> bool:
    """Whether texts are looked at for a format."""
    return format_name.replace("-", "") in _PLAIN


def fits(text: str, format_name: str) -> bool:
    """Whether a text is of a format."""
    check = _PLAIN.get(format_name.replace("-", "")) if format_name else None
    return check is None or (len(text) <= _TEXT_MAX and check(text))
