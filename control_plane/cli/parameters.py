"""Values of parameters that are of their types already: Typer need not load pydantic to find that a word is a text.

That is half of what a short command takes. Where Typer has no such step, or another one, nothing of this is asked.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any


def take_as_they_are(parameters: Iterable[Any]) -> None:
    """Let values of the parameters pass that are of their types, and the others be read as Typer does."""
    for parameter in parameters:
        if hasattr(parameter, "_runtime_param") and hasattr(parameter, "get_runtime_param"):
            parameter._runtime_param = _AsItIs()


class _AsItIs:
    """A stand-in for the step that makes a parameter's value of a word."""

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        several = param.multiple or param.nargs == -1
        if value is None:
            return () if several else None
        kind = param.type_descriptor.annotation
        if type(value) is kind or (kind is Path and isinstance(value, Path)):
            return value
        if kind == list[str] and isinstance(value, list | tuple) and all(type(one) is str for one in value):
            return list(value)
        param._runtime_param = None  # which it makes when it is asked for
        return param.get_runtime_param().coerce(value, param=param, ctx=ctx)
