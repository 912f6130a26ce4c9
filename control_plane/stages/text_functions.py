"""Functions of templates that make texts: Go's own, KWOK's, and the part of Sprig's that life cycles use. Pure.

Source: Go package text/template; the documentations of KWOK ("Stages configuration") and of Sprig.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import yaml

from rayplane.control_plane.stages.meter import Meter, integer, printed

_PAD_MAX: Final = 200
_VERB: Final = re.compile(r"%([-+ 0#]*)(\d*)(?:\.(\d+))?([sdvqtfxX%])")
Call = Callable[..., Any]


def _print(meter: Meter, *values: Any) -> str:
    return "".join(printed(value, meter) for value in values)


def _println(meter: Meter, *values: Any) -> str:
    return " ".join(printed(value, meter) for value in values) + "\n"


def _printf(meter: Meter, form: Any, *values: Any) -> str:
    left = list(values)

    def one(match: re.Match[str]) -> str:
        flags, width, digits, verb = match.groups()
        if verb == "%":
            return "%"
        if not left:
            return f"%!{verb}(MISSING)"
        value = left.pop(0)
        text = _formatted(value, verb, digits, meter)
        size = min(int(width[:4] or 0), _PAD_MAX)
        if "-" in flags:
            return text.ljust(size)
        return text.zfill(size) if "0" in flags and verb in "dfx" else text.rjust(size)

    made = _VERB.sub(one, printed(form, meter))
    meter.make(len(made))
    return made


def _formatted(value: Any, verb: str, digits: str | None, meter: Meter) -> str:
    if verb == "d":
        return str(integer(value))
    if verb in "xX":
        return format(integer(value), verb) if not isinstance(value, str) else value.encode().hex()
    if verb == "f":
        return f"{float(value or 0):.{min(int((digits or '6')[:4]), 20)}f}"
    text = printed(value, meter)
    if digits:
        text = text[: int(digits[:8])]
    return json.dumps(text, ensure_ascii=False) if verb == "q" else text


def _quote(meter: Meter, value: Any) -> str:
    """A JSON text; of what is no text, its JSON in a text."""
    return json.dumps(value if isinstance(value, str) else _json(meter, value), ensure_ascii=False)


def _sprig_quote(meter: Meter, *values: Any) -> str:
    return " ".join(json.dumps(printed(one, meter), ensure_ascii=False) for one in values if one is not None)


def _squote(meter: Meter, *values: Any) -> str:
    return " ".join(f"'{printed(one, meter)}'" for one in values if one is not None)


def _json(meter: Meter, value: Any) -> str:
    meter.make(meter.measure(value))
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _from_json(meter: Meter, text: Any) -> Any:
    meter.make(len(text) * 8)
    return json.loads(text)


def _yaml(meter: Meter, value: Any, indent: Any = 0) -> str:
    """A value as YAML, each line indented by so many times two blanks."""
    made = _dumped(meter, value)
    pad = " " * (2 * min(max(integer(indent), 0), 32))
    return made if not pad else _indented(meter, "\n" + made, pad)


def _to_yaml(meter: Meter, value: Any) -> str:
    return _dumped(meter, value).removesuffix("\n")


def _dumped(meter: Meter, value: Any) -> str:
    size = meter.measure(value)
    meter.make(size)
    meter.spend(size)  # YAML is slow to make
    made = yaml.dump(value, Dumper=_Plain, default_flow_style=False, allow_unicode=True, width=1 << 20)
    return str(made).removesuffix("...\n")


class _Plain(yaml.SafeDumper):
    """A dumper that writes what is there twice twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _indented(meter: Meter, text: str, pad: str) -> str:
    return _replaced(meter, text, "\n", "\n" + pad)


def _replaced(meter: Meter, text: str, old: str, new: str) -> str:
    count = text.count(old) if old else 0
    meter.make(len(text) + count * len(new))
    return text.replace(old, new) if old else text


def _indent(meter: Meter, count: Any, text: Any) -> str:
    pad = " " * min(max(integer(count), 0), 64)
    return pad + _indented(meter, printed(text, meter), pad)


def _nindent(meter: Meter, count: Any, text: Any) -> str:
    return "\n" + str(_indent(meter, count, text))


def _replace(meter: Meter, old: Any, new: Any, text: Any) -> str:
    return _replaced(meter, printed(text, meter), printed(old, meter), printed(new, meter))


def _repeat(meter: Meter, count: Any, text: Any) -> str:
    made = printed(text, meter)
    meter.make(len(made) * max(0, integer(count)))
    return made * max(0, integer(count))


def _join(meter: Meter, separator: Any, items: Any) -> str:
    parts = [printed(one, meter) for one in (items if isinstance(items, list) else [items])]
    between = printed(separator, meter)
    meter.make(sum(map(len, parts)) + len(between) * len(parts))
    return between.join(parts)


def _split_list(meter: Meter, separator: Any, text: Any) -> list[str]:
    meter.make(8 * len(text))
    return str(text).split(separator) if separator else list(text)


def _trunc(meter: Meter, count: Any, text: Any) -> str:
    size, own = integer(count), printed(text, meter)
    return own[:size] if size >= 0 else own[size:]


def _b64enc(meter: Meter, text: Any) -> str:
    data = printed(text, meter).encode()
    meter.make(2 * len(data))
    return base64.b64encode(data).decode()


def _b64dec(meter: Meter, text: Any) -> str:
    try:
        return base64.b64decode(printed(text, meter), validate=True).decode(errors="replace")
    except binascii.Error as e:
        return str(e)


def _of_text(change: Callable[..., Any]) -> Call:
    """A function of texts, of which the last is what it is about."""

    def call(meter: Meter, *texts: Any) -> Any:
        *others, text = (printed(one, meter) for one in texts)
        meter.make(len(text))
        return change(text, *others)

    return call


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


_TEXTS: Final[Mapping[str, Callable[..., Any]]] = {
    "upper": str.upper,
    "lower": str.lower,
    "title": str.title,
    "trim": str.strip,
    "trimAll": lambda text, chars: text.strip(chars),
    "trimSuffix": str.removesuffix,
    "trimPrefix": str.removeprefix,
    "contains": lambda text, part: part in text,
    "hasPrefix": str.startswith,
    "hasSuffix": str.endswith,
    "sha256sum": _digest,
    "toString": lambda text: text,
}


TEXT_FUNCTIONS: Final[dict[str, Call]] = {
    "print": _print,
    "println": _println,
    "printf": _printf,
    "Quote": _quote,
    "quote": _sprig_quote,
    "squote": _squote,
    "toJson": _json,
    "fromJson": _from_json,
    "YAML": _yaml,
    "toYaml": _to_yaml,
    "indent": _indent,
    "nindent": _nindent,
    "replace": _replace,
    "repeat": _repeat,
    "join": _join,
    "splitList": _split_list,
    "trunc": _trunc,
    "b64enc": _b64enc,
    "b64dec": _b64dec,
    **{name: _of_text(change) for name, change in _TEXTS.items()},
}
