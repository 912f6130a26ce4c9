"""Pictures of the dashboard, of each view of a live cluster, in light and dark.

    .venv/bin/python -m scripts.pictures [--host ray] [--into control_plane/dashboard/screenshots]

Brings a cluster up, gives it work, kills its leading member while the browser looks, and takes it down. Needs Chromium,
playwright and Pillow, which makes the files a third as large: `pip install '.[test]' pillow`.
"""

import argparse
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rayplane

ROOT = Path(__file__).resolve().parents[1]
INTO = ROOT / "control_plane/dashboard/screenshots"
SIZE = {"width": 1280, "height": 800}
COLOURS = 64
WAIT_MS = 120_000
WORK = """
apiVersion: v1
kind: Namespace
metadata: {name: shop}
"""
DEPLOYMENT = """
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: %(name)s, namespace: shop, labels: {app: %(name)s}}
spec:
  replicas: %(replicas)s
  selector: {matchLabels: {app: %(name)s}}
  template:
    metadata: {labels: {app: %(name)s}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: none
        command: [sh, -c, "i=0; while :; do i=$((i+1)); echo \\"order $i: paid, 3 items\\"; sleep 1; done"]
        resources: {requests: {cpu: %(cpu)s, memory: %(memory)s}}
---
apiVersion: v1
kind: Service
metadata: {name: %(name)s, namespace: shop}
spec: {selector: {app: %(name)s}, ports: [{port: 80}]}
"""
#: Name, replicas, cpu and memory of each; the last does not fit.
SHOP = (
    ("front", 6, "300m", "256Mi"),
    ("basket", 4, "500m", "512Mi"),
    ("search", 3, "900m", "2Gi"),
    ("payment", 3, "250m", "128Mi"),
    ("mail", 2, "150m", "64Mi"),
    ("training", 3, "3500m", "6Gi"),
)


@dataclass(frozen=True)
class View:
    """A picture: where it is, what is awaited, and what is done before it is taken."""

    name: str
    place: str
    awaits: Callable[[Any], Any]
    before: Callable[[Any], None] = lambda page: None
    dark: bool = False
    whole: bool = False
    """All of the page, not what a window shows at once."""


def row(text: str) -> Callable[[Any], Any]:
    return lambda page: page.get_by_role("row").filter(has_text=text).first


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--host", choices=("process", "ray"), default="process")
    parser.add_argument("--into", type=Path, default=INTO)
    told = parser.parse_args()
    told.into.mkdir(parents=True, exist_ok=True)
    with rayplane.Cluster(host=told.host, runtime="process", isolation="none", nodes=4, node_cpu="4") as cluster:
        work = WORK + "".join(DEPLOYMENT % {"name": n, "replicas": r, "cpu": c, "memory": m} for n, r, c, m in SHOP)
        cluster.kubectl("apply", "-f", "-", stdin=work)
        for name, *_ in SHOP[:-1]:
            cluster.kubectl("rollout", "status", f"deployment/{name}", "-n", "shop", "--timeout=180s")
        then = cluster.kubectl(
            "get", "deployment", "payment", "-n", "shop", "-o", "jsonpath={.metadata.resourceVersion}"
        )
        cluster.kubectl("set", "env", "deployment/payment", "-n", "shop", "CURRENCY=EUR")
        cluster.kubectl("rollout", "status", "deployment/payment", "-n", "shop", "--timeout=180s")
        with dashboard(cluster) as address, browser() as driver:
            take(driver, address, views(cluster, then), told.into)


def views(cluster: Any, then: str) -> list[View]:
    pods = cluster.kubectl("get", "pods", "-n", "shop", "-l", "app=front", "-o", "name").split()
    pod = f"#/object?kind=pods&namespace=shop&name={pods[0].removeprefix('pod/')}"
    payment = "#/object?kind=deployments.apps&namespace=shop&name=payment"
    return [
        View("control-plane", "#/control-plane", row("≤"), lose_the_leader, whole=True),
        View("control-plane-dark", "#/control-plane", row("≤"), dark=True),
        View("packing", "#/packing", row("shop/training")),
        View("packing-dark", "#/packing", row("shop/training"), dark=True),
        View("workloads", "#/objects?kind=pods&namespace=shop", row("payment-")),
        View("why", f"{payment}&tab=why", row("deployment")),
        View("topology-dark", f"{payment}&tab=topology", lambda page: page.get_by_text("ReplicaSet").first, dark=True),
        View("logs-dark", f"{pod}&tab=logs", lambda page: page.get_by_text("order 3: paid").first, dark=True),
        View("yaml", f"{payment}&tab=yaml", lambda page: page.get_by_label("What would change"), edit, whole=True),
        View("time-travel", f"#/history?kind=pods&namespace=shop&at={then}", row("payment-"), compare),
    ]


def lose_the_leader(page: Any) -> None:
    """Kill it, and have lines of some length."""
    page.once("dialog", lambda dialog: dialog.accept())
    leading = page.get_by_role("row").filter(has_text=re.compile(r"\bleader\b"))
    page.wait_for_timeout(20_000)
    leading.get_by_role("button", name=re.compile("^Kill")).click()
    page.locator(".story").get_by_text(re.compile(r"member-\d leads in term")).first.wait_for()
    page.wait_for_timeout(20_000)


def edit(page: Any) -> None:
    text = page.get_by_role("textbox")
    text.wait_for()
    text.fill(text.input_value().replace("replicas: 3", "replicas: 5", 1))
    page.get_by_role("button", name="Check").click()


def compare(page: Any) -> None:
    row("payment-")(page).wait_for()
    page.get_by_role("button", name="Mark this instant").click()
    page.get_by_role("slider").press("End")
    page.get_by_role("button", name="What changed since").click()


def take(driver: Any, address: str, wanted: list[View], into: Path) -> None:
    page = driver.new_page(viewport=SIZE, color_scheme="light")
    page.set_default_timeout(WAIT_MS)
    page.goto(address)
    page.get_by_role("heading", name=re.compile("^Control plane of")).wait_for()
    for view in wanted:
        page.emulate_media(color_scheme="dark" if view.dark else "light")
        page.evaluate("(to) => { location.hash = to }", view.place)
        view.before(page)
        view.awaits(page).wait_for()
        page.wait_for_timeout(1500)
        page.evaluate("scrollTo(0, 0)")  # the header stays at the top of a whole page
        made = into / f"{view.name}.png"
        made.write_bytes(smaller(page.screenshot(full_page=view.whole)))
        print(f"{made}: {made.stat().st_size} bytes", flush=True)


def smaller(picture: bytes) -> bytes:
    """The same with a palette of few colours."""
    from PIL import Image

    out = io.BytesIO()
    Image.open(io.BytesIO(picture)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(
        out, "PNG", optimize=True
    )
    return out.getvalue()


@contextmanager
def dashboard(cluster: Any) -> Iterator[str]:
    command = [sys.executable, "-m", "rayplane.control_plane.cli.main", "dashboard"]
    where = ["--name", cluster.name, "--state-dir", str(cluster.directory.path)]
    with subprocess.Popen([*command, *where], stdout=subprocess.PIPE, text=True) as serving:
        assert serving.stdout is not None
        try:
            yield serving.stdout.readline().split()[-1]
        finally:
            serving.terminate()


@contextmanager
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield made
        finally:
            made.close()


if __name__ == "__main__":
    main()
