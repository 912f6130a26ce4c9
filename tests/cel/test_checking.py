"""What is refused before it runs, with cel-go's words and the place."""

import pytest

from rayplane.control_plane.cel import BOOL, STRING, CompileError, Declarations, compile, evaluate, list_of
from tests.cel.environment import DECLARATIONS

REFUSED = r"""
self.nosuch => 1:5: undefined field 'nosuch'
other => 1:1: undeclared reference to 'other' (in container '')
self.n + self.text => 1:8: found no matching overload for '_+_' applied to '(int, string)'
self.text.startsWith(1) => 1:21: found no matching overload for 'startsWith' applied to 'string.(int)'
self.n.size => 1:7: type 'int' does not support field selection
self.n.all(x, true) => 1:5: expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)
nosuch(self.n) => 1:7: undeclared reference to 'nosuch' (in container '')
[1, 'a'] => 1:5: expected type 'int' but found 'string'
{'a': 1, 'b': true} => 1:15: expected type 'int' but found 'bool'
self.n ? 1 : 2 => 1:8: found no matching overload for '_?_:_' applied to '(int, int, int)'
self.text == self.n => 1:11: found no matching overload for '_==_' applied to '(string, int)'
self.names.map(1, 2) => 1:16: argument must be a simple name
has(self) => 1:5: invalid argument to has() macro
self.text.matches('(') => 1:19: invalid matches argument
duration('1x') == self.span => 1:10: invalid duration argument
timestamp('now') < self.at => 1:11: invalid timestamp argument
self.nothing == 1 => 1:5: undefined field 'nothing'
self. => 1:6: Syntax error: mismatched input '<EOF>' expecting IDENTIFIER
1 + => 1:4: Syntax error: mismatched input '<EOF>'
(1 => 1:3: Syntax error: mismatched input '<EOF>' expecting ')'
1 1 => 1:3: Syntax error: mismatched input '1' expecting <EOF>
'abc => 1:1: Syntax error: token recognition error at: ''abc'
'\q' => 1:1: Syntax error: token recognition error at: '\q'
for => 1:1: reserved identifier: for
99999999999999999999 => 1:1: invalid int literal
""".strip().split("\n")


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str) -> None:
    expression, _, message = case.partition(" => ")
    with pytest.raises(CompileError) as failed:
        compile(expression, DECLARATIONS)
    column = int(message.split(":")[1])
    assert str(failed.value) == f"ERROR: <input>:{message}\n | {expression}\n | {'.' * (column - 1)}^"


def test_all_issues_are_told_in_their_order() -> None:
    with pytest.raises(CompileError) as failed:
        compile("self.a == 1 &&\n  self.b == 2", DECLARATIONS)
    assert [(one.position, one.message) for one in failed.value.issues] == [
        (4, "undefined field 'a'"),
        (21, "undefined field 'b'"),
    ]
    assert "ERROR: <input>:2:7: undefined field 'b'\n |   self.b == 2\n | ......^" in str(failed.value)


def test_the_result_is_of_the_type_that_is_asked_for() -> None:
    assert compile("self.n > 1", DECLARATIONS, results=(BOOL,)).type == BOOL
    assert compile("self.names + ['x']", DECLARATIONS).type == list_of(STRING)
    with pytest.raises(CompileError, match="must evaluate to bool"):
        compile("self.n", DECLARATIONS, results=(BOOL,))


def test_programs_tell_which_variables_they_look_at() -> None:
    program = compile("self == oldSelf", Declarations({"self": STRING, "oldSelf": STRING}))
    assert {"self", "oldSelf"} <= program.names
    assert "oldSelf" not in compile("self == ''", Declarations({"self": STRING, "oldSelf": STRING})).names


@pytest.mark.parametrize(
    "expression", ["(" * 5000 + "1" + ")" * 5000, "-" * 3 + "!" * 3 + "1", "[" * 500, "1" + "+1" * 5000]
)
def test_what_is_nested_too_deeply_is_refused(expression: str) -> None:
    with pytest.raises(CompileError):
        compile(expression, Declarations())


def test_long_chains_of_conditions_are_flat() -> None:
    assert compile(" && ".join(["true"] * 5000), Declarations()).type == BOOL


def test_a_value_is_bound_to_a_name_only_where_that_is_declared() -> None:
    expression = "cel.bind(n, 1 + 1, n + n) == 4"
    assert evaluate(compile(expression, Declarations(binds=True)), {}, 100).value is True
    with pytest.raises(CompileError, match="undeclared reference to 'cel'"):
        compile(expression, Declarations())
