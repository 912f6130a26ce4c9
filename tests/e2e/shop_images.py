"""Images of a web shop, made of programs of this machine: a database, a cache, and the shop itself in Python."""

import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

DATABASE_PROGRAMS = ("initdb", "postgres", "pg_isready", "psql")
_UNUSED = ("__pycache__", "site-packages", "test", "tests", "idlelib", "tkinter", "ensurepip", "lib2to3", "config-*")
_PEOPLE = "root:x:0:0::/root:/bin/sh\nshopper:x:70:70::/tmp:/bin/sh\n"

DATABASE = """\
FROM scratch
COPY rootfs /
COPY --chmod=755 start /start
ENV PATH=%s:/bin PGDATA=/data/database
USER shopper
STOPSIGNAL SIGINT
EXPOSE 5432
ENTRYPOINT ["/start"]
"""
DATABASE_START = """\
#!/bin/sh
set -e
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    initdb --pgdata="$PGDATA" --username=shop --auth=trust --locale=C --encoding=UTF8 --no-sync --wal-segsize=1
    echo "host all all all trust" >>"$PGDATA/pg_hba.conf"
fi
exec postgres -c listen_addresses='*' -c unix_socket_directories=/tmp -c shared_buffers=16MB
"""
PYTHON = f"{sys.base_prefix}/bin/python{sysconfig.get_python_version()}"
"""The shop's interpreter, on this machine and in its image."""
CACHE = """\
FROM scratch
COPY rootfs /
USER 70:70
EXPOSE 6379
CMD ["%s", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--dir", "/tmp"]
"""
SHOP = """\
FROM scratch
COPY rootfs /
COPY shop.py /srv/
ENV PATH=%s:/bin
USER 70:70
WORKDIR /srv
STOPSIGNAL SIGINT
CMD ["%s", "shop.py"]
"""
# Counts visits in the cache by its own protocol, and keeps orders in the database.
SHOP_PROGRAM = r"""
import http.server, json, os, socket, subprocess

def visits():
    with socket.create_connection(("cache", 6379), timeout=5) as conn, conn.makefile("rb") as answer:
        conn.sendall(b"*2\r\n$4\r\nINCR\r\n$6\r\nvisits\r\n")
        return int(answer.readline().removeprefix(b":"))

def ask(statement, **values):
    options = [f"--set={name}={value}" for name, value in values.items()]
    command = ["psql", "--no-psqlrc", "-qAt", "-v", "ON_ERROR_STOP=1", *options, os.environ["DATABASE"]]
    done = subprocess.run(command, input=statement, capture_output=True, text=True, timeout=20)
    if done.returncode:
        raise OSError(done.stderr)
    return done.stdout.splitlines()

class Shop(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(lambda: {"visits": visits(), "orders": ask("select item from orders order by number")})
    def do_POST(self):
        item = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.answer(lambda: ask("insert into orders (item) values (:'item') returning number", item=item))
    def do_PUT(self):
        self.answer(lambda: ask("create table if not exists orders (number serial primary key, item text not null)"))
    def answer(self, said):
        try:
            code, body = 200, json.dumps(said()).encode()
        except (OSError, subprocess.SubprocessError) as e:
            code, body = 503, str(e).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

http.server.ThreadingHTTPServer(("", 8000), Shop).serve_forever()
"""


def database_directory() -> Path | None:
    """Where the database's programs are."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((one for one in reversed(found) if all((one / p).is_file() for p in DATABASE_PROGRAMS)), None)


def missing() -> str:
    """What of the machine's programs the images cannot be made without."""
    gone = [name for name in ("ldd", "redis-server", "sh") if shutil.which(name) is None]
    return ", ".join(gone + (["postgres with its programs"] if database_directory() is None else []))


def make_contexts(place: Path) -> dict[str, Path]:
    """Directories to build the images from, by the images' names."""
    programs = database_directory()
    assert programs is not None
    database = programs.parent
    shared = Path("/usr/share/postgresql", database.name)
    libraries = [database / "lib" / f"{name}.so" for name in ("dict_snowball", "plpgsql")]
    cache = shutil.which("redis-server") or ""
    return {
        "shop-database:1": _context(
            place / "database",
            {"Dockerfile": DATABASE % programs, "start": DATABASE_START},
            [*(programs / name for name in DATABASE_PROGRAMS), *libraries],
            [shared],
        ),
        "shop-cache:1": _context(place / "cache", {"Dockerfile": CACHE % cache}, [Path(cache)]),
        "shop:1": _shop(place / "shop", programs / "psql"),
    }


def _shop(place: Path, client: Path) -> Path:
    modules = Path(sysconfig.get_path("stdlib"))
    files = {"Dockerfile": SHOP % (client.parent, PYTHON), "shop.py": SHOP_PROGRAM}
    needing = [file for name in ("binascii", "math", "zlib") for file in (modules / "lib-dynload").glob(f"{name}.*")]
    return _context(place, files, [Path(PYTHON), client, *needing], [modules])


def _context(place: Path, files: dict[str, str], programs: Iterable[Path], trees: Iterable[Path] = ()) -> Path:
    """A directory with these files, and with a root that holds programs at the paths that they have here."""
    root = place / "rootfs"
    root.mkdir(parents=True)
    for tree in trees:
        shutil.copytree(tree, root / str(tree)[1:], ignore=shutil.ignore_patterns(*_UNUSED), dirs_exist_ok=True)
    for program in (*programs, Path("/bin/sh")):
        for file in (str(program), *_libraries(program)):
            copy = root / file[1:]
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
            copy.chmod(0o755)
    for name, text in {"rootfs/etc/passwd": _PEOPLE, "rootfs/etc/group": "shopper:x:70:\n", **files}.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    return place


def _libraries(program: Path) -> set[str]:
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    return {word for word in said.split() if word.startswith("/") and not word.endswith(":")}
