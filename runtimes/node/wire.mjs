// Frames on the socket to the executor (runtimes/PROTOCOL.md).

import * as fs from "node:fs";
import { Socket } from "node:net";
import { exitAtOnce, writeWhole } from "./output.mjs";

export const [INIT, CALL, CANCEL, CREDIT] = [1, 2, 3, 4];
export const [HELLO, READY, INIT_ERROR, RESULT, ERROR, CHUNK, END] = [16, 17, 18, 19, 20, 21, 22];
export const HEAD_BYTES_MAX = 128 * 1024;
const HEADER_BYTES = 13; // length u32, type u8, call u32, head_length u32
const OVERHEAD_BYTES = 9; // of them, counted by length
const READ_BYTES = 64 * 1024; // at once
const FRAME_BYTES = 256 * 1024; // of the frames that are written without a copy
const STRING_BYTES_MAX = 3; // that one UTF-16 unit becomes in UTF-8

// Kept from before user code could replace them.
const { parse, stringify } = JSON;
const { writeSync } = fs;

/** Frames on one socket. Small ones are read where they arrive, and written without a copy. */
export class Wire {
  constructor(fd, deliver) {
    this.fd = fd;
    this.deliver = deliver; // (kind, call, head, body); the body is valid until it returns
    this.bodyBytesMax = 0; // until INIT says how large bodies may be
    this.partial = undefined; // the beginning of a frame, in a buffer of its whole size
    this.held = 0; // bytes of it
    this.frame = Buffer.allocUnsafeSlow(FRAME_BYTES); // where they are made
    const buffer = Buffer.allocUnsafeSlow(READ_BYTES);
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
          this.open(buffer, at, at + size);
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
      this.open(whole, 0, size);
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

  open(buffer, start, end) {
    const kind = buffer[start + 4];
    const from = start + HEADER_BYTES;
    const middle = from + buffer.readUInt32BE(start + 9);
    const head = middle > from ? parse(buffer.toString("utf8", from, middle)) : {};
    this.deliver(kind, buffer.readUInt32BE(start + 5), head, buffer.subarray(middle, end));
    if (kind === INIT) buffer.fill(0, start, end); // it brought secrets
  }

  /** Send one frame. The head is an object, its JSON, or undefined; the body text or a buffer. */
  send(kind, call, head = "", body = "") {
    const text = typeof head === "string" ? head : fitting(head);
    const frame = mostBytes(text) + mostBytes(body) <= FRAME_BYTES - HEADER_BYTES
      ? this.frame
      : Buffer.allocUnsafeSlow(HEADER_BYTES + Buffer.byteLength(text) + Buffer.byteLength(body));
    const headBytes = text === "" ? 0 : frame.write(text, HEADER_BYTES);
    const middle = HEADER_BYTES + headBytes;
    const isText = typeof body === "string";
    const bodyBytes = isText ? frame.write(body, middle) : body.copy(frame, middle);
    frame.writeUInt32BE(OVERHEAD_BYTES + headBytes + bodyBytes, 0);
    frame[4] = kind;
    frame.writeUInt32BE(call, 5);
    frame.writeUInt32BE(headBytes, 9);
    this.write(frame, middle + bodyBytes);
  }

  /** Past the stream's queue as long as that is empty and the kernel takes it. */
  write(frame, size) {
    let at = 0;
    if (this.socket.writableLength === 0) {
      try {
        at = writeSync(this.fd, frame, 0, size);
      } catch (error) {
        if (error.code !== "EAGAIN") exitAtOnce(0); // the executor is gone
      }
      if (at === size) return;
    }
    const rest = frame.subarray(at, size);
    this.socket.write(frame === this.frame ? Buffer.from(rest) : rest);
  }

  /** Do `act` once everything sent has left. */
  afterwards(act) {
    if (this.socket.writableLength === 0) act();
    else this.socket.end(act);
  }

  /** The executor broke the protocol, or this shim did: end, saying why. */
  broken(what) {
    writeWhole(2, Buffer.from(`hearth: the wire broke: ${what}\n`));
    exitAtOnce(70);
  }
}

/** How long text or bytes may become, without counting. */
function mostBytes(body) {
  return typeof body === "string" ? body.length * STRING_BYTES_MAX : body.length;
}

/** The JSON of a head; when that is too large it is the head of an error, and is cut. */
function fitting(head) {
  const text = stringify(head);
  if (mostBytes(text) <= HEAD_BYTES_MAX || Buffer.byteLength(text) <= HEAD_BYTES_MAX) return text;
  const trace = head.trace.slice(0, 40).map((line) => line.slice(0, 200));
  const found = head.found?.map((name) => name.slice(0, 100));
  return stringify({ ...head, message: `${head.message.slice(0, 2048)}…`, trace, found });
}
