// Web applications in place of handlers: Node's own request and response, without a connection.
// Loaded only for a handler named with a colon, `module:export`.

import { IncomingMessage, Server, ServerResponse } from "node:http";
import { Server as SecureServer } from "node:https";
import { Duplex } from "node:stream";
import { inspect } from "node:util";
import { isUtf8 } from "node:buffer";
import { Calls, invalid } from "./calls.mjs";
import { Call } from "./context.mjs";
import { failure } from "./errors.mjs";
import { Invalid, TOO_LARGE, checkedHead } from "./http.mjs";
import { NotAnHttpEvent, eventResponse, requestOf } from "./requests.mjs";
import { Cancelled, Outlet } from "./streaming.mjs";
import { RESULT } from "./wire.mjs";

// Node says these of a connection, which there is none of.
const OF_CONNECTIONS = new Set(["connection", "keep-alive", "transfer-encoding"]);
const HELD_BYTES_MAX = 64 * 1024; // of a response that may yet come whole

// Kept from before user code could replace them.
const soon = setImmediate;
const { _storeHeader: storeHeader } = ServerResponse.prototype;

export class NotAnApplication extends Error {
  name = "NotAnApplication";
}

class ResponseMissing extends Error {
  name = "ResponseMissing";
}

/** What takes (request, response) of the application that a module exports. */
export async function listenerOf(exported, name) {
  const app = await exported;
  if (typeof app === "function") {
    if (!/^class\b/.test(Function.prototype.toString.call(app))) return app;
    throw new NotAnApplication(`${name} is a class: export an application that is made of it`);
  }
  if (app instanceof Server || app instanceof SecureServer) return emitting(app);
  const has = (method) => typeof app?.[method] === "function";
  if (has("routing") && has("ready")) {
    await app.ready(); // Fastify
    return (req, res) => app.routing(req, res);
  }
  if (has("callback") && has("use")) return app.callback(); // Koa
  if (has("initialize") && app.listener instanceof Server) {
    await app.initialize(); // hapi
    return emitting(app.listener);
  }
  const kinds = "a function (request, response), an http.Server, or an Express, Connect, Koa, ";
  const told = `export ${kinds}Fastify or hapi application`;
  throw new NotAnApplication(`${name} is ${inspect(app, { depth: 0 }).slice(0, 100)}: ${told}`);
}

function emitting(server) {
  return (req, res) => {
    if (!server.emit("request", req, res)) {
      throw new NotAnApplication("the server hears no request");
    }
  };
}

/** Calls that an application answers. */
export class ApplicationCalls extends Calls {
  run(number, head, body) {
    const call = new Call(number, head.kind === "http");
    this.running.set(number, call);
    let request;
    try {
      request = requestOf(head, body, this.facts.functionName);
    } catch (error) {
      const type = error instanceof NotAnHttpEvent ? error.name : "Runtime.UnmarshalError";
      this.refuse(call, failure("function_error", error, type));
      return;
    }
    const exchange = new (request.form ? EventExchange : Exchange)(this, call, request);
    exchange.begin(this.handler);
  }
}

/** The connection that request and response believe to have. */
class Connection extends Duplex {
  constructor(request, exchange) {
    super({ autoDestroy: false });
    this.exchange = exchange;
    this.remoteAddress = request.sourceIp;
    this.remoteFamily = request.sourceIp.includes(":") ? "IPv6" : "IPv4";
    this.remotePort = 0;
    this.encrypted = request.headers.some(([n, v]) => n === "x-forwarded-proto" && v === "https");
    this.on("error", () => {}); // request and response tell of it
  }

  _read() {}

  _write(chunk, encoding, done) {
    this.exchange.write(chunk, done);
  }

  // Time is the platform's to watch.
  setTimeout() {
    return this;
  }

  setNoDelay() {
    return this;
  }

  setKeepAlive() {
    return this;
  }

  ref() {
    return this;
  }

  unref() {
    return this;
  }

  address() {
    return {};
  }

  destroySoon() {
    this.destroy();
  }
}

/** One request and its response, which is a RESULT if it comes whole and CHUNKs otherwise. */
class Exchange {
  constructor(calls, call, request) {
    this.calls = calls;
    this.call = call;
    this.form = request.form;
    this.head = undefined; // of the response
    this.held = []; // its first bytes, while they may be all there is
    this.heldBytes = 0;
    this.isOver = false; // answered, or about to be
    this.connection = new Connection(request, this);
    this.req = incoming(this.connection, request);
    this.res = this.outgoing();
    this.res.on("finish", () => this.finish());
    this.connection.on("close", () => {
      if (!this.isOver) this.fail(new ResponseMissing("the application closed the connection"));
    });
    this.connection.on("drain", () => this.res.emit("drain"));
    call.stop = () => this.leave();
  }

  /** A response whose head is told apart from its body, and whose body travels as it is. */
  outgoing() {
    const res = new ServerResponse(this.req);
    res.sendDate = false; // the platform's
    // Properties of the object itself: frameworks give it another prototype.
    res._storeHeader = (line, headers) => {
      storeHeader.call(res, line, headers);
      res.chunkedEncoding = false;
      res._headerSent = true;
      this.open(res.statusCode, res._header);
    };
    // What HTTP would say before the response has no place in a call.
    res.writeContinue = res.writeProcessing = () => {};
    res.writeEarlyHints = (hints, done) => done?.();
    res.assignSocket(this.connection);
    return res;
  }

  begin(listener) {
    let result;
    try {
      result = listener(this.req, this.res);
    } catch (error) {
      this.raised(error);
    }
    if (typeof result?.then === "function") result.then(undefined, (error) => this.raised(error));
    this.watchIdle();
  }

  /** When nothing is left that could answer, nothing will. Another call might, where there are. */
  watchIdle() {
    if (this.isOver || this.calls.local) return;
    this.calls.whenIdle(this.call, () =>
      this.fail(new ResponseMissing("the application has nothing left to do and did not answer")),
    );
  }

  open(status, text) {
    try {
      const lines = text.split("\r\n").slice(1, -2);
      const headers = lines.map(headerOf).filter(([name]) => !OF_CONNECTIONS.has(name));
      this.head = { status, headers };
      checkedHead(this.head);
    } catch (error) {
      this.fail(error);
    }
  }

  write(chunk, done) {
    if (this.isOver) done();
    else if (this.call.outlet) this.send(chunk, done);
    else this.hold(chunk, done);
  }

  /** Wait a moment whether that was all. */
  hold(chunk, done) {
    const isFirst = this.held.length === 0;
    if (isFirst) soon(() => this.calls.as(this.call, () => this.flush()));
    this.held.push(Buffer.from(chunk)); // whose memory is the application's again after `done`
    this.heldBytes += chunk.length;
    if (isFirst || chunk.length === 0 || this.heldBytes <= HELD_BYTES_MAX) done();
    else this.flush(done);
  }

  /** It was not: what is held leaves, and all that comes later when it comes. */
  flush(done) {
    if (this.isOver || this.call.outlet) return;
    const { call } = this;
    call.outlet = new Outlet(this.calls.wire, call);
    call.outlet.head = this.head;
    this.send(Buffer.concat(this.held), done ?? (() => {}));
    this.held = [];
  }

  send(bytes, done) {
    let isDone = false;
    this.call.outlet.write(bytes, () => {
      isDone = true;
      done();
      if (!this.isOver && !this.call.whenIdle) this.watchIdle();
    });
    // Until there is credit only the wire can wake this process.
    if (!isDone && this.call.whenIdle) this.calls.stayAwake(this.call);
  }

  /** The application has said all. */
  finish() {
    if (this.isOver) return;
    const { calls, call } = this;
    if (!call.outlet && this.heldBytes > calls.wire.bodyBytesMax) this.flush();
    this.isOver = true;
    if (call.outlet) this.afterOutlet(() => calls.end(call));
    else this.answer();
    this.connection.destroy();
  }

  /** Once what was written has left. */
  afterOutlet(act) {
    const { outlet } = this.call;
    if (outlet.rest.length === 0) act();
    else outlet.done = act;
  }

  answer() {
    const { calls, call } = this;
    const body = this.held.length === 1 ? this.held[0] : Buffer.concat(this.held);
    if (calls.close(call)) calls.wire.send(RESULT, call.number, this.head, body);
  }

  /** An error is the answer, unless there is one: then it is for the log. */
  raised(error) {
    if (this.isOver || this.res.writableEnded) process.stderr.write(`${inspect(error)}\n`);
    else this.fail(error);
  }

  fail(error) {
    if (this.isOver) return;
    this.isOver = true;
    const { calls, call } = this;
    const isOurs = error instanceof Invalid || error instanceof ResponseMissing;
    const type = error instanceof ResponseMissing ? "Runtime.ApplicationInvalid" : undefined;
    const problem = isOurs ? invalid(error, type) : failure("function_error", error);
    if (call.outlet) calls.end(call, problem);
    else calls.refuse(call, problem);
    this.connection.destroy();
  }

  /** Nobody waits any more: request and response are closed, as when a client hangs up. */
  leave() {
    if (this.isOver) {
      this.call.outlet?.close(); // what still waits for credit
      return;
    }
    this.isOver = true;
    this.call.outlet?.close();
    const { calls, call } = this;
    this.req.destroy(Object.assign(new Error("aborted"), { code: "ECONNRESET" }));
    this.connection.destroy();
    // After those who hear of it: what they write is still the call's.
    soon(() => {
      const problem = failure("function_error", new Cancelled());
      if (call.outlet) calls.end(call, problem);
      else calls.refuse(call, problem);
    });
  }
}

/** The same for an event: the answer is an object that holds the response. */
class EventExchange extends Exchange {
  hold(chunk, done) {
    this.held.push(Buffer.from(chunk));
    this.heldBytes += chunk.length;
    const most = this.calls.wire.bodyBytesMax;
    if (this.heldBytes > most) {
      this.fail(new Invalid(`the response has more than ${most} bytes`, TOO_LARGE));
    }
    done();
  }

  flush() {}

  answer() {
    const body = Buffer.concat(this.held);
    const { status, headers } = this.head;
    this.calls.finish(this.call, eventResponse(this.form, status, headers, body));
  }
}

function incoming(connection, request) {
  const req = new IncomingMessage(connection);
  req.method = request.method;
  req.url = request.query ? `${request.path}?${request.query}` : request.path;
  req.httpVersion = request.version;
  const [major, minor = 0] = request.version.split(".").map(Number);
  req.httpVersionMajor = major;
  req.httpVersionMinor = minor;
  const lines = request.headers.flat();
  req._addHeaderLines(lines, lines.length);
  req.complete = true;
  if (request.body.length > 0) req.push(request.body);
  req.push(null);
  return req;
}

/** A line of the head as a pair; its bytes, which the text stands for as Latin-1, are kept. */
function headerOf(line) {
  const at = line.indexOf(":");
  const value = line.slice(at + 1).trim();
  const bytes = Buffer.from(value, "latin1");
  const isPlain = bytes.length === Buffer.byteLength(value) || !isUtf8(bytes);
  return [line.slice(0, at).toLowerCase(), isPlain ? value : bytes.toString()];
}
