// What conformance tests ask of a Node function that streams. streaming.py says what a step means.

import { existsSync } from "node:fs";
import { setTimeout } from "node:timers/promises";
const here = import.meta.dirname;
const is = (step, name) => step !== null && typeof step === "object" && name in step;

function valueOf(step) {
  if (is(step, "bytes")) return Buffer.alloc(step.bytes, "x");
  if (is(step, "raise")) throw new RangeError(step.raise);
  return is(step, "odd") ? 10n : step;
}

export async function* asynchronous(event) {
  try {
    for (const step of Array.isArray(event) ? event : JSON.parse(event.body)) {
      if (is(step, "wait")) while (!existsSync(`${here}/${step.wait}`)) await setTimeout(2);
      else if (is(step, "write")) console.log(step.write);
      else yield valueOf(step);
    }
  } finally {
    console.log("over");
  }
}

// Node streams from every kind of iterator: a handler that is not async returns one.
export const synchronous = (event) => {
  const steps = asynchronous(event);
  const next = () => steps.next();
  return { next, return: () => steps.return(), [Symbol.asyncIterator]: () => steps };
};

export const returned = async (event) => asynchronous(event);
