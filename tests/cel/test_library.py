"""Functions of cel-go's extensions and of Kubernetes' libraries."""

import pytest

from rayplane.control_plane.cel import EvaluationError
from tests.cel.environment import run

TRUE = r"""
'tacocat'.charAt(4) == 'c' && 'x'.charAt(1) == ''
'hello mellow'.indexOf('ello', 2) == 7 && 'hello mellow'.lastIndexOf('ello') == 7 && 'a'.indexOf('z') == -1
'hello mellow'.lastIndexOf('ello', 6) == 1
'TacoCat'.lowerAscii() == 'tacocat' && 'TacoCÆt'.upperAscii() == 'TACOCÆT'
'a he he'.replace('he', 'we') == 'a we we' && 'a he he'.replace('he', 'we', 1) == 'a we he'
'ab'.replace('', '_') == '_a_b_'
'a,b,c'.split(',') == ['a', 'b', 'c'] && 'a,b,c'.split(',', 2) == ['a', 'b,c'] && 'ab'.split('') == ['a', 'b']
['a', 'b'].join() == 'ab' && ['a', 'b'].join('-') == 'a-b'
'tacocat'.substring(4) == 'cat' && 'tacocat'.substring(0, 4) == 'taco'
' \t x\n'.trim() == 'x' && strings.quote('a"b\n') == '"a\\"b\\n"'
'abc 123'.find('[0-9]+') == '123' && '123 abc 456'.findAll('[0-9]+') == ['123', '456'] && 'abc'.find('z') == ''
'123 abc 456'.findAll('[0-9]+', 1) == ['123'] && 'héllo'.matches('^\\pL+$') && matches('ab', '^[[:alpha:]]+$')
[1, 3, 2].max() == 3 && ['b', 'a'].min() == 'a' && [1.5, 2.5].sum() == 4.0 && [duration('1s')].sum() == duration('1s')
[1, 2, 2].isSorted() && !['b', 'a'].isSorted() && [1, 2, 1].indexOf(1) == 0 && [1, 2, 1].lastIndexOf(1) == 2
sets.contains([1, 2, 3], [2]) && sets.equivalent([1, 1, 2], [2, 1]) && !sets.intersects([1], [2])
url('https://user@example.com:8080/a%20b?x=1&x=2&y=').getHost() == 'example.com:8080'
url('https://[::1]:80/').getHostname() == '::1' && url('https://[::1]:80/').getPort() == '80'
url('http://a').getPort() == ''
url('/p?x=1&x=2').getQuery() == {'x': ['1', '2']} && url('https://a/b%20c').getEscapedPath() == '/b%20c'
isURL('https://a.b/c') && !isURL('../x') && !isURL('https://a b/') && url('HTTPS://a').getScheme() == 'https'
quantity('1.5Gi').isGreaterThan(quantity('1Gi')) && quantity('50k').add(20000) == quantity('70k')
quantity('1').sub(quantity('500m')) == quantity('500m')
isQuantity('1.3Gi') && !isQuantity('1.3Gx') && quantity('50000').asInteger() == 50000 && !quantity('50m').isInteger()
quantity('-1').sign() == -1 && quantity('1Ki').compareTo(quantity('1024')) == 0
quantity('50m').asApproximateFloat() == 0.05
ip('192.168.0.1').family() == 4 && ip('fd00::1').family() == 6 && ip('::').isUnspecified()
ip('127.0.0.1').isLoopback()
isIP('1.2.3.4') && !isIP('1.2.3.400') && !isIP('::ffff:1.2.3.4') && ip.isCanonical('2001:db8::1')
!ip.isCanonical('2001:DB8::1')
ip('224.0.0.1').isLinkLocalMulticast() && ip('fe80::1').isLinkLocalUnicast() && ip('8.8.8.8').isGlobalUnicast()
cidr('10.0.0.0/8').containsIP('10.1.2.3') && cidr('10.0.0.0/8').containsIP(ip('10.1.2.3'))
!cidr('10.0.0.0/8').containsIP('fd00::1')
cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16') && !cidr('10.1.0.0/16').containsCIDR(cidr('10.0.0.0/8'))
cidr('192.168.1.7/24').masked() == cidr('192.168.1.0/24') && cidr('10.0.0.0/8').prefixLength() == 8
string(cidr('10.0.0.0/8').ip()) == '10.0.0.0'
isCIDR('fd00::/8') && !isCIDR('10.0.0.0/33') && !isCIDR('10.0.0.0')
semver('1.2.3') == semver('1.2.3+build') && semver('1.0.0-alpha.1').isLessThan(semver('1.0.0-alpha.beta'))
semver('1.0.0-rc1').isLessThan(semver('1.0.0'))
semver('1.10.2').compareTo(semver('1.9.9')) == 1 && semver('v1.2', true).minor() == 2 && isSemver('1.2.3')
!isSemver('v1.2.3') && isSemver('v01.2', true)
!format.dns1123Label().validate('ab-1').hasValue() && format.dns1123Label().validate('A').value().size() == 1
format.named('qualifiedName').value().validate('example.com/x') == optional.none()
!format.named('nothing').hasValue()
format.dns1123LabelPrefix().validate('web-') == optional.none() && format.uuid().validate('x').hasValue()
!format.date().validate('2024-02-29').hasValue()
lists.range(3) == [0, 1, 2] && lists.range(-1) == [] && [1, 2, 3].slice(1, 3) == [2, 3] && [1, 2].slice(1, 1) == []
[[1], [2, 3], []].flatten() == [1, 2, 3] && [[[1]], [[2]]].flatten(2) == [1, 2] && [[[1]]].flatten() == [[1]]
[3, 1, 2].sort() == [1, 2, 3] && ['b', 'a'].sort() == ['a', 'b'] && [dyn(2), dyn(1)].sort() == [1, 2]
['ccc', 'a', 'bb'].sortBy(e, -size(e)) == ['ccc', 'bb', 'a'] && [{'a': 2}, {'a': 1}].sortBy(e, e.a)[0].a == 1
[2, 1, 2, 1].distinct() == [2, 1] && [1, 2].reverse() == [2, 1] && self.names.sort().reverse()[0] == 'eve'
[1, 2].first().value() == 1 && [1, 2].last().value() == 2 && ![1].filter(x, x > 1).first().hasValue()
optional.unwrap([optional.of(1), optional.none()]) == [1] && [optional.none(), optional.of(2)].unwrapOpt() == [2]
jsonpatch.escapeKey('a.io/b~c') == 'a.io~1b~0c'
""".strip().split("\n")
FAILS = """
'abc'.charAt(4) => index out of range: 4
'abc'.substring(2, 1) => invalid substring range. start: 2, end: 1
self.text.matches(self.text + '(') => error parsing regexp: missing closing ): `héllo(`
[].min() => min called on empty list
[1].slice(0, 2) => cannot slice(0, 2), list is length 1
[1].slice(-1, 1) => cannot slice(-1, 1), negative indexes not supported
[[1]].flatten(-1) => level must be non-negative
[dyn(1), 'a'].sort() => list elements must have the same type
quantity(self.free) => quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'
quantity('50m').asInteger() => cannot convert value to integer
ip('1.2.3') => IP Address "1.2.3" parse error during conversion from string: ParseAddr("1.2.3"): unable to parse IP
cidr('1.1/40') => network address parse error during conversion from string: network address parse error: "1.1/40"
""".strip().split("\n")


@pytest.mark.parametrize("expression", TRUE)
def test_what_is_true(expression: str) -> None:
    assert run(expression) is True


@pytest.mark.parametrize("case", FAILS)
def test_what_has_no_value(case: str) -> None:
    expression, _, message = case.partition(" => ")
    with pytest.raises(EvaluationError) as failed:
        run(expression)
    assert str(failed.value) == message
