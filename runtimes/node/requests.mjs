// Requests for web applications: from the wire, or from an HTTP event of API Gateway or a load
// balancer; and the object that answers such an event.

import { isUtf8 } from "node:buffer";
import { bareType, isText, parseEvent } from "./http.mjs";

// Beside letters, digits and _.-~ these may stand in a path as they are.
const PATH_UNSAFE = /[^A-Za-z0-9_.~/:@!$&'()*+,;=-]/gu;

const TOKEN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;

export class NotAnHttpEvent extends Error {
  name = "NotAnHttpEvent";
}

/**
 * {method, path, query, headers [[lower-case name, value], …], sourceIp, version, body, form}:
 * `path` is as it was sent, `form` that of the event, undefined for a request over HTTP.
 */
export function requestOf(head, body, name) {
  if (head.kind === "http") {
    const { method, path, query, headers, source_ip: sourceIp, protocol } = head.http;
    const version = protocol.split("/")[1];
    return { method, path, query, headers, sourceIp, version, body: Buffer.from(body) };
  }
  const event = parseEvent(head, body, name);
  const request = fromEvent(event);
  if (request) return request;
  throw new NotAnHttpEvent(
    `${name} is a web application: call it over HTTP at /function/${name}/, or with an HTTP ` +
      "event of API Gateway (payload format 2.0 or 1.0) or of a load balancer",
  );
}

function fromEvent(event) {
  let request;
  try {
    if (event?.version === "2.0" && event.requestContext?.http) request = fromEvent2(event);
    else if (event?.httpMethod && event.path) request = fromEvent1(event);
    else return undefined;
  } catch (error) {
    throw new NotAnHttpEvent(`the event is not a whole HTTP event: ${error.message}`);
  }
  if (TOKEN.test(request.method) && request.path.startsWith("/")) return request;
  throw new NotAnHttpEvent("the event is not a whole HTTP event: no method and path");
}

function fromEvent2(event) {
  const { http } = event.requestContext;
  const headers = Object.entries(event.headers ?? {}).map(asHeader);
  const cookies = event.cookies ?? [];
  if (cookies.length > 0 && !headers.some(([name]) => name === "cookie")) {
    headers.push(["cookie", cookies.join("; ")]);
  }
  const path = escapePath(String(event.rawPath ?? "/"));
  const query = String(event.rawQueryString ?? "");
  const facts = { method: http.method ?? "", path, query, headers, form: "2.0" };
  return { ...facts, sourceIp: String(http.sourceIp ?? ""), ...rest(event) };
}

function fromEvent1(event) {
  const context = event.requestContext ?? {};
  const headers = pairsOf(event.multiValueHeaders ?? event.headers ?? {}).map(asHeader);
  const asked = event.multiValueQueryStringParameters ?? event.queryStringParameters ?? {};
  const pairs = pairsOf(asked);
  // A load balancer leaves the names and values of a query as they were sent.
  const query = context.elb
    ? pairs.map(([name, value]) => `${name}=${value}`).join("&")
    : new URLSearchParams(pairs).toString();
  const facts = { method: event.httpMethod, path: escapePath(event.path), query, headers };
  const sourceIp = String(context.identity?.sourceIp ?? "");
  return { ...facts, form: "1.0", sourceIp, ...rest(event) };
}

function rest(event) {
  const body = Buffer.from(event.body ?? "", event.isBase64Encoded ? "base64" : "utf8");
  return { version: "1.1", body };
}

function pairsOf(object) {
  return Object.entries(object).flatMap(([name, value]) => [value].flat().map((v) => [name, v]));
}

function asHeader([name, value]) {
  return [name.toLowerCase(), String(value)];
}

function escapePath(path) {
  return path.toWellFormed().replace(PATH_UNSAFE, encodeURIComponent);
}

/** The object that answers an event. `headers` are pairs in lower case, `body` bytes. */
export function eventResponse(form, status, headers, body) {
  const several = {};
  for (const [name, value] of headers) (several[name] ??= []).push(value);
  const type = bareType(several["content-type"]?.[0] ?? "");
  const plain = (isText(type) && !several["content-encoding"]) || body.length === 0;
  const encoded = !plain || !isUtf8(body);
  const content = { body: body.toString(encoded ? "base64" : "utf8"), isBase64Encoded: encoded };
  if (form === "1.0") {
    const last = Object.entries(several).map(([name, values]) => [name, values.at(-1)]);
    const both = { headers: Object.fromEntries(last), multiValueHeaders: several };
    return { statusCode: status, ...both, ...content };
  }
  const { "set-cookie": cookies = [], ...others } = several;
  const joined = Object.entries(others).map(([name, values]) => [name, values.join(",")]);
  return { statusCode: status, headers: Object.fromEntries(joined), cookies, ...content };
}
