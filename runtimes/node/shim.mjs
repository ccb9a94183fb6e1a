// The Node shim: Hearth's process inside a sandbox. runtimes/PROTOCOL.md is its contract.
//
// launcher.py starts it with the wire as descriptor 3. From the top: boot, becoming a function,
// the end. Its parts: stem (what is done before there is code), wire, loading, calls (answers),
// context, http, streaming, errors, output.

import { inspect } from "node:util";
import { Calls, localStorage } from "./calls.mjs";
import { factsOf } from "./context.mjs";
import { failure } from "./errors.mjs";
import { HandlerNotFound, TASK, applyEnvironment, boundHeap } from "./loading.mjs";
import { findApplication, findHandler } from "./loading.mjs";
import { exitAtOnce, replaceOutput, writeWhole } from "./output.mjs";
import { practise, streamId } from "./stem.mjs";
import { installGlobal } from "./streaming.mjs";
import * as frames from "./wire.mjs";

const { CALL, CANCEL, CREDIT, HELLO, INIT, INIT_ERROR, READY } = frames;
const PROTOCOL = 2;
const FD = Number(process.env.HEARTH_FD ?? 3);

let wire;
let hasInit = false;
let calls; // set once INIT succeeded
let isEnding = false; // INIT failed, or an error was thrown that this process does not survive

async function main() {
  replaceOutput("stdout", 1);
  replaceOutput("stderr", 2);
  // As process 1 of its container the default action of SIGTERM would be to ignore it.
  process.on("SIGTERM", () => process.listenerCount("SIGTERM") === 1 && exitAtOnce(143));
  process.on("SIGINT", () => {});
  process.on("uncaughtException", (error) => die(error));
  process.on("unhandledRejection", (error) => die(error, "Runtime.UnhandledPromiseRejection"));
  process.on("beforeExit", () => calls?.settleIdle());
  installGlobal();
  await practise();
  wire = new frames.Wire(FD, receive);
  const runtime = `node${process.versions.node.split(".")[0]}`;
  wire.send(HELLO, 0, { protocol: PROTOCOL, runtime });
}

function receive(kind, number, head, body) {
  if (calls !== undefined && number > 0) {
    if (isEnding) return undefined;
    if (kind === CALL) return calls.answer(number, head, body);
    if (kind === CANCEL) return calls.cancel(number);
    if (kind === CREDIT && body.length === 4) return calls.credit(number, body.readUInt32BE());
  }
  if (kind !== INIT || hasInit) return wire.broken(`frame of type ${kind}`);
  hasInit = true;
  wire.bodyBytesMax = head.payload_bytes_max;
  return init(head).catch(failInit);
}

// --- becoming a function -----------------------------------------------------------------------

class IsolationUnsupported extends Error {
  name = "IsolationUnsupported";
}

async function init(head) {
  if (head.isolation === "request") {
    throw new IsolationUnsupported("a process for each request is for Python functions only");
  }
  applyEnvironment(head);
  boundHeap(head.memory_mb);
  process.chdir(TASK);
  const made = await callsFor(head);
  if (isEnding) return; // by an error outside the import's own promise
  calls = made;
  wire.send(READY, 0);
}

async function callsFor(head) {
  const local = head.per_sandbox > 1 ? localStorage() : undefined;
  const facts = factsOf(head, streamId);
  if (!head.handler.includes(":")) {
    return new Calls(wire, await findHandler(head.handler), facts, local);
  }
  // Only functions that are one pay for it.
  const { ApplicationCalls, listenerOf } = await import("./applications.mjs");
  const { found } = await findApplication(head.handler);
  const listener = await listenerOf(found, head.handler);
  return new ApplicationCalls(wire, listener, facts, local);
}

function failInit(error) {
  if (isEnding) return;
  isEnding = true;
  const { type, message, trace } = failure("", error);
  const found = error instanceof HandlerNotFound ? error.found : undefined;
  wire.send(INIT_ERROR, 0, { type, message, trace: found ? [] : trace, found });
}

// --- the end -----------------------------------------------------------------------------------

/** An error nobody caught: the answer of the calls under way, and the end of this process. */
function die(error, type) {
  if (calls === undefined && hasInit) {
    failInit(error);
    return;
  }
  if (calls === undefined || calls.running.size === 0) {
    writeWhole(2, Buffer.from(`${inspect(error)}\n`));
  } else {
    isEnding = true;
    calls.failAll(error, type);
  }
  if (wire === undefined) exitAtOnce(1);
  wire.afterwards(() => exitAtOnce(1));
}

main();
