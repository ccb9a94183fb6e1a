"""What S3 says of new objects, as entries of an index: an AWS Lambda handler, unchanged.

S3 calls it with a batch of records. Photos get the names that their smaller copies will have;
what this function would itself have made is left alone, or it would call itself for ever.
"""

import logging
import mimetypes
from pathlib import PurePosixPath
from urllib.parse import unquote_plus

logger = logging.getLogger()
logger.setLevel(logging.INFO)

WIDTHS = (160, 640)
MADE = "thumbnails/"


def lambda_handler(event, context):
    """An entry for each object that was created, or a note that it is gone."""
    entries = []
    for record in event["Records"]:
        key = unquote_plus(record["s3"]["object"]["key"])
        if key.startswith(MADE):
            logger.info("%s is one of ours", key)
            continue
        bucket = record["s3"]["bucket"]["name"]
        if record["eventName"].startswith("ObjectRemoved:"):
            entries.append({"object": f"{bucket}/{key}", "removed": True})
        else:
            entries.append(entry(bucket, key, record["s3"]["object"], record["eventTime"]))
    logger.info("%d entries for request %s", len(entries), context.aws_request_id)
    return {"indexed": len(entries), "entries": entries}


def entry(bucket, key, told, at):
    """What the index says of an object."""
    kind, _ = mimetypes.guess_type(key)
    path = PurePosixPath(key)
    found = {
        "object": f"{bucket}/{key}",
        "kind": kind or "application/octet-stream",
        "bytes": told["size"],
        "etag": told.get("eTag"),
        "day": at[:10],
    }
    if kind and kind.startswith("image/"):
        found["thumbnails"] = [f"{MADE}{path.with_suffix('')}-{width}.jpg" for width in WIDTHS]
    return found
