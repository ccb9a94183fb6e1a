// Applications that take (request, response), each a way to answer.
// For tests/conformance/test_node_applications.py.

import { createReadStream, existsSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { Readable, pipeline } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";

const here = [];

/** Its first path segment says what it does. */
export function app(req, res) {
  return routes[req.url.split(/[/?]/)[1]](req, res);
}

async function read(req) {
  const parts = [];
  for await (const part of req) parts.push(part);
  return Buffer.concat(parts);
}

const routes = {
  async tell(req, res) {
    const body = await read(req);
    console.log("told");
    res.writeHead(200, { "Content-Type": "application/json" });
    const { method, url, httpVersion, headers, rawHeaders, complete } = req;
    const { remoteAddress, encrypted } = req.socket;
    const told = { method, url, httpVersion, headers, rawHeaders, complete };
    const text = body.toString("latin1");
    res.end(JSON.stringify({ ...told, body: text, remoteAddress, encrypted }));
  },
  whole(req, res) {
    res.statusCode = 201;
    res.setHeader("Set-Cookie", ["a=1", "b=2"]);
    res.setHeader("X-Raw", Buffer.from("é").toString("latin1"));
    res.writeEarlyHints({ link: "</a.css>; rel=preload" });
    res.writeContinue();
    res.end("whole");
  },
  empty: (req, res) => res.writeHead(204).end(),
  head: (req, res) => res.end("for a GET"),
  large: (req, res) => res.end("x".repeat(Number(req.url.split("?")[1]))),
  several(req, res) {
    res.write("sev");
    res.write(Buffer.from("er"));
    res.addTrailers({ "x-late": "1" });
    res.end("al");
  },
  encoded(req, res) {
    res.setHeader("Transfer-Encoding", "chunked");
    res.setHeader("Trailer", "x-late");
    res.write("as ");
    setTimeout(() => res.end("it is"), 5);
  },
  async stream(req, res) {
    res.setHeader("Content-Type", "text/plain");
    res.flushHeaders();
    for (const name of ["go", "on"]) {
      while (!existsSync(name)) await sleep(5);
      res.write(name);
    }
    res.end("end");
  },
  async endless(req, res) {
    res.on("close", () => console.log(`closed ${res.writableFinished} ${res.destroyed}`));
    for (let number = 0; !res.destroyed; number += 1) {
      console.log(number);
      if (!res.write("x".repeat(65536))) await new Promise((on) => res.once("drain", on));
    }
  },
  piped(req, res) {
    writeFileSync("/tmp/large", "x".repeat(700_000));
    pipeline(createReadStream("/tmp/large"), res, (error) => console.log(`piped ${error}`));
  },
  pumped(req, res) {
    Readable.from(Array.from({ length: 40 }, () => "x".repeat(10_000))).pipe(res);
  },
  waits(req, res) {
    req.on("aborted", () => console.log("aborted"));
    req.on("error", (error) => console.log(error.code));
    res.on("close", () => console.log("closed"));
    res.write("begun");
    setInterval(() => {}, 1000);
  },
  events(req, res) {
    res.on("finish", () => console.log("finish"));
    res.on("close", () => console.log(`close ${res.writableFinished} ${res.headersSent}`));
    res.end("done");
  },
  silent() {},
  unfinished: (req, res) => res.write("some"),
  twice(req, res) {
    res.end("all");
    res.setHeader("x", "y");
  },
  more(req, res) {
    res.end("all");
    res.on("error", (error) => console.log(error.code));
    res.write("more");
  },
  raises() {
    throw new TypeError("no ördér");
  },
  async rejects() {
    await sleep(1);
    throw new TypeError("no ördér");
  },
  async "raises-late"(req, res) {
    res.write("some");
    await sleep(20);
    throw new TypeError("no ördér");
  },
  destroys: (req, res) => res.destroy(),
  "odd-status": (req, res) => res.writeHead(99),
  "odd-name": (req, res) => res.setHeader("bad name", "x"),
  "odd-value": (req, res) => res.setHeader("x", "a\r\nb: c"),
  "odd-size"(req, res) {
    res.writeHead(200, { x: "y".repeat(200_000) });
    res.end("never");
  },
  "odd-body": (req, res) => res.end(7),
  /** Answers once as many requests as its query says are there. */
  meet(req, res) {
    const [path, count] = req.url.split("?");
    console.log(`here ${path}`);
    here.push(() => {
      console.log(`gone ${path}`);
      res.end(path);
    });
    if (here.length === Number(count)) here.splice(0).forEach((go) => go());
  },
};

export const server = createServer(app);
export const deaf = createServer();
export const promised = Promise.resolve(app);
export const koa = { use() {}, callback: () => app };
export const fastify = {
  async ready() {
    this.isReady = true;
  },
  routing(req, res) {
    res.end(`${this.isReady} ${req.url}`);
  },
};
export const hapi = { async initialize() {}, listener: server };
export const broken = { ready: () => Promise.reject(new Error("no database")), routing() {} };
export class Application {}
export const number = 7;
export default { nested: { app } };
