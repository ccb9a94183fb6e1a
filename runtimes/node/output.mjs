// Output and end of the process: nothing that was written is lost, nothing delays the end.

import { writeSync } from "node:fs";
import { syncBuiltinESMExports } from "node:module";
import { Writable } from "node:stream";

// Kept from before user code could replace it. Unlike exit() it runs no handlers of theirs.
export const exitAtOnce = process.reallyExit.bind(process);

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

/** process.stdout as Node makes it may still hold output when an answer is ready. */
export function replaceOutput(name, fd) {
  const stream = new Output(fd);
  Object.defineProperty(process, name, { get: () => stream, configurable: true, enumerable: true });
  syncBuiltinESMExports();
}
