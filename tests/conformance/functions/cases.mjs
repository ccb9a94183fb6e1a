// What conformance tests ask of a Node function. cases.py says what each case does.

import { execFileSync } from "node:child_process";
import { writeSync } from "node:fs";
import { setTimeout } from "node:timers/promises";

globalThis.loaded = (globalThis.loaded ?? 0) + 1;
let calls = 0;

const cases = {
  echo: (event) => event.value,
  nothing: () => undefined,
  count: () => [globalThis.loaded, calls],
  repeat: (event) => "x".repeat(event.times),
  later: (event) => setTimeout(1, event.value),
  environment: () => ({ env: { ...process.env }, cwd: process.cwd() }),
  facts: (event, context) => ({
    id: context.awsRequestId,
    name: context.functionName,
    version: context.functionVersion,
    memory: context.memoryLimitInMB,
    arn: context.invokedFunctionArn,
    group: context.logGroupName,
    stream: context.logStreamName,
    deadline: context.deadline,
    remaining: context.getRemainingTimeInMillis(),
    trace: context.traceparent,
  }),
  write: (event) => {
    process.stdout.write((event.out ?? "").repeat(event.times ?? 1));
    process.stderr.write(event.err ?? "");
  },
  write_raw: (event) => {
    writeSync(1, Buffer.from(event.bytes, "base64"));
  },
  run: (event) => {
    execFileSync(event.command[0], event.command.slice(1), { stdio: "inherit" });
  },
  fail: (event) => {
    throw new RangeError(event.message);
  },
};

function http(event) {
  if (event.rawPath === "/as-told") return JSON.parse(event.body);
  if (event.rawPath === "/body") {
    const headers = { "content-type": "application/octet-stream" };
    return { statusCode: 200, headers, body: event.body, isBase64Encoded: event.isBase64Encoded };
  }
  return event;
}

export const handler = async (event, context) => {
  calls += 1;
  return "requestContext" in event ? http(event) : cases[event.do](event, context);
};
