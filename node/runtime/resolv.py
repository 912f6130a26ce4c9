"""The words of resolv.conf(5). Pure."""

RESOLV_CONF = "/etc/resolv.conf"
"""Of the machine, and of every pod."""


def parse_resolv(text: str) -> tuple[list[str], list[str], dict[str, str | None]]:
    """Servers, search domains and options of a resolv.conf(5)."""
    servers: list[str] = []
    searches: list[str] = []
    options: dict[str, str | None] = {}
    for line in text.splitlines():
        word, *rest = line.split() or [""]
        if word == "nameserver":
            servers += rest[:1]
        elif word in ("search", "domain"):
            searches = rest
        elif word == "options":
            options |= {name: value or None for name, _, value in (o.partition(":") for o in rest)}
    return servers, searches, options
