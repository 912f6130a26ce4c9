"""An operator that numbers invoices, with a bug that few would see: two of them can get one number.

    rayplane simulate scripts/operators/invoices.yaml --load scripts/operators/invoices.py --seeds 100
    rayplane operate scripts/operators/invoices.py

An invoice is a ConfigMap with the label `kind: invoice`; the next number stands in the ConfigMap `invoice-counter`.
"""

from collections.abc import Iterator

import rayplane
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.client.operators import Key
from rayplane.control_plane.invariants import History

COUNTER = "invoice-counter"

# The bug. An operator that ends between the two writes has given a number that the counter still holds; so has one
# whose second write is refused: the invoice has its number when it is looked at again. Right is False: the counter
# first, and only if nobody else has written it meanwhile; a number may then be left out, but none is given twice.
INVOICE_FIRST = True


@rayplane.reconcile("configmaps", label_selector="kind=invoice")
async def number(client: ApiClient, key: Key, invoice: Object | None) -> None:
    """Give an invoice a number, unless it has one."""
    if invoice is None or "number" in (invoice.get("data") or {}):
        return
    counter = await client.get("configmaps", COUNTER, key.namespace)
    chosen = int(counter["data"]["next"])
    counter["data"]["next"] = str(chosen + 1)
    if not INVOICE_FIRST:
        await client.update("configmaps", counter)
    await client.patch("configmaps", key.name, key.namespace, {"data": {"number": str(chosen)}})
    if INVOICE_FIRST:
        await client.update("configmaps", counter)


def invoices(history: History) -> list[Object]:
    """Of all namespaces."""
    return [o for o in history.list("configmaps") if o["metadata"].get("labels", {}).get("kind") == "invoice"]


def no_number_twice(history: History) -> Iterator[str]:
    """What must hold after every change."""
    owners: dict[str, str] = {}
    for invoice in invoices(history):
        given, name = (invoice.get("data") or {}).get("number"), invoice["metadata"]["name"]
        if given is not None and owners.setdefault(given, name) != name:
            yield f"{owners[given]} and {name} both have number {given}"


def all_numbered(history: History) -> Iterator[str]:
    """What must hold in the end."""
    for invoice in invoices(history) if history.last is None else ():
        if "number" not in (invoice.get("data") or {}):
            yield f"{invoice['metadata']['name']} has no number"


INVARIANTS = [no_number_twice, all_numbered]
