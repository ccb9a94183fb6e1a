// Frames on the socket to the executor (runtimes/PROTOCOL.md).

import { Socket } from "node:net";
import { exitAtOnce, writeWhole } from "./output.mjs";

export const [INIT, CALL, CANCEL] = [1, 2, 3];
export const [HELLO, READY, INIT_ERROR, RESULT, ERROR] = [16, 17, 18, 19, 20];
export const HEAD_BYTES_MAX = 128 * 1024;
const HEADER_BYTES = 13; // length u32, type u8, call u32, head_length u32
const OVERHEAD_BYTES = 9; // of them, counted by length
const BUFFER_BYTES = 64 * 1024;

/** Frames on one socket. Small ones are read where they arrive, without a copy. */
export class Wire {
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
