// What conformance tests ask of a Node function that takes several calls at once.
// concurrency.py says what a step means.

import { execFileSync } from "node:child_process";
import { writeSync } from "node:fs";
import { once } from "node:events";
console.log("at import");
const gates = {};

function gate(name) {
  if (!gates[name]) {
    gates[name] = {};
    gates[name].opened = new Promise((open) => (gates[name].open = open));
  }
  return gates[name];
}

const aborted = (context) => new Promise((_, reject) => {
  const fail = () => reject(context.signal.reason);
  if (context.signal.aborted) fail();
  else context.signal.addEventListener("abort", fail, { once: true });
});

async function stepOf(step, context) {
  if (step === null || typeof step !== "object") return step;
  const [[action, value]] = Object.entries(step);
  if (action === "wait") await Promise.race([gate(value).opened, aborted(context)]);
  else if (action === "open") gate(value).open();
  else if (action === "out") process.stdout.write(value);
  else if (action === "err") process.stderr.write(value);
  else if (action === "log") console.error(value);
  else if (action === "raise") throw new RangeError(value);
  else if (action === "id") return context.awsRequestId;
  else if (action === "raw") writeSync(1, value);
  else if (action === "run") execFileSync("echo", [value], { stdio: "inherit" });
  else if (action === "task") await new Promise((done) => setImmediate(() => {
    process.stdout.write(value);
    done();
  }));
  else if (action === "stubborn") {
    console.log("begun");
    if (!context.signal.aborted) await once(context.signal, "abort");
    return value;
  }
  return undefined;
}

export async function whole(steps, context) {
  let result;
  for (const step of steps) result = await stepOf(step, context);
  return result;
}

export async function* stream(steps, context) {
  for (const step of steps) {
    const value = await stepOf(step, context);
    if (value !== undefined) yield typeof value === "number" ? "x".repeat(value) : value;
  }
}
