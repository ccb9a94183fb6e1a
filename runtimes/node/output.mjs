// Output and end of the process: nothing that was written is lost, nothing delays the end.

import * as fs from "node:fs";
import { syncBuiltinESMExports } from "node:module";
import { Writable } from "node:stream";

const LINE_FEED = 10;
const UNFINISHED_BYTES_MAX = 256 * 1024; // of one line; more of it becomes a line of its own

// Kept from before user code could replace them. Unlike exit() it runs no handlers of theirs.
export const exitAtOnce = process.reallyExit.bind(process);
const { writeSync } = fs;

/** Writes at once and whole: nothing is buffered when the answer leaves or the process dies. */
class Output extends Writable {
  #lines; // once calls run side by side

  constructor(fd) {
    super();
    this.fd = fd;
  }

  /** Tag what is written from now on; the way to do so. */
  static tag(output, callOf, isRunning) {
    output.#lines = new Lines(output.fd, callOf, isRunning);
    return output.#lines;
  }

  // Nothing is ever held back, so that a write is known to be the call's that makes it.
  cork() {}

  uncork() {}

  _write(chunk, encoding, done) {
    if (this.#lines === undefined) writeWhole(this.fd, chunk);
    else this.#lines.write(chunk);
    done();
  }
}

/** Whole lines, each tagged with the number of the call that wrote it. */
class Lines {
  constructor(fd, callOf, isRunning) {
    this.fd = fd;
    this.callOf = callOf; // the number of the call whose context this is, or undefined
    this.isRunning = isRunning;
    this.unfinished = new Map(); // call -> {parts, bytes} of the line it has not ended yet
  }

  write(chunk) {
    const call = this.callOf();
    if (call === undefined) {
      writeWhole(this.fd, chunk);
      return;
    }
    const end = chunk.lastIndexOf(LINE_FEED) + 1;
    if (end > 0) this.say(call, [...this.taken(call), chunk.subarray(0, end)]);
    if (end < chunk.length) this.keep(call, Buffer.from(chunk.subarray(end)));
  }

  keep(call, part) {
    const line = this.unfinished.get(call) ?? { parts: [], bytes: 0 };
    line.parts.push(part);
    line.bytes += part.length;
    this.unfinished.set(call, line);
    // A call that is over is never flushed again.
    if (line.bytes > UNFINISHED_BYTES_MAX || !this.isRunning(call)) this.flush(call);
  }

  flush(call) {
    if (this.unfinished.has(call)) this.say(call, [...this.taken(call), Buffer.from("\n")]);
  }

  taken(call) {
    const parts = this.unfinished.get(call)?.parts ?? [];
    this.unfinished.delete(call);
    return parts;
  }

  /** Write lines, the last of which ends, with a tag before each. */
  say(call, parts) {
    const tag = `\x1e${call}\x1f`;
    const text = Buffer.concat(parts).latin1Slice(); // bytes as they are
    const tagged = `${tag}${text.slice(0, -1).replaceAll("\n", `\n${tag}`)}\n`;
    writeWhole(this.fd, Buffer.from(tagged, "latin1"));
  }
}

export function writeWhole(fd, chunk) {
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

const outputs = [];

/** process.stdout as Node makes it may still hold output when an answer is ready. */
export function replaceOutput(name, fd) {
  const output = new Output(fd);
  outputs.push(output);
  Object.defineProperty(process, name, { get: () => output, configurable: true, enumerable: true });
  syncBuiltinESMExports();
}

/** From now on every line says whose it is. What is returned ends a call's unfinished lines. */
export function tagLines(callOf, isRunning) {
  const all = outputs.map((output) => Output.tag(output, callOf, isRunning));
  return (call) => all.forEach((lines) => lines.flush(call));
}
