// Answers that leave piece by piece: generators, and the streams of awslambda.streamifyResponse.
// Both write through an Outlet, which sends no more than the executor has given credit for.

import { Writable } from "node:stream";
import { Invalid, checkedHead, encode, httpResponse } from "./http.mjs";
import { CHUNK } from "./wire.mjs";

const CHUNK_BYTES_MAX = 64 * 1024;
const EMPTY = Buffer.alloc(0);
const OCTETS = "application/octet-stream";

// Once what has arrived has been read. Kept from before user code could replace it.
const soon = setImmediate;

// As in AWS's own runtime: what marks a handler there marks it here.
const STREAMING = Symbol.for("aws.lambda.runtime.handler.streaming");
const CANCEL_PATIENCE_MS = 1000; // for a handler to end by itself once nobody reads
const HIGH_WATER_MARK = Symbol.for("aws.lambda.runtime.handler.streaming.highWaterMark");
const RESPONSE = "response";

export class Cancelled extends Error {
  name = "Cancelled";

  constructor() {
    super("nobody waits for this call any more");
  }
}

/** The chunks of one call: one write at a time, done when there is credit for another. */
export class Outlet {
  constructor(wire, call) {
    this.wire = wire;
    this.number = call.number;
    this.credit = call.credit;
    this.pieceBytesMax = Math.min(CHUNK_BYTES_MAX, wire.bodyBytesMax);
    this.head = { status: 200, headers: [["content-type", OCTETS]] };
    this.hasBegun = false; // its first chunk has left
    this.isOver = false; // nothing more may leave
    this.rest = EMPTY; // of the write under way
    this.done = undefined; // what to do after it
  }

  /** The response whose head this is; returns what it says its body begins with. */
  open(response) {
    const [head, body] = httpResponse(response);
    checkedHead(head);
    this.head = head;
    return Buffer.from(body);
  }

  write(bytes, done) {
    this.rest = bytes;
    this.done = done;
    if (bytes.length === 0) this.begin();
    this.push();
  }

  /** The head leaves, if it has not. */
  begin() {
    if (!this.hasBegun && !this.isOver) this.send(EMPTY);
  }

  add(credit) {
    this.credit += credit;
    this.push();
  }

  push() {
    while (this.rest.length > 0 && this.credit > 0 && !this.isOver) {
      const size = Math.min(this.rest.length, this.credit, this.pieceBytesMax);
      this.send(this.rest.subarray(0, size));
      this.rest = this.rest.subarray(size);
    }
    if (this.isOver || (this.rest.length === 0 && this.credit > 0)) this.release();
  }

  send(piece) {
    const head = this.hasBegun ? undefined : this.head;
    this.hasBegun = true;
    this.credit -= piece.length;
    this.wire.send(CHUNK, this.number, head, piece);
  }

  /** Nothing more is sent; a write that waits for credit is done. */
  close() {
    this.isOver = true;
    this.rest = EMPTY;
    this.release();
  }

  release() {
    const { done } = this;
    this.done = undefined;
    done?.();
  }
}

// --- generators --------------------------------------------------------------------------------

/** Whether a handler's result is to be sent piece by piece. */
export function isIterator(result) {
  if (typeof result?.next !== "function") return false;
  return Boolean(result[Symbol.asyncIterator] ?? result[Symbol.iterator]);
}

/** Send what an iterator yields, asking for more only while there is credit. */
export async function pump(call, iterator) {
  const { outlet } = call;
  let closing;
  call.stop = () => {
    closing ??= close(iterator);
    outlet.close();
  };
  await new Promise(soon); // not yet while reading, when no CANCEL could be seen
  for (let isFirst = true; !call.isCancelled; isFirst = false) {
    const step = await iterator.next();
    await new Promise(soon); // CANCEL may be there, or other calls whose turn it is
    if (call.isCancelled) break;
    if (Object(step) !== step) throw new TypeError(`an iterator's step is ${typeof step}`);
    if (step.done) return;
    try {
      // Iterators that are not async may yield promises.
      const value = typeof step.value?.then === "function" ? await step.value : step.value;
      const bytes = isFirst && isResponse(value) ? outlet.open(value) : bytesOf(value);
      await new Promise((done) => outlet.write(bytes, done));
    } catch (error) {
      await (closing ?? close(iterator)).catch(() => {});
      throw error;
    }
  }
  await (closing ?? close(iterator));
  throw new Cancelled();
}

/** Let a generator run its `finally`. */
function close(iterator) {
  const closed = (async () => iterator.return?.())();
  closed.catch(() => {}); // who awaits it hears of it
  return closed;
}

function isResponse(value) {
  return typeof value === "object" && !isBytes(value) && value?.statusCode !== undefined;
}

function isBytes(value) {
  return ArrayBuffer.isView(value) || value instanceof ArrayBuffer;
}

/** Bytes as they are, text as UTF-8, any other value as its JSON and a line feed. */
function bytesOf(value) {
  if (typeof value === "string") return Buffer.from(value);
  if (value instanceof ArrayBuffer) return Buffer.from(value);
  if (!ArrayBuffer.isView(value)) return Buffer.from(`${encode(value)}\n`);
  return Buffer.from(value.buffer, value.byteOffset, value.byteLength);
}

// --- awslambda ---------------------------------------------------------------------------------

class ResponseStream extends Writable {
  #outlet;
  #closed;

  /** `closed` is told once that nothing more comes, and the error if that is not the end. */
  constructor(outlet, highWaterMark, closed) {
    super({ highWaterMark });
    this.#outlet = outlet;
    this.#closed = closed;
    this.on("error", () => {}); // the call's answer tells of it
  }

  setContentType(type) {
    const { head } = this.#outlet;
    this.#setHead({ statusCode: head.status, headers: { "content-type": type } });
    const others = head.headers.filter(([name]) => name !== "content-type");
    this.#outlet.head.headers.push(...others);
  }

  /** What awslambda.HttpResponseStream.from sets: the head, which leaves with the first write. */
  static setHead(stream, { statusCode = 200, headers, cookies }) {
    stream.#setHead({ statusCode, headers, cookies });
    // Or, when that is not soon, without it.
    soon(() => stream.#outlet.begin());
  }

  #setHead(response) {
    if (this.#outlet.hasBegun) throw new Error("the response's head has already been sent");
    this.#outlet.open(response);
  }

  write(chunk, encoding, done) {
    return super.write(written(chunk), encoding, done);
  }

  end(chunk, encoding, done) {
    return super.end(written(chunk), encoding, done);
  }

  _write(chunk, encoding, done) {
    this.#outlet.write(chunk, done);
  }

  _final(done) {
    this.#outlet.begin();
    done();
  }

  _destroy(error, done) {
    const early = this.writableFinished ? undefined : new Error("the stream ended too early");
    this.#outlet.close();
    done(error);
    this.#closed(error ?? early);
  }
}

/** What a Writable does not take is written as its JSON, as on AWS. */
function written(chunk) {
  if (chunk instanceof ArrayBuffer) return Buffer.from(chunk);
  if (["string", "undefined", "function"].includes(typeof chunk)) return chunk;
  return chunk === null || ArrayBuffer.isView(chunk) ? chunk : encode(chunk);
}

/** Whether a handler was made by awslambda.streamifyResponse. */
export function isStreaming(handler) {
  return handler[STREAMING] === RESPONSE;
}

/** Run such a handler until its promise and its stream are through. */
export async function runStreaming(handler, event, context, call, whenIdle) {
  let stream;
  const closed = new Promise((resolve, reject) => {
    const settle = (error) => (error ? reject(error) : resolve());
    stream = new ResponseStream(call.outlet, handler[HIGH_WATER_MARK], settle);
  });
  closed.catch(() => {}); // who awaits it hears of it
  // A handler that waits for a "drain" that never comes would hold its sandbox until its deadline.
  let giveUp;
  const givenUp = new Promise((_, reject) => (giveUp = reject));
  givenUp.catch(() => {});
  call.stop = () => {
    stream.destroy(new Cancelled());
    setTimeout(giveUp, CANCEL_PATIENCE_MS, new Cancelled()).unref();
  };
  if (call.isCancelled) call.stop();
  const end = () => stream.writableEnded || stream.destroyed || stream.end();
  try {
    const result = handler(event, stream, context);
    if (typeof result?.then === "function") {
      await Promise.race([result, givenUp]);
      end();
    } else {
      whenIdle(end); // unless it does so itself before
    }
    await closed;
  } catch (error) {
    stream.destroy();
    throw error;
  }
}

/** The global that AWS's runtime has. */
export function installGlobal() {
  globalThis.awslambda = {
    streamifyResponse(handler, options) {
      handler[STREAMING] = RESPONSE;
      const mark = Number.parseInt(options?.highWaterMark, 10);
      if (mark >= 0) handler[HIGH_WATER_MARK] = mark;
      return handler;
    },
    HttpResponseStream: {
      from(stream, metadata = {}) {
        if (!(stream instanceof ResponseStream)) {
          throw new Invalid("HttpResponseStream.from takes the handler's own response stream");
        }
        ResponseStream.setHead(stream, metadata ?? {});
        return stream;
      },
    },
  };
}
