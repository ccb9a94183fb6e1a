// The Node shim: Hearth's process inside a sandbox. runtimes/PROTOCOL.md is its contract.
//
// launcher.py starts it with the wire as descriptor 3. From the top: boot, becoming a function,
// answering calls. Its parts: wire, loading, http, errors, output.

import { randomBytes } from "node:crypto";
import { inspect } from "node:util";
import { failure } from "./errors.mjs";
import { Invalid, encode, httpResponse, parseEvent } from "./http.mjs";
import { HandlerNotFound, TASK, applyEnvironment, boundHeap, findHandler } from "./loading.mjs";
import { exitAtOnce, replaceOutput } from "./output.mjs";
import * as frames from "./wire.mjs";

const { CALL, CANCEL, ERROR, HEAD_BYTES_MAX, HELLO, INIT, INIT_ERROR, READY, RESULT } = frames;
const PROTOCOL = 1;

const running = new Map(); // calls under way, by number
const waitingForIdle = new Set(); // what to do once the event loop has nothing left
let wire;
let config;
let handler; // set once INIT succeeded
let initFailed = false;

function main() {
  replaceOutput("stdout", 1);
  replaceOutput("stderr", 2);
  // As process 1 of its container the default action of SIGTERM would be to ignore it.
  process.on("SIGTERM", () => process.listenerCount("SIGTERM") === 1 && exitAtOnce(143));
  process.on("SIGINT", () => {});
  process.on("uncaughtException", (error) => die(error));
  process.on("unhandledRejection", (error) => die(error, "Runtime.UnhandledPromiseRejection"));
  process.on("beforeExit", settleIdle);
  wire = new frames.Wire(Number(process.env.HEARTH_FD ?? 3), receive);
  const runtime = `node${process.versions.node.split(".")[0]}`;
  wire.send(HELLO, 0, { protocol: PROTOCOL, runtime });
}

function receive(kind, number, head, body) {
  if (kind === CALL && handler !== undefined) return answer(number, head, body);
  if (kind === CANCEL && handler !== undefined) return undefined; // a promise cannot be stopped
  if (kind !== INIT || config !== undefined) return wire.broken(`frame of type ${kind}`);
  config = head;
  wire.bodyBytesMax = head.payload_bytes_max;
  return init(head).catch(failInit);
}

// --- becoming a function -----------------------------------------------------------------------

async function init(head) {
  applyEnvironment(head);
  boundHeap(head.memory_mb);
  process.chdir(TASK);
  const found = await findHandler(head.handler);
  const stream = new Date().toISOString().slice(0, 10).replaceAll("-", "/");
  const arn = `arn:aws:lambda:local:000000000000:function:${head.function}:${head.version}`;
  config = {
    payload_bytes_max: head.payload_bytes_max,
    facts: {
      functionName: head.function,
      functionVersion: String(head.version),
      memoryLimitInMB: String(head.memory_mb),
      invokedFunctionArn: arn,
      logGroupName: `/aws/lambda/${head.function}`,
      logStreamName: `${stream}/[${head.version}]${randomBytes(16).toString("hex")}`,
      clientContext: undefined,
      identity: undefined,
    },
  };
  if (initFailed) return; // by an error outside the import's own promise
  handler = found;
  wire.send(READY, 0);
}

function failInit(error) {
  if (initFailed) return;
  initFailed = true;
  const { type, message, trace } = failure("", error);
  const found = error instanceof HandlerNotFound ? error.found : undefined;
  wire.send(INIT_ERROR, 0, { type, message, trace: found ? [] : trace, found });
}

// --- answering calls ----------------------------------------------------------------------------

function answer(number, head, body) {
  let event;
  try {
    event = parseEvent(head, body, config.facts.functionName);
  } catch (error) {
    const problem = failure("function_error", error, "Runtime.UnmarshalError");
    return wire.send(ERROR, number, problem);
  }
  const call = { number, http: head.kind === "http", idle: undefined, calledBack: false };
  running.set(number, call);
  const context = makeContext(call, head);
  try {
    const result = handler(event, context, (error, value) => callBack(call, context, error, value));
    if (typeof result?.then === "function") {
      result.then((value) => finish(call, value), (error) => fail(call, error));
    } else if (result !== undefined || handler.length < 2) {
      finish(call, result);
    } else if (!call.calledBack) {
      // It may yet call back; when nothing is left that could, the answer is null, as on AWS.
      whenIdle(call, () => finish(call, null));
    }
  } catch (error) {
    fail(call, error);
  }
  return undefined;
}

function callBack(call, context, error, value) {
  if (call.calledBack) return;
  call.calledBack = true;
  const settle = () => (error ? fail(call, error) : finish(call, value));
  if (context.callbackWaitsForEmptyEventLoop) whenIdle(call, settle);
  else settle();
}

/** Once for each call: whatever else it does later is not heard. */
function close(call) {
  if (call.idle) {
    waitingForIdle.delete(call.idle);
    if (waitingForIdle.size === 0) wire.socket.ref();
  }
  return running.delete(call.number);
}

function finish(call, result) {
  if (!close(call)) return;
  let head;
  let body;
  try {
    [head, body] = call.http ? httpResponse(result) : [undefined, encode(result)];
    checkSize(head, body);
  } catch (error) {
    // The result's own getters and toJSON may throw anything.
    const type = error instanceof Invalid ? error.type : "Runtime.MarshalError";
    const problem = failure("function_response_invalid", error, type);
    wire.send(ERROR, call.number, { ...problem, trace: [] });
    return;
  }
  wire.send(RESULT, call.number, head, body);
}

function fail(call, error) {
  if (close(call)) wire.send(ERROR, call.number, failure("function_error", error));
}

/** Do `act` when the event loop is empty but for the wire, which stops counting until then. */
function whenIdle(call, act) {
  waitingForIdle.delete(call.idle);
  call.idle = act;
  waitingForIdle.add(act);
  wire.socket.unref();
}

function settleIdle() {
  const acts = [...waitingForIdle];
  waitingForIdle.clear();
  wire.socket.ref();
  for (const act of acts) act();
}

/** An error nobody caught: the answer of the calls under way, and the end of this process. */
function die(error, type) {
  if (handler === undefined && config !== undefined) {
    failInit(error);
    return;
  }
  if (running.size === 0) {
    process.stderr.write(`${inspect(error)}\n`);
    exitAtOnce(1);
  }
  const problem = { ...failure("function_error", error, type), last: true };
  for (const number of running.keys()) wire.send(ERROR, number, problem);
  wire.socket.end(() => exitAtOnce(1));
}

function makeContext(call, head) {
  return {
    callbackWaitsForEmptyEventLoop: true,
    ...config.facts,
    awsRequestId: head.id,
    deadline: head.deadline_ms,
    traceparent: head.trace,
    getRemainingTimeInMillis: () => Math.max(0, head.deadline_ms - Date.now()),
    succeed: (value) => finish(call, value),
    fail: (error) => fail(call, error),
    done: (error, value) => (error ? fail(call, error) : finish(call, value)),
  };
}

/** Refuse what the executor would have to answer by closing the sandbox. */
function checkSize(head, body) {
  const bytes = Buffer.byteLength(body);
  const type = "Function.ResponseSizeTooLarge";
  if (bytes > config.payload_bytes_max) {
    const allowed = config.payload_bytes_max;
    throw new Invalid(`the response has ${bytes} bytes; ${allowed} are allowed`, type);
  }
  if (head && Buffer.byteLength(JSON.stringify(head)) > HEAD_BYTES_MAX) {
    throw new Invalid("the response's headers are too large", type);
  }
}

main();
