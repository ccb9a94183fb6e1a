"""A small REST API in one function: list, create, read, change and delete orders.

The orders live in this sandbox's memory. They are gone when the sandbox is: after keep_warm_s
without a call, with the next deploy, or when the node restarts. A real one would keep them in a
database; the routing and the answers would be the same.
"""

import base64
import json
import re
import time
import uuid

ORDERS = {}
ORDERS_MAX = 1000
STATUSES = ("new", "paid", "shipped")


class Refused(Exception):
    """Ends a request with a status and a reason."""

    def __init__(self, status, message, **headers):
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers


def handler(event, context):
    """Finds the route and turns what it gives back, or refuses, into an HTTP answer."""
    if "requestContext" not in event:
        return {"error": "call this over HTTP: /function/orders-api/orders"}
    method = event["requestContext"]["http"]["method"]
    try:
        status, body, headers = route(method, event["rawPath"], event)
    except Refused as no:
        status, body, headers = no.status, {"error": no.message}, no.headers
    print(f"{method} {event['rawPath']} {status}")
    answer = {"statusCode": status, "headers": headers}
    return answer if body is None else {**answer, "body": body}


def route(method, path, event):
    """Calls the function for this method and path; 404 and 405 say what there is."""
    allowed = []
    for pattern, methods in ROUTES:
        if found := re.fullmatch(pattern, path):
            if method in methods:
                return methods[method](event, **found.groupdict())
            allowed += methods
    if allowed:
        raise Refused(405, f"{method} is not for {path}", Allow=", ".join(sorted(allowed)))
    raise Refused(404, f"there is nothing at {path}; try /orders")


def list_orders(event):
    """GET /orders, or with ?status= only some."""
    status = (event.get("queryStringParameters") or {}).get("status")
    if status is not None and status not in STATUSES:
        raise Refused(400, f"status is one of {', '.join(STATUSES)}")
    found = [order for order in ORDERS.values() if status in (None, order["status"])]
    return 200, {"orders": found, "count": len(found)}, {}


def create_order(event):
    """POST /orders with {"item": "…", "quantity": 1}."""
    if len(ORDERS) >= ORDERS_MAX:
        raise Refused(507, f"there are {ORDERS_MAX} orders already")
    sent = read_json(event)
    unknown = sent.keys() - {"item", "quantity"}
    if unknown:
        raise Refused(422, f"unknown: {', '.join(sorted(unknown))}")
    order = {
        "id": uuid.uuid4().hex[:8],
        "item": check_item(sent.get("item")),
        "quantity": check_quantity(sent.get("quantity", 1)),
        "status": "new",
        "created_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    ORDERS[order["id"]] = order
    return 201, order, {"Location": f"/function/orders-api/orders/{order['id']}"}


def get_order(event, order_id):
    """GET /orders/{id}."""
    return 200, find(order_id), {}


def change_order(event, order_id):
    """PATCH /orders/{id} with {"status": "paid"} or {"quantity": 2}."""
    order, sent = find(order_id), read_json(event)
    unknown = sent.keys() - {"status", "quantity"}
    if unknown or not sent:
        raise Refused(422, "send status, quantity, or both")
    if "status" in sent and sent["status"] not in STATUSES:
        raise Refused(422, f"status is one of {', '.join(STATUSES)}")
    if "quantity" in sent:
        check_quantity(sent["quantity"])
    order.update(sent)
    return 200, order, {}


def delete_order(event, order_id):
    """DELETE /orders/{id}."""
    del ORDERS[find(order_id)["id"]]
    return 204, None, {}


ROUTES = (
    (r"/orders/?", {"GET": list_orders, "POST": create_order}),
    (
        r"/orders/(?P<order_id>[0-9a-f]+)",
        {"GET": get_order, "PATCH": change_order, "DELETE": delete_order},
    ),
)


def find(order_id):
    """The order, or 404."""
    if order_id not in ORDERS:
        raise Refused(404, f"there is no order {order_id}")
    return ORDERS[order_id]


def read_json(event):
    """The body as a JSON object."""
    body = event.get("body") or ""
    if event.get("isBase64Encoded"):
        body = base64.b64decode(body)
    try:
        sent = json.loads(body)
    except ValueError as problem:
        raise Refused(400, f"the body is not JSON: {problem}") from None
    if not isinstance(sent, dict):
        raise Refused(400, "the body is not a JSON object")
    return sent


def check_item(item):
    """A name of 1 to 100 characters."""
    if not isinstance(item, str) or not 1 <= len(item.strip()) <= 100:
        raise Refused(422, "item is a text of 1 to 100 characters")
    return item.strip()


def check_quantity(quantity):
    """A whole number from 1 to 1000."""
    if isinstance(quantity, bool) or not isinstance(quantity, int) or not 1 <= quantity <= 1000:
        raise Refused(422, "quantity is a whole number from 1 to 1000")
    return quantity
