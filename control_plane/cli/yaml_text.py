"""Objects as YAML, as kubectl writes them."""

import re
from typing import Any

import yaml

from rayplane.control_plane.api.meta import Object


def yaml_text(value: Object) -> str:
    """One document, without the end of its last line."""
    return yaml.dump(value, Dumper=_Dumper, allow_unicode=True, default_flow_style=False, width=10_000).removesuffix(
        "\n"
    )


class _Dumper(yaml.SafeDumper):
    """Text of several lines as a block; every object written out."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # YAML breaks lines at these too, and would fold them.
    odd = any(c in text for c in "\r\x85\u2028\u2029")
    style = '"' if odd else "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
# Go's YAML takes these for numbers, PyYAML does not: quote texts that look like them.
_NUMBER = re.compile(r"[-+]?(?:0o[0-7]+|\d[\d_]*(?:\.\d*)?[eE][-+]?\d+)$")
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+0123456789"))
