// The Node shim: Hearth's process inside a sandbox. runtimes/PROTOCOL.md is its contract.
//
// One file, no dependencies: launcher.py starts it with the wire as descriptor 3. From the top: boot,
// answering calls, loading a function, errors, HTTP in, HTTP out, output, the wire.

import { isUtf8 } from "node:buffer";
import { randomBytes } from "node:crypto";
import { existsSync, readdirSync, writeSync } from "node:fs";
import { syncBuiltinESMExports } from "node:module";
import { Socket } from "node:net";
import { join } from "node:path";
import { Writable } from "node:stream";
import { pathToFileURL } from "node:url";
import { inspect, types } from "node:util";

const PROTOCOL = 1;
const [INIT, CALL, CANCEL] = [1, 2, 3];
const [HELLO, READY, INIT_ERROR, RESULT, ERROR] = [16, 17, 18, 19, 20];
const HEADER_BYTES = 13; // length u32, type u8, call u32, head_length u32
const OVERHEAD_BYTES = 9; // of them, counted by length
const HEAD_BYTES_MAX = 128 * 1024;
const BUFFER_BYTES = 64 * 1024;
const MESSAGE_CHARS_MAX = 16 * 1024;
const TRACE_LINES_MAX = 100;
const CAUSES_MAX = 5;
const FOUND_MAX = 100;
const KEPT_ENV = new Set(["PATH", "LANG", "LC_ALL", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"]);
const SUFFIXES = [".mjs", ".js", ".cjs"];
const TASK = process.env.HEARTH_TASK ?? "/var/task";

// Kept from before user code could replace it. Unlike exit() it runs no handlers of theirs.
const exitAtOnce = process.reallyExit.bind(process);

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
  wire = new Wire(Number(process.env.HEARTH_FD ?? 3), receive);
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

// --- answering calls ----------------------------------------------------------------------------

function answer(number, head, body) {
  let event;
  try {
    event = parseEvent(head, body);
  } catch (error) {
    const problem = failure("function_error", error, "Runtime.UnmarshalError");
    return wire.send(ERROR, number, problem);
  }
  const call = { number, http: head.kind === "http", idle: undefined };
  running.set(number, call);
  const context = makeContext(call, head);
  try {
    const result = handler(event, context, (error, value) => callBack(call, context, error, value));
    if (typeof result?.then === "function") {
      result.then((value) => finish(call, value), (error) => fail(call, error));
    } else if (result !== undefined || handler.length < 2) {
      finish(call, result);
    } else {
      // It may yet call back; when nothing is left that could, the answer is null, as on AWS.
      whenIdle(call, () => finish(call, null));
    }
  } catch (error) {
    fail(call, error);
  }
  return undefined;
}

function callBack(call, context, error, value) {
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

class Invalid extends Error {
  constructor(message, type = "Runtime.MarshalError") {
    super(message);
    this.type = type;
  }
}

/** The JSON of what a handler returned; Invalid when there is none. */
function encode(result) {
  if (result === undefined) return "null";
  const iterates = result?.[Symbol.asyncIterator] ?? result?.[Symbol.iterator];
  if (iterates && typeof result.next === "function") {
    throw new Invalid("the handler returned a generator: streaming is not supported");
  }
  let text;
  try {
    text = JSON.stringify(result);
  } catch (error) {
    throw new Invalid(`the result is not JSON: ${describe(error).message}`);
  }
  if (text === undefined) throw new Invalid(`the result is not JSON: it is a ${typeof result}`);
  return text;
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

// --- loading ------------------------------------------------------------------------------------

class HandlerNotFound extends Error {
  name = "HandlerNotFound";

  constructor(message, found) {
    super(message);
    this.found = found.sort().slice(0, FOUND_MAX);
  }
}

async function init(head) {
  applyEnvironment(head);
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

/** The function's environment replaces the one this process was started with. */
function applyEnvironment(head) {
  for (const name of Object.keys(process.env)) {
    if (!KEPT_ENV.has(name)) delete process.env[name];
  }
  Object.assign(process.env, head.env, {
    LAMBDA_TASK_ROOT: TASK,
    _HANDLER: head.handler,
    AWS_LAMBDA_FUNCTION_NAME: head.function,
    AWS_LAMBDA_FUNCTION_VERSION: head.version,
    AWS_LAMBDA_FUNCTION_MEMORY_SIZE: head.memory_mb,
    HEARTH_NAMESPACE: head.namespace,
    TMPDIR: "/tmp",
    HOME: "/tmp",
  });
}

/** The function that `path/module.name` (or `.name.of.a.property`) names. */
async function findHandler(name) {
  const match = /^((?:.*\/)?[^./]+)\.([^/]+)$/.exec(name);
  const wanted = `handler ${JSON.stringify(name)}`;
  if (!match) throw new HandlerNotFound(`${wanted} is not module.function`, modulesIn(TASK));
  const [, module, attribute] = match;
  const file = SUFFIXES.map((suffix) => join(TASK, module + suffix)).find(existsSync);
  if (!file) {
    throw new HandlerNotFound(`no module ${JSON.stringify(module)} in the code`, modulesIn(TASK));
  }
  const exports = await import(pathToFileURL(file)); // Node decides: ES module or CommonJS
  const keys = attribute.split(".");
  const at = (root) => keys.reduce((value, key) => value?.[key], root);
  const found = at(exports) ?? at(exports.default);
  if (typeof found === "function") return found;
  const what = found === undefined ? "does not exist" : "is not a function";
  const message = `${JSON.stringify(attribute)} in module ${JSON.stringify(module)} ${what}`;
  throw new HandlerNotFound(message, functionsIn(exports));
}

function modulesIn(folder) {
  const names = readdirSync(folder).filter((name) => /^[^.].*\.[cm]?js$/.test(name));
  return [...new Set(names.map((name) => name.replace(/\.[cm]?js$/, "")))];
}

function functionsIn(exports) {
  const all = Object.assign(Object.create(null), exports.default, exports);
  return Object.keys(all).filter((name) => typeof all[name] === "function" && name !== "default");
}

// --- errors -------------------------------------------------------------------------------------

/** The head of an ERROR: type, message and the user's part of the stack, bounded. */
function failure(code, error, type) {
  const facts = describe(error);
  return { code, ...facts, type: type ?? facts.type };
}

/** Type, message and trace of anything thrown. Its getters may throw too. */
function describe(error) {
  try {
    if (!types.isNativeError(error) && !(error instanceof Error)) {
      const message = typeof error === "string" ? error : inspect(error, { depth: 2 });
      return { type: typeof error, message: cut(message), trace: [] };
    }
    const type = String(error.name || error.constructor.name).slice(0, 256);
    return { type, message: cut(String(error.message)), trace: userTrace(error) };
  } catch {
    return { type: "Error", message: "<the error's own properties throw>", trace: [] };
  }
}

function cut(text) {
  return text.length <= MESSAGE_CHARS_MAX ? text : `${text.slice(0, MESSAGE_CHARS_MAX)}…`;
}

/** The lines of the stack, and of its causes', without frames of this file and of Node's own. */
function userTrace(error) {
  const lines = [];
  for (let [at, depth] = [error, 0]; at && depth < CAUSES_MAX; at = at.cause, depth += 1) {
    const text = cut(typeof at.stack === "string" ? at.stack : inspect(at, { depth: 1 }));
    const own = text.split("\n").filter((line) => !isInternal(line));
    if (depth > 0) own[0] = `Caused by: ${own[0]}`;
    lines.push(...own);
  }
  return lines.slice(0, TRACE_LINES_MAX).map((line) => line.slice(0, 1000));
}

function isInternal(line) {
  return /^\s+at /.test(line) && (line.includes(import.meta.url) || /[( ]node:/.test(line));
}

// --- HTTP in ------------------------------------------------------------------------------------

const TEXT_TYPE = /^(text\/|application\/(json|xml|javascript|x-www-form-urlencoded)$)|\+(json|xml)$/;
const MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(" ");

/** What the handler gets; throws when an event is not JSON. */
function parseEvent(head, body) {
  if (head.kind === "http") return httpEvent(head, body);
  if (body.length === 0) return {};
  if (!isUtf8(body)) throw new SyntaxError("the event is not UTF-8");
  return JSON.parse(body.toString());
}

/** A request in AWS's payload format 2.0. */
function httpEvent(head, body) {
  const { http } = head;
  const headers = joined(http.headers, (name) => (name === "cookie" ? "; " : ","));
  const path = unescape(http.path);
  const event = {
    version: "2.0",
    routeKey: "$default",
    rawPath: path,
    rawQueryString: http.query,
    headers,
    requestContext: requestContext(head, headers, path),
    isBase64Encoded: false,
  };
  if (headers.cookie !== undefined) {
    const parts = headers.cookie.split(";").map((part) => part.trim());
    event.cookies = parts.filter((part) => part !== "");
  }
  if (http.query) event.queryStringParameters = queryParameters(http.query);
  if (body.length > 0) addBody(event, headers["content-type"] ?? "", body);
  return event;
}

function requestContext(head, headers, path) {
  const { http } = head;
  const now = new Date();
  const [, clock] = /T(.{8})/.exec(now.toISOString());
  const day = `${now.toISOString().slice(8, 10)}/${MONTHS[now.getUTCMonth()]}`;
  return {
    accountId: "anonymous",
    apiId: config.facts.functionName,
    domainName: http.host,
    domainPrefix: http.host.split(":")[0].split(".")[0],
    http: {
      method: http.method,
      path,
      protocol: http.protocol,
      sourceIp: http.source_ip,
      userAgent: headers["user-agent"] ?? "",
    },
    requestId: head.id,
    routeKey: "$default",
    stage: "$default",
    time: `${day}/${now.getUTCFullYear()}:${clock} +0000`,
    timeEpoch: now.getTime(),
  };
}

/** The body as text where its type says text and its bytes agree, else as base64. */
function addBody(event, contentType, body) {
  if (TEXT_TYPE.test(contentType.split(";")[0].trim().toLowerCase()) && isUtf8(body)) {
    event.body = body.toString();
  } else {
    event.body = body.toString("base64");
    event.isBase64Encoded = true;
  }
}

function queryParameters(query) {
  const pairs = query.split("&").filter((pair) => pair !== "");
  const decoded = pairs.map((pair) => {
    const [name, ...value] = pair.replaceAll("+", " ").split("=");
    return [unescape(name), unescape(value.join("="))];
  });
  return joined(decoded, () => ",");
}

/** Pairs as an object; values of a repeated name are joined. Safe for names like __proto__. */
function joined(pairs, glue) {
  const found = new Map();
  for (const [name, value] of pairs) {
    found.set(name, found.has(name) ? `${found.get(name)}${glue(name)}${value}` : value);
  }
  return Object.fromEntries(found);
}

/** Percent-decoding that never fails: what is not UTF-8 becomes U+FFFD. */
function unescape(text) {
  if (!text.includes("%")) return text;
  const bytes = Buffer.from(text).toString("latin1");
  const byte = (_, digits) => String.fromCharCode(Number.parseInt(digits, 16));
  return Buffer.from(bytes.replace(/%([0-9a-fA-F]{2})/g, byte), "latin1").toString();
}

// --- HTTP out -----------------------------------------------------------------------------------

const HEADER_NAME = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;
const HEADER_VALUE = /^[^\x00-\x08\x0a-\x1f\x7f]*$/; // eslint-disable-line no-control-regex
const BASE64 = /^[A-Za-z0-9+/]*$/;

/** Head and body of the response that a result describes; Invalid says what is wrong. */
function httpResponse(result) {
  const status = result?.statusCode;
  if (typeof result !== "object" || Array.isArray(result) || status === undefined) {
    return [{ status: 200, headers: [["content-type", "application/json"]] }, encode(result)];
  }
  const number = typeof status === "string" && /^\d{3}$/.test(status) ? Number(status) : status;
  if (!Number.isInteger(number) || number < 100 || number > 599) {
    throw new Invalid(`statusCode ${picture(status)} is not a number from 100 to 599`);
  }
  const headers = responseHeaders(result.headers ?? {}, result.cookies ?? []);
  if (!headers.some(([name]) => name === "content-type")) {
    headers.push(["content-type", "application/json"]);
  }
  return [{ status: number, headers }, responseBody(result.body, result.isBase64Encoded)];
}

/** Every header as a pair of lower-case name and value. */
function responseHeaders(headers, cookies) {
  if (typeof headers !== "object" || Array.isArray(headers)) {
    throw new Invalid(`headers is ${picture(headers)}, not an object`);
  }
  if (!Array.isArray(cookies)) throw new Invalid(`cookies is ${picture(cookies)}, not a list`);
  const pairs = [];
  for (const [name, given] of Object.entries(headers)) {
    if (given === undefined) continue; // as JSON would
    for (const value of Array.isArray(given) ? given : [given]) {
      pairs.push([name.toLowerCase(), headerText(name, value)]);
    }
  }
  for (const cookie of cookies) {
    if (typeof cookie !== "string") {
      throw new Invalid(`a cookie is ${picture(cookie)}, not a string`);
    }
    pairs.push(["set-cookie", headerText("set-cookie", cookie)]);
  }
  return pairs;
}

function headerText(name, value) {
  const plain = typeof value === "boolean" || Number.isFinite(value) ? String(value) : value;
  if (typeof plain !== "string") {
    throw new Invalid(`header ${picture(name)} is ${picture(value)}, not a string`);
  }
  if (!HEADER_NAME.test(name) || !HEADER_VALUE.test(plain)) {
    throw new Invalid(`header ${picture(name)}: ${picture(plain)} cannot be sent`);
  }
  return plain;
}

function responseBody(body, encoded) {
  if (![undefined, null, true, false].includes(encoded)) {
    throw new Invalid(`isBase64Encoded is ${picture(encoded)}, not true or false`);
  }
  if (body === undefined || body === null) return "";
  if (ArrayBuffer.isView(body) || body instanceof ArrayBuffer) {
    throw new Invalid("body is bytes: encode it as base64 text and set isBase64Encoded to true");
  }
  if (typeof body !== "string") return encode(body);
  if (!encoded) return body;
  const compact = body.replace(/\s+|=+\s*$/g, "");
  if (!BASE64.test(compact) || compact.length % 4 === 1) throw new Invalid("body is not base64");
  return Buffer.from(compact, "base64");
}

/** A short picture of a value for a message. */
function picture(value) {
  return value !== null && typeof value === "object"
    ? "an object"
    : inspect(value, { maxStringLength: 100 });
}

// --- output -------------------------------------------------------------------------------------

/** Writes at once and whole: nothing is buffered when the answer leaves or the process dies. */
class Output extends Writable {
  constructor(fd) {
    super();
    this.fd = fd;
  }

  _write(chunk, encoding, done) {
    writeWhole(this.fd, chunk);
    done();
  }
}

function writeWhole(fd, chunk) {
  for (let at = 0; at < chunk.length; ) {
    try {
      at += writeSync(fd, chunk, at);
    } catch (error) {
      if (error.code !== "EAGAIN") return; // the function closed the descriptor
      // A subprocess that shares the pipe made it non-blocking: wait a moment for room.
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
    }
  }
}

/** process.stdout as Node makes it may still hold output when an answer is ready. */
function replaceOutput(name, fd) {
  const stream = new Output(fd);
  Object.defineProperty(process, name, { get: () => stream, configurable: true, enumerable: true });
  syncBuiltinESMExports();
}

// --- the wire -----------------------------------------------------------------------------------

/** Frames on one socket. Small ones are read where they arrive, without a copy. */
class Wire {
  constructor(fd, deliver) {
    this.deliver = deliver; // (kind, call, head, body); the body is valid until it returns
    this.bodyBytesMax = 0; // until INIT says how large bodies may be
    this.partial = undefined; // the beginning of a frame, in a buffer of its whole size
    this.held = 0; // bytes of it
    const buffer = Buffer.allocUnsafeSlow(BUFFER_BYTES);
    const callback = (count) => this.take(buffer, count);
    this.socket = new Socket({ fd, onread: { buffer, callback } });
    this.socket.on("end", () => exitAtOnce(0));
    this.socket.on("error", () => exitAtOnce(0));
    this.socket.on("close", () => exitAtOnce(0));
  }

  take(buffer, count) {
    for (let at = 0; at < count; ) {
      if (this.partial === undefined && count - at >= HEADER_BYTES) {
        const size = this.sizeOf(buffer, at);
        if (size <= count - at) {
          this.open(buffer.subarray(at, at + size));
          at += size;
          continue;
        }
      }
      at += this.keep(buffer, at, count);
    }
    return true;
  }

  /** Copy what belongs to the frame that is not whole yet; deliver it when it is. */
  keep(buffer, at, count) {
    this.partial ??= Buffer.allocUnsafeSlow(HEADER_BYTES);
    const copied = buffer.copy(this.partial, this.held, at, count);
    this.held += copied;
    if (this.held < this.partial.length) return copied;
    const whole = this.partial;
    const size = this.sizeOf(whole, 0);
    if (size > whole.length) {
      this.partial = Buffer.allocUnsafeSlow(size);
      whole.copy(this.partial);
    } else {
      this.partial = undefined;
      this.held = 0;
      this.open(whole);
    }
    return copied;
  }

  sizeOf(buffer, at) {
    const length = buffer.readUInt32BE(at);
    const headBytes = buffer.readUInt32BE(at + 9);
    const bodyBytes = length - OVERHEAD_BYTES - headBytes;
    if (headBytes > HEAD_BYTES_MAX || bodyBytes < 0 || bodyBytes > this.bodyBytesMax) {
      this.broken(`a frame of ${headBytes} + ${bodyBytes} bytes`);
    }
    return 4 + length;
  }

  open(frame) {
    const middle = HEADER_BYTES + frame.readUInt32BE(9);
    const head = middle > HEADER_BYTES ? frame.toString("utf8", HEADER_BYTES, middle) : "{}";
    const kind = frame[4];
    this.deliver(kind, frame.readUInt32BE(5), JSON.parse(head), frame.subarray(middle));
    if (kind === INIT) frame.fill(0); // it brought secrets
  }

  /** Send one frame. The body is a string or a buffer. */
  send(kind, call, head, body = "") {
    let text = head === undefined ? "" : JSON.stringify(head);
    let headBytes = Buffer.byteLength(text);
    if (headBytes > HEAD_BYTES_MAX) {
      text = smaller(head);
      headBytes = Buffer.byteLength(text);
    }
    const middle = HEADER_BYTES + headBytes;
    const bodyBytes = Buffer.byteLength(body);
    const frame = Buffer.allocUnsafe(middle + bodyBytes);
    frame.writeUInt32BE(OVERHEAD_BYTES + headBytes + bodyBytes, 0);
    frame[4] = kind;
    frame.writeUInt32BE(call, 5);
    frame.writeUInt32BE(headBytes, 9);
    if (headBytes > 0) frame.write(text, HEADER_BYTES);
    if (typeof body === "string") frame.write(body, middle);
    else body.copy(frame, middle);
    this.socket.write(frame);
  }

  /** The executor broke the protocol, or this shim did: end, saying why. */
  broken(what) {
    writeWhole(2, Buffer.from(`hearth: the wire broke: ${what}\n`));
    exitAtOnce(70);
  }
}

/** The head of an ERROR cut down until it fits. */
function smaller(head) {
  const trace = head.trace.slice(0, 40).map((line) => line.slice(0, 200));
  const found = head.found?.map((name) => name.slice(0, 100));
  return JSON.stringify({ ...head, message: `${head.message.slice(0, 2048)}…`, trace, found });
}

main();
