"""The functions of a soak: how each is deployed, what it is asked, what it must say to that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

NODE24 = {"runtime": "node", "memory_mb": 128}
# One handler for many functions: what a call does is what the call says. `DEPLOY` is the number of
# the deploy, and so of the version: an answer tells whose request, and which code, it is of.
PYTHON = """
import json, os, signal, threading, time

DEPLOY = {deploy}
seen, ticks = [], [0]

class Warned(Exception):
    pass

def warn(number, frame):
    raise Warned

def tick():
    while True:
        ticks[0] += 1
        time.sleep(0.005)

def handler(event, context):
    ask = json.loads(event["body"]) if "rawPath" in event else event
    seen.append(ask["id"])
    print("of", context.aws_request_id)
    said = {{"id": ask["id"], "v": int(context.function_version), "d": DEPLOY}}
    match ask["do"]:
        case "crash":
            os._exit(3)
        case "raise":
            raise ValueError(ask["id"])
        case "sleep":
            time.sleep(600)
        case "eat":
            kept = [bytearray(b"x") * 2**20 for _ in range(10**5)]
        case "tick":
            if len(seen) == 1:
                threading.Thread(target=tick, daemon=True).start()
        case "count":
            said["seen"] = seen
            open("/tmp/left", "x").close()
        case "wait":
            signal.signal(signal.SIGTERM, warn)
            try:
                time.sleep(600)
            except Warned:
                said["warned"] = True
        case "lump":
            said["lump"] = ask["id"] * ask["times"]
    return said
"""
NODE = """
const DEPLOY = {deploy};
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

export const handler = async (event, context) => {{
  const ask = event.rawPath === undefined ? event : JSON.parse(event.body);
  console.log("of", context.awsRequestId);
  if (ask.ms) await pause(ask.ms);
  if (ask.do === "raise") throw new RangeError(ask.id);
  if (ask.do === "crash") process.exit(3);
  console.log("of", context.awsRequestId);
  const said = {{ id: ask.id, v: Number(context.functionVersion), d: DEPLOY }};
  return ask.do === "lump" ? {{ ...said, lump: ask.id.repeat(ask.times) }} : said;
}};
"""
ASYNC = """
import asyncio

DEPLOY = {deploy}

async def handler(event, context):
    print("of", context.aws_request_id)
    await asyncio.sleep(event["ms"] / 1000)
    if event["do"] == "raise":
        raise ValueError(event["id"])
    print("of", context.aws_request_id)
    return {{"id": event["id"], "v": int(context.function_version), "d": DEPLOY}}
"""
STREAM = """
import json

DEPLOY = {deploy}

def handler(event, context):
    ask = json.loads(event["body"])
    print("of", context.aws_request_id)
    yield {{"statusCode": 201, "headers": {{"content-type": "text/plain", "x-deploy": DEPLOY}}}}
    for number in range(ask["pieces"]):
        if number == ask["fails_at"]:
            raise ValueError(ask["id"])
        yield f"{{ask['id']}} {{number}} {{'x' * ask['size']}}\\n"
"""
STREAM_NODE = """
import {{ once }} from "node:events";

const DEPLOY = {deploy};

export const handler = awslambda.streamifyResponse(async (event, out, context) => {{
  const ask = JSON.parse(event.body);
  console.log("of", context.awsRequestId);
  const headers = {{ "content-type": "text/plain", "x-deploy": DEPLOY }};
  out = awslambda.HttpResponseStream.from(out, {{ statusCode: 201, headers }});
  for (let number = 0; number < ask.pieces; number++) {{
    if (number === ask.fails_at) throw new RangeError(ask.id);
    const room = out.write(`${{ask.id}} ${{number}} ${{"x".repeat(ask.size)}}\\n`);
    if (!room) await once(out, "drain");
  }}
  out.end();
}});
"""


@dataclass(frozen=True, slots=True)
class Kind:
    """One function. Of `odd` out of a hundred calls one of `moods` is asked for, else an echo."""

    name: str
    code: str
    config: Mapping[str, Any] = field(default_factory=dict)
    moods: tuple[str, ...] = ()
    odd: int = 0
    weight: int = 4
    is_redeployed: bool = False
    is_streaming: bool = False

    @property
    def is_node(self) -> bool:
        """Whether it is written for Node."""
        return self.config.get("runtime") == "node"

    @property
    def time_s(self) -> float:
        """After which a call may be told that it took too long."""
        grace_s = float(self.config.get("grace_s", 0))
        return float(self.config.get("timeout_s", 30)) - grace_s

    def code_of(self, deploy: int) -> str:
        """The source of its so-manieth deploy."""
        return self.code.format(deploy=deploy)

    def ask(self, random: Random, id: str) -> dict[str, Any]:
        """What one call says."""
        asked: dict[str, Any] = {"id": id, "do": "echo", "ms": random.choice((0, 1, 5, 30))}
        if self.moods and random.randrange(100) < self.odd:
            asked["do"] = random.choice(self.moods)
        if asked["do"] == "lump":
            asked["times"] = random.randrange(1, 20_000)
        if self.is_streaming:
            asked["pieces"] = random.choice((0, 1, 3, 10, 40))
            asked["size"] = random.choice((1, 100, 10_000, 70_000))
            asked["fails_at"] = random.randrange(40) if random.randrange(4) == 0 else -1
        return asked


# A deadline that calls which do nothing may miss on a busy machine is told from a wrong one by the
# time that its client waited: see books.py.
KINDS = (
    Kind("echo", PYTHON, {"keep_warm_s": 3}, ("lump",), 10, 30, is_redeployed=True),
    Kind("echo-node", NODE, {"keep_warm_s": 3, **NODE24}, ("lump", "raise"), 20, 20, True),
    Kind("several", ASYNC, {"per_sandbox": 8, "keep_warm_s": 3, "concurrency": 30}, ("raise",), 10,
         20, is_redeployed=True),
    Kind("several-node", NODE, {"per_sandbox": 8, "keep_warm_s": 3, **NODE24}, ("raise",), 10, 15),
    Kind("streams", STREAM, {"keep_warm_s": 3}, weight=12, is_redeployed=True, is_streaming=True),
    Kind("streams-node", STREAM_NODE, {"keep_warm_s": 3, **NODE24}, weight=10, is_streaming=True),
    Kind("fresh", PYTHON, {"isolation": "request", "keep_warm_s": 3}, ("count", "raise", "lump"),
         70, 12),
    Kind("crashes", PYTHON, {"keep_warm_s": 3}, ("crash",), 10, 4),
    Kind("crashes-node", NODE, {"keep_warm_s": 3, **NODE24}, ("crash",), 10, 3),
    Kind("hangs", PYTHON, {"timeout_s": 1, "keep_warm_s": 1}, ("sleep",), 10, 3),
    Kind("raises", PYTHON, {"keep_warm_s": 0}, ("raise",), 50, 2),
    Kind("eats", PYTHON, {"keep_warm_s": 3}, ("eat",), 10, 3),
    Kind("ticks", PYTHON, {"idle": "run", "keep_warm_s": 1}, ("tick",), 100, 5),
    Kind("warned", PYTHON, {"timeout_mode": "graceful", "timeout_s": 1.5, "grace_s": 1,
                            "keep_warm_s": 1}, ("wait", "sleep"), 15, 3),
    Kind("kept", PYTHON, {"min_warm": 2, "keep_warm_s": 0, "concurrency": 4}, weight=8,
         is_redeployed=True),
    Kind("narrow", PYTHON, {"concurrency": 1, "keep_warm_s": 3}, weight=4),
)  # fmt: skip
KEPT = sum(kind.config.get("min_warm", 0) for kind in KINDS)
