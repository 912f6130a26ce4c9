"""The Common Expression Language as Kubernetes has it: typed, and never dearer than a budget.

    program = compile("self.replicas <= self.max", Declarations({"self": type_of_schema(schema)}), results=(BOOL,))
    outcome = evaluate(program, {"self": value}, budget=1_000_000)

Owns syntax, types, cel-go's and Kubernetes' functions, the cost of an expression, estimated from what schemas say of
sizes and measured as it is evaluated, and how JSON of a schema becomes values. Does not own what expressions are for:
rules of custom resources, admission policies, match conditions and authentication bring variables, budgets and words of
their own. Pure: no I/O, no clock, no randomness; programs are immutable.

It is written here since no library can be limited: of those for Python none counts what an evaluation costs, which
is part of the API (what one server accepts, another must), and only one checks types.
"""

from rayplane.control_plane.cel.checker import Declarations
from rayplane.control_plane.cel.errors import BudgetExceeded, CelError, CompileError, EvaluationError, Issue
from rayplane.control_plane.cel.evaluator import Frame
from rayplane.control_plane.cel.functions import Overload, Range, overload
from rayplane.control_plane.cel.library.authorization import AUTHORIZER, Authorizer, Check, Decision, Unanswered
from rayplane.control_plane.cel.programs import Outcome, Program, compile, evaluate
from rayplane.control_plane.cel.schemas import type_of_schema, value_of
from rayplane.control_plane.cel.types import (
    BOOL,
    BYTES,
    DOUBLE,
    DURATION,
    DYN,
    INT,
    STRING,
    TIMESTAMP,
    Type,
    list_of,
    loose_object,
    map_of,
    opaque,
    optional_of,
)
from rayplane.control_plane.cel.values import NONE, Duration, Opaque, OptionalValue, Struct

__all__ = [
    "AUTHORIZER",
    "BOOL",
    "BYTES",
    "DOUBLE",
    "DURATION",
    "DYN",
    "INT",
    "NONE",
    "STRING",
    "TIMESTAMP",
    "Authorizer",
    "BudgetExceeded",
    "CelError",
    "Check",
    "CompileError",
    "Decision",
    "Declarations",
    "Duration",
    "EvaluationError",
    "Frame",
    "Issue",
    "Opaque",
    "OptionalValue",
    "Outcome",
    "Overload",
    "Program",
    "Range",
    "Struct",
    "Type",
    "Unanswered",
    "compile",
    "evaluate",
    "list_of",
    "loose_object",
    "map_of",
    "opaque",
    "optional_of",
    "overload",
    "type_of_schema",
    "value_of",
]
