"""A small shop in FastAPI: routes, validation, a lifespan, and a stream; nothing of it is Hearth's.

The same file runs under any ASGI server: `uvicorn main:app`.
"""

import asyncio
import itertools
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

ITEMS_MAX = 1000


class Item(BaseModel):
    """What is for sale."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    price: Annotated[float, Field(gt=0)]


@asynccontextmanager
async def lifespan(app):
    """Before the first request, and after the last."""
    app.state.items = {1: Item(name="firewood", price=7.5)}
    app.state.numbers = itertools.count(2)
    print("the shop is open")
    yield
    print("the shop is closed")


app = FastAPI(title="Shop", lifespan=lifespan)


@app.get("/items")
def list_items(request: Request, below: float | None = None) -> dict[int, Item]:
    """Everything, or what costs less than `below`."""
    items = request.app.state.items
    return {n: item for n, item in items.items() if below is None or item.price < below}


@app.post("/items", status_code=201)
async def add_item(request: Request, item: Item) -> dict[str, str]:
    """Put something up for sale; says where it is found."""
    state = request.app.state
    if len(state.items) >= ITEMS_MAX:
        raise HTTPException(507, f"there are {ITEMS_MAX} items already")
    number = next(state.numbers)
    state.items[number] = item
    return {"item": str(request.url_for("show_item", number=number))}


@app.get("/items/{number}")
async def show_item(request: Request, number: int) -> Item:
    """One item."""
    try:
        return request.app.state.items[number]
    except KeyError:
        raise HTTPException(404, f"there is no item {number}") from None


@app.get("/countdown")
async def countdown(start: Annotated[int, Field(ge=1, le=60)] = 3):
    """Server-sent events, one every tenth of a second."""

    async def events():
        for number in range(start, 0, -1):
            yield f"data: {number}\n\n"
            await asyncio.sleep(0.1)
        yield "data: lift-off\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")
