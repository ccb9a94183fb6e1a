"""A photo in, a small JPEG out: POST the image, choose the size with ?width=."""

import base64
import io

from PIL import Image, ImageOps, UnidentifiedImageError

WIDTH_DEFAULT, WIDTH_MAX = 200, 2000
QUALITY = 85
# A tiny file may unfold into gigabytes: refuse those before a pixel is decoded.
Image.MAX_IMAGE_PIXELS = 30_000_000


def handler(event, context):
    """An HTTP request with the image as its body; the answer is image/jpeg."""
    if "requestContext" not in event:
        return refuse(400, "send the image over HTTP: hearth invoke thumbnail --file photo.jpg")
    if event["requestContext"]["http"]["method"] != "POST":
        return refuse(405, "POST an image", {"Allow": "POST"})
    try:
        width = read_width(event.get("queryStringParameters") or {})
        small = shrink(read_body(event), width)
    except ValueError as problem:
        return refuse(400, str(problem))
    except UnidentifiedImageError:
        return refuse(415, "the body is no image this function can read")
    except Image.DecompressionBombError:
        return refuse(413, f"the image has more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels")
    except OSError as problem:  # Pillow's word for a damaged file
        return refuse(422, f"the image is damaged: {problem}")
    print(f"{len(small)} bytes at width {width}")
    return {
        "statusCode": 200,
        "headers": {"Content-Type": "image/jpeg", "Cache-Control": "public, max-age=86400"},
        "body": base64.b64encode(small).decode(),
        "isBase64Encoded": True,
    }


def read_width(query):
    """The width that the query asks for."""
    text = query.get("width", str(WIDTH_DEFAULT))
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= WIDTH_MAX:
        raise ValueError(f"width is a number from 1 to {WIDTH_MAX}")
    return int(text)


def read_body(event):
    """The bytes that were sent."""
    body = event.get("body") or ""
    data = base64.b64decode(body) if event["isBase64Encoded"] else body.encode()
    if not data:
        raise ValueError("the request has no body")
    return data


def shrink(data, width):
    """The image as a JPEG no wider than `width`, upright, never enlarged."""
    with Image.open(io.BytesIO(data)) as image:
        image.draft("RGB", (width, width))  # lets a JPEG be decoded at a fraction of its size
        upright = ImageOps.exif_transpose(image)
        upright.thumbnail((width, upright.height))
        out = io.BytesIO()
        flatten(upright).save(out, "JPEG", quality=QUALITY, optimize=True)
        return out.getvalue()


def flatten(image):
    """JPEG knows no transparency: put the image on white."""
    if image.mode in ("RGB", "L"):
        return image
    rgba = image.convert("RGBA")
    white = Image.new("RGB", rgba.size, "white")
    white.paste(rgba, mask=rgba.getchannel("A"))
    return white


def refuse(status, message, headers=None):
    """An answer that says what is wrong with the request."""
    return {"statusCode": status, "headers": headers or {}, "body": {"error": message}}
