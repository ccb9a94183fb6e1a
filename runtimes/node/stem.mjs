// What a stem does before it has code, so that becoming a function and the first call are quick:
// it loads what functions import, and goes once through everything that a function goes through.

import { randomBytes } from "node:crypto";
import { Calls } from "./calls.mjs";
import { factsOf } from "./context.mjs";
import { applyEnvironment, clearEnvironment, findHandler } from "./loading.mjs";

// These cost a stem 4 MB and 15 ms. Importing node:http alone would take a function 26 ms: it
// brings all of fetch.
import "node:async_hooks";
import "node:dns/promises";
import "node:fs/promises";
import "node:http";
import "node:https";
import "node:stream/promises";
import "node:timers/promises";
import "node:zlib";

const PRACTICE = {
  handler: "practice.handler",
  env: {},
  function: "practice",
  namespace: "",
  version: "0",
  memory_mb: 128,
};
const EVENT = { id: "", kind: "event", deadline_ms: 0 };
const REQUEST = {
  id: "",
  kind: "http",
  deadline_ms: 0,
  http: {
    method: "POST",
    path: "/a%20b",
    query: "a=b",
    headers: [
      ["content-type", "application/json"],
      ["cookie", "a=b"],
    ],
    source_ip: "",
    protocol: "HTTP/1.1",
    host: "",
  },
};

export const streamId = randomBytes(16).toString("hex");

/** Load, compile and link what every function needs. */
export async function practise() {
  clearEnvironment();
  applyEnvironment(PRACTICE);
  const handler = await findHandler(PRACTICE.handler, import.meta.dirname);
  const wire = { bodyBytesMax: 1024, send: () => {} };
  const calls = new Calls(wire, handler, factsOf(PRACTICE, streamId));
  for (const head of [EVENT, REQUEST]) {
    calls.answer(1, head, Buffer.from('{"a": 1}'));
    await undefined; // until the handler's promise is heard
  }
  clearEnvironment();
}
