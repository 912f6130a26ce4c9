"""Templates: what Go's text/template makes of the same text, and bounds that no template gets past."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayplane.control_plane.stages.errors import Failed, StageError, Unreadable
from rayplane.control_plane.stages.templates import Template

POD = {
    "metadata": {"name": "web", "annotations": {"a/b": "x"}},
    "spec": {"containers": [{"name": "one", "image": "i:1"}, {"name": "two"}], "hostNetwork": True},
}
GIVEN: dict[str, Callable[..., Any]] = {
    "Now": lambda: "T",
    "NodeIPWith": lambda name: f"ip of {name}",
    "PodIPWith": lambda *args: len(args),
}


def render(text: str, data: object = POD) -> str:
    return Template(text).render(data, GIVEN)


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("a {{ .metadata.name }} b", "a web b"),
        ("{{ .metadata.labels.x }}", "<no value>"),
        ("{{- 1 -}}  b", "1b"),
        ("a {{- /* no */ -}} b", "ab"),
        ("{{ $x := 1 }}{{ if true }}{{ $x = 2 }}{{ end }}{{ $x }}", "2"),
        ("{{ $x := 1 }}{{ if true }}{{ $x := 2 }}{{ end }}{{ $x }}", "1"),
        ("{{ range .spec.containers }}{{ .name }},{{ end }}", "one,two,"),
        ("{{ range $i, $c := .spec.containers }}{{ $i }}{{ $c.name }}{{ end }}", "0one1two"),
        ("{{ range .none }}a{{ else }}none{{ end }}", "none"),
        ("{{ range $i, $c := .spec.containers }}{{ if $i }}{{ break }}{{ end }}{{ $c.name }}{{ end }}", "one"),
        ("{{ range $i, $c := .spec.containers }}{{ if not $i }}{{ continue }}{{ end }}{{ $c.name }}{{ end }}", "two"),
        ("{{ range 3 }}{{ . }}{{ end }}", "012"),
        ("{{ with .spec.hostNetwork }}{{ . }}{{ end }}", "true"),
        ("{{ with .none }}a{{ else with .metadata }}{{ .name }}{{ end }}", "web"),
        ("{{ if .none }}a{{ else if eq .metadata.name `web` }}b{{ else }}c{{ end }}", "b"),
        ('{{ index .metadata.annotations "a/b" }}{{ index .spec.containers 1 "name" }}', "xtwo"),
        ("{{ (index .spec.containers 0).image | Quote }}", '"i:1"'),
        ("{{ or .none (index .metadata.annotations `c`) 3 }}", "3"),
        ("{{ and 1 0 2 }}", "0"),
        ("{{ eq 2 1 2 }}{{ ne 1 2 }}{{ lt 1 2 }}{{ ge 1 2 }}", "truetruetruefalse"),
        ("{{ Quote 5 }}{{ Quote true }}{{ Quote nil }}", '"5""true""null"'),
        ('{{ printf "%s-%03d %q %v%%" .metadata.name 7 "x" true }}', 'web-007 "x" true%'),
        ("{{ Now }} {{ NodeIPWith `n` }} {{ PodIPWith .a .b .c }}", "T ip of n 3"),
        ("a:\n{{ YAML .metadata.annotations 1 }}", "a:\n\n  a/b: x\n  "),
        ('{{ dict "a" 1 "b" (list 1 2) | toJson }}', '{"a":1,"b":[1,2]}'),
        ('{{ .none | default "x" }}{{ "a,b" | splitList "," | join "-" }}{{ b64enc "a" | b64dec }}', "xa-ba"),
        ("{{ add 1 2 3 }} {{ div 7 -2 }} {{ mod -7 3 }} {{ max 1 9 4 }}", "6 -3 -1 9"),
        ("{{ .metadata.annotations }} {{ .spec.containers | len }}", "map[a/b:x] 2"),
    ],
)
def test_what_a_template_makes(text: str, made: str) -> None:
    assert render(text) == made


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a\n{{ foo }}", "line 2: there is no function foo"),
        ("{{ if true }}", "line 1: if has no end"),
        ("{{ end }}", "end without a block"),
        ("a\n\n{{ $x }}", r"line 3: there is no variable \$x"),
        ("{{ if true }}{{ $x := 1 }}{{ end }}{{ $x }}", "there is no variable"),
        ("{{ template `x` }}", "templates of other templates"),
        ("{{ break }}", "break outside of a range"),
        ("{{ .a", "the action of line 1 has no end"),
        ("{{ 1 | 2 }}", "must be a function"),
        ("{{ .a .b }}", "only a function takes arguments"),
        ("{{ (.a }}", r"\( has no \)"),
        ("x" * 70_000, "more than 65536 characters"),
        ("{{ if 1 }}" * 40 + "{{ end }}" * 40, "levels deep"),
        ("{{ " + "(" * 40 + "1" + ")" * 40 + " }}", "levels deep"),
    ],
)
def test_what_is_no_template_is_refused_with_its_line(text: str, why: str) -> None:
    with pytest.raises(Unreadable, match=why):
        Template(text)


@pytest.mark.parametrize(
    "text",
    [
        "{{ range 1000 }}{{ range 1000 }}{{ end }}{{ end }}",
        '{{ $x := "a" }}{{ range 60 }}{{ $x = print $x $x }}{{ end }}{{ $x }}',
        "{{ $x := list 1 }}{{ range 60 }}{{ $x = list $x $x }}{{ end }}{{ YAML $x }}",
        "{{ $x := list 1 }}{{ range 60 }}{{ $x = list $x $x }}{{ end }}{{ Quote $x }}",
        "{{ $x := list 1 }}{{ range 60 }}{{ $x = list $x $x }}{{ end }}{{ $x }}",
        "{{ repeat 1000000000 `a` }}",
        "{{ until 100000000 }}",
        "{{ $x := repeat 1000000 `a` }}{{ replace `a` $x $x }}",
        "{{ $x := repeat 1000000 `a` }}{{ printf `" + "%s" * 100 + "` " + "$x " * 100 + "}}",
        "{{ $x := repeat 1000000 `a` }}{{ $x }}{{ $x }}",
        "{{ $x := 9000000000000000000 }}{{ mul $x $x }}",
        "{{ div 1 0 }}",
        "{{ index .spec.containers 7 }}",
        "{{ fromJson `" + "[" * 50_000 + "` }}",
        "{{ range .metadata.name }}{{ end }}",
        "{{ fail `no` }}",
    ],
)
def test_what_takes_too_much_or_has_no_value_fails(text: str) -> None:
    with pytest.raises(Failed):
        render(text)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet='{}-.$ax1"`()|:=, \nrangeifendlswthoQute', max_size=80))
def test_no_text_does_anything_else(text: str) -> None:
    try:
        render("{{" + text)
        render(text)
    except StageError:
        pass
