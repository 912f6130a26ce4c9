"""What expressions are worth: operators, macros, conversions, and values of schemas."""

from typing import Any

import pytest

from rayplane.control_plane.cel import Duration, EvaluationError, compile, evaluate, value_of
from tests.cel.environment import BUDGET, DECLARATIONS, SELF, run

TRUE = """
1 + 2 * 3 - 4 / 2 % 3 == 5
-7 / 2 == -3 && -7 % 3 == -1
7u / 2u == 3u && 1 < 2u && 2u < 2.5 && 1.0 <= 1
0x10 == 16 && 1e3 == 1000.0 && .5 == 0.5
'a' + "b" == r'ab' && 'x\\n\\u0041\\101\\x41' == '''x
AAA'''
b'a\\xff'.size() == 2 && bytes('é') == b'\\303\\251'
'é'.size() == 1 && size([1, 2]) == 2 && {'a': 1}.size() == 1
true ? true : 1 / 0 == 0
1 / 0 == 1 || true
!(false && 1 / 0 == 1)
[1, 0].exists(x, 1 / x == 1)
![0, 1].all(x, 1 / x > 5)
2 in [1, 2] && 'k' in {'k': 1} && !(3 in [1])
[1, 2, 3].filter(x, x > 1).map(x, x * x) == [4, 9]
[1, 2, 3].map(x, x > 1, x * 10) == [20, 30]
[1, 2, 2].exists_one(x, x == 1) && ![1, 2, 2].existsOne(x, x == 2)
{'a': 1, 'b': 2}.all(k, k < 'c') && {'a': 1}.map(k, k) == ['a']
[3, 4].all(i, v, v == i + 3) && {'a': 1}.exists(k, v, k == 'a' && v == 1)
[5, 6].transformList(i, v, i > 0, v + i) == [7]
{'a': 1}.transformMap(k, v, v + 1) == {'a': 2}
['x'].transformMapEntry(i, v, {v: i}) == {'x': 0}
[[1], [2, 3]].map(x, x.map(y, y + size(x))) == [[2], [4, 5]]
dyn(1) == 1.0 && dyn(1u) == 1 && dyn('1') != dyn(1) && dyn(true) != dyn(1)
dyn({'a': [{'b': 2.0}]}) == dyn({'a': [{'b': 2}]})
null == null && type(null) == null_type && type([]) == list && type(1u) == uint
int('12') == 12 && int(2.9) == 2 && int(-2.9) == -2 && uint('3') == 3u && double('1.5') == 1.5
string(1.0) == '1' && string(1e21) == '1e+21' && string(1e-7) == '1e-07' && string(123456789.5) == '123456789.5'
string(true) == 'true' && bool('t') && string(b'ok') == 'ok' && string(duration('90m')) == '5400s'
timestamp('2024-02-20T10:00:00Z') - timestamp('2024-02-20T09:00:00Z') == duration('1h')
timestamp('2024-02-20T10:00:00Z') + duration('24h') == timestamp('2024-02-21T10:00:00Z')
timestamp(0).getFullYear() == 1970 && int(timestamp('1970-01-02T00:00:00Z')) == 86400
timestamp('2024-12-31T23:30:00Z').getHours('+01:00') == 0
timestamp('2024-06-01T12:00:00Z').getHours('Europe/Berlin') == 14
timestamp('2024-03-03T01:02:03.456Z').getDayOfWeek() == 0
timestamp('2024-03-03T01:02:03.456Z').getMilliseconds() == 456
string(timestamp('2024-03-03T01:02:03.450Z')) == '2024-03-03T01:02:03.45Z'
duration('1h30m').getMinutes() == 90 && duration('-1.5s').getSeconds() == -1
self.n == 3 && self.ratio == 2.0 && self.on && self.text.size() == 5
self.at == timestamp('2024-02-20T08:00:00.5Z') && self.day.getMonth() == 1 && self.span == duration('90m')
self.raw == b'\\x00\\x01\\xff' && self.port == 'http' && self.port != 80
self.set == self.other && self.set + ['c', 'a'] == ['a', 'b', 'c']
self.rows == self.rows.filter(r, r.name == 'b') + self.rows.filter(r, r.name == 'a')
(self.rows + [self.rows[0]]).size() == 2
self.__namespace__ == 'shop' && self.with__dash__dash == 'dash'
has(self.n) && !has(self.absent) && self.metadata.name == 'one' && self.template.kind == 'Pod'
self.?absent.orValue('none') == 'none' && self.?text.hasValue() && !self.?absent.hasValue()
self.limits[?'gpu'].orValue(0) == 1 && self.limits[?'x'].or(optional.of(7)).value() == 7
self.names[?9] == optional.none() && optional.ofNonZeroValue('').hasValue() == false
optional.of(2).optMap(v, v + 1).value() == 3 && optional.of(2).optFlatMap(v, optional.none()).hasValue() == false
[?self.?absent, 'b'] == ['b'] && {?'a': self.?absent, 'b': 'c'} == {'b': 'c'}
self.limits.all(k, self.limits[k] > 0) && self.names.exists(name, name.startsWith('e'))
'%s %d %.2f %x %% %s'.format([self.names, 5, 1.256, 255, {'k': null}]) == '[ada, bob, eve] 5 1.26 ff % {k: null}'
""".strip().split("\n")
FAILS = """
1 / 0 => division by zero
1 % 0 => modulus by zero
9223372036854775807 + 1 => integer overflow
-9223372036854775808 - 1 => integer overflow
1u - 2u => unsigned integer overflow
self.names[3] => index out of bounds: 3
self.names[-1] => index out of bounds: -1
self.limits['x'] => no such key: x
self.absent => no such key: absent
optional.none().value() => optional.none() dereference
int('x') => strconv.ParseInt: parsing "x": invalid syntax
self.port > 3 => no such overload
[1, 0].all(x, 1 / x == 1) => division by zero
[1, 0].map(x, 1 / x) => division by zero
timestamp(self.text) => parsing time "héllo" as "2006-01-02T15:04:05Z07:00": cannot parse
duration(self.text) => time: invalid duration "héllo"
{'a': 1, 'a': 2} => insert failed: key a already exists
timestamp('9999-12-31T23:59:59Z') + duration('1s') => timestamp overflow
'%d'.format(['x']) => error during formatting: decimal clause can not be used on string
'%s'.format([]) => index 0 out of range
""".strip().split("\n")


def _joined(lines: list[str]) -> list[str]:
    """Cases: a line that another text goes on in belongs to the one before."""
    made: list[str] = []
    for line in lines:
        if made and made[-1].count("'''") % 2:
            made[-1] += f"\n{line}"
        else:
            made.append(line)
    return made


@pytest.mark.parametrize("expression", _joined(TRUE))
def test_what_is_true(expression: str) -> None:
    assert run(expression) is True


@pytest.mark.parametrize("case", FAILS)
def test_what_has_no_value(case: str) -> None:
    expression, _, message = case.partition(" => ")
    with pytest.raises(EvaluationError) as failed:
        run(expression)
    assert str(failed.value) == message


def test_variables_of_macros_hide_others_only_inside() -> None:
    assert run("self.names.map(self, self.size()) == [3, 3, 3] && self.n == 3")
    assert run("[1, 2].map(x, [10].map(x, x)[0] + x)") == [11, 12]


def test_spans_are_exact_to_the_nanosecond() -> None:
    assert run("duration('1.000000001s') + duration('1ns')") == Duration(1_000_000_002)


@pytest.mark.parametrize(
    "expression", ["self.text.startsWith('a')", "isCIDR(self.text)", "self.n + 1 > 0", "self.at < self.at"]
)
def test_what_does_not_fit_its_schema_fails_where_it_is_used(expression: str) -> None:
    """What was stored before the schema was as it is."""
    odd: dict[str, Any] = {"text": [], "n": "three", "at": {}}
    found = evaluate(compile(expression, DECLARATIONS), {"self": value_of(odd, SELF)}, BUDGET)
    assert str(found.error) == "no such overload"
    assert evaluate(compile(f"{expression} || true", DECLARATIONS), {"self": odd}, BUDGET).value is True
