"""Notes behind API Gateway, payload format 2.0: an AWS Lambda handler, unchanged.

Create, read, replace and delete; a cookie remembers whose notes they are; a note may be any bytes.
"""

import base64
import json
import os
import uuid

OWNERS_MAX, NOTES_MAX, NOTE_BYTES_MAX = 100, 50, 64 * 1024
NOTES = {}  # owner -> id -> (content type, bytes)


def lambda_handler(event, context):
    """Route by method and path, as API Gateway hands them over."""
    http = event["requestContext"]["http"]
    parts = [part for part in event["rawPath"].split("/") if part]
    if not parts or parts[0] != "notes" or len(parts) > 2:
        return answer(404, {"error": f"no {event['rawPath']} here; try /notes"})
    owner, cookies = owner_of(event)
    if owner is None:
        return answer(507, {"error": "there are enough owners"})
    note = parts[1] if len(parts) == 2 else None
    route = ROUTES.get((http["method"], note is not None))
    if route is None:
        return answer(405, {"error": f"no {http['method']} here"}, cookies)
    return route(NOTES[owner], note, event, cookies)


def owner_of(event):
    """Who asks, by cookie; a stranger becomes an owner and is given one."""
    for cookie in event.get("cookies", []):
        name, _, value = cookie.partition("=")
        if name == "owner" and value in NOTES:
            return value, []
    if len(NOTES) >= OWNERS_MAX:
        return None, []
    owner = uuid.uuid4().hex
    NOTES[owner] = {}
    return owner, [f"owner={owner}; HttpOnly; SameSite=Lax; Max-Age={os.environ['REMEMBER_S']}"]


def list_notes(notes, _, event, cookies):
    """GET /notes, or ?type=image/ for some of them."""
    wanted = (event.get("queryStringParameters") or {}).get("type", "")
    found = [
        {"id": note, "type": kind, "bytes": len(data)}
        for note, (kind, data) in notes.items()
        if kind.startswith(wanted)
    ]
    return answer(200, {"notes": found}, cookies)


def create_note(notes, _, event, cookies):
    """POST /notes with anything."""
    if len(notes) >= NOTES_MAX:
        return answer(507, {"error": f"{NOTES_MAX} notes are enough"}, cookies)
    return put_note(notes, uuid.uuid4().hex[:8], event, cookies, 201)


def put_note(notes, note, event, cookies, status=200):
    """PUT /notes/{id} with anything."""
    data = body_of(event)
    if len(data) > NOTE_BYTES_MAX:
        return answer(413, {"error": f"a note has at most {NOTE_BYTES_MAX} bytes"}, cookies)
    if status == 200 and note not in notes:
        return answer(404, {"error": f"there is no note {note}"}, cookies)
    notes[note] = (event["headers"].get("content-type", "application/octet-stream"), data)
    return answer(status, {"id": note, "bytes": len(data)}, cookies)


def get_note(notes, note, event, cookies):
    """GET /notes/{id}: the bytes as they came."""
    if note not in notes:
        return answer(404, {"error": f"there is no note {note}"}, cookies)
    kind, data = notes[note]
    body = {"body": base64.b64encode(data).decode(), "isBase64Encoded": True}
    return {"statusCode": 200, "headers": {"content-type": kind}, "cookies": cookies, **body}


def delete_note(notes, note, event, cookies):
    """DELETE /notes/{id}."""
    gone = notes.pop(note, None)
    return {"statusCode": 204 if gone else 404, "cookies": cookies}


ROUTES = {
    ("GET", False): list_notes,
    ("POST", False): create_note,
    ("GET", True): get_note,
    ("PUT", True): put_note,
    ("DELETE", True): delete_note,
}


def body_of(event):
    """The request's body as bytes; API Gateway sends what is not text as base64."""
    body = event.get("body") or ""
    return base64.b64decode(body) if event["isBase64Encoded"] else body.encode()


def answer(status, value, cookies=()):
    """A response with JSON."""
    headers = {"content-type": "application/json"}
    body = json.dumps(value)
    return {"statusCode": status, "headers": headers, "cookies": list(cookies), "body": body}
