"""Orders from an SQS queue, with partial batch failures: an AWS Lambda handler, unchanged.

What it names in batchItemFailures stays in the queue; the rest of the batch is done.
"""

import json
from decimal import Decimal, InvalidOperation

SEEN = {}  # order -> total, in this sandbox: a message that is delivered twice is booked once


class Rejected(Exception):
    """An order that cannot be booked, with the reason."""


def lambda_handler(event, context):
    """Book every message's order; say which messages failed."""
    failures = []
    for record in event["Records"]:
        try:
            book(record)
        except (Rejected, json.JSONDecodeError) as problem:
            print(f"{record['messageId']}: {problem}")
            failures.append({"itemIdentifier": record["messageId"]})
    print(f"{len(event['Records']) - len(failures)} booked, {len(failures)} left in the queue")
    return {"batchItemFailures": failures}


def book(record):
    """Check an order and add it up."""
    order = json.loads(record["body"])
    if not isinstance(order, dict) or not isinstance(order.get("id"), str):
        raise Rejected("an order is an object with an id")
    if order["id"] in SEEN:
        print(f"order {order['id']} again, delivery {attempt(record)}")
        return
    SEEN[order["id"]] = sum((price_of(line) for line in order.get("lines", [])), Decimal())
    print(f"order {order['id']}: {SEEN[order['id']]} €")


def price_of(line):
    """What a line of an order costs; money is decimal."""
    try:
        quantity, price = int(line["quantity"]), Decimal(line["price"])
    except (KeyError, TypeError, ValueError, InvalidOperation):
        raise Rejected(f"no quantity and price in {line}") from None
    if quantity < 1 or price < 0:
        raise Rejected(f"quantity {quantity}, price {price}")
    return quantity * price


def attempt(record):
    """How often SQS has delivered a message."""
    return int(record.get("attributes", {}).get("ApproximateReceiveCount", "1"))
