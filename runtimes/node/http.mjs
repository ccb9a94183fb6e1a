// Events and results: JSON, and HTTP in AWS's payload format 2.0 both ways (runtimes/PROTOCOL.md).

import { isUtf8 } from "node:buffer";
import { inspect } from "node:util";
import { describe } from "./errors.mjs";
import { HEAD_BYTES_MAX } from "./wire.mjs";

// Kept from before user code could replace them.
const { parse, stringify } = JSON;

export class Invalid extends Error {
  constructor(message, type = "Runtime.MarshalError") {
    super(message);
    this.type = type;
  }
}

/** The JSON of what a handler returned; Invalid when there is none. */
export function encode(result) {
  if (result === undefined) return "null";
  const iterates = result?.[Symbol.asyncIterator] ?? result?.[Symbol.iterator];
  if (iterates && typeof result.next === "function") {
    throw new Invalid("a generator can be returned as it is, but not inside of a response");
  }
  let text;
  try {
    text = stringify(result);
  } catch (error) {
    throw new Invalid(`the result is not JSON: ${describe(error).message}`);
  }
  if (text === undefined) throw new Invalid(`the result is not JSON: it is a ${typeof result}`);
  return text;
}

// --- in ----------------------------------------------------------------------------------------

const JSON_TYPE = "application/json";
const TEXT_TYPE =
  /^(text\/|application\/(json|xml|javascript|x-www-form-urlencoded)$)|\+(json|xml)$/;
const MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(" ");

/** What the handler gets; throws when an event is not JSON. */
export function parseEvent(head, body, functionName) {
  if (head.kind === "http") return httpEvent(head, body, functionName);
  if (body.length === 0) return {};
  const text = body.toString();
  if (isDamaged(text, body)) throw new SyntaxError("the event is not UTF-8");
  return parse(text);
}

/** Whether bytes are not UTF-8: then their text has replacement characters. */
function isDamaged(text, bytes) {
  return text.includes("\ufffd") && !isUtf8(bytes);
}

/** A request in AWS's payload format 2.0. */
function httpEvent(head, body, functionName) {
  const { http } = head;
  const headers = joined(http.headers, (name) => (name === "cookie" ? "; " : ","));
  const path = unescape(http.path);
  const event = {
    version: "2.0",
    routeKey: "$default",
    rawPath: path,
    rawQueryString: http.query,
    headers,
    requestContext: requestContext(head, headers, path, functionName),
    isBase64Encoded: false,
  };
  if (headers.cookie !== undefined) {
    const parts = headers.cookie.split(";").map((part) => part.trim());
    event.cookies = parts.filter((part) => part !== "");
  }
  if (http.query) event.queryStringParameters = queryParameters(http.query);
  if (body.length > 0) addBody(event, headers["content-type"] ?? "", body);
  return event;
}

function requestContext(head, headers, path, functionName) {
  const { http } = head;
  const now = Date.now();
  return {
    accountId: "anonymous",
    apiId: functionName,
    domainName: http.host,
    domainPrefix: http.host.split(":")[0].split(".")[0],
    http: {
      method: http.method,
      path,
      protocol: http.protocol,
      sourceIp: http.source_ip,
      userAgent: headers["user-agent"] ?? "",
    },
    requestId: head.id,
    routeKey: "$default",
    stage: "$default",
    time: timeOf(now),
    timeEpoch: now,
  };
}

const latest = { second: 0, text: "" };

/** As in a server's log, 26/Nov/2026:18:44:31 +0000; made once for each second. */
function timeOf(now) {
  const second = Math.floor(now / 1000);
  if (second !== latest.second) {
    const [, year, month, day, clock] = /(.*)-(.*)-(.*)T(.{8})/.exec(new Date(now).toISOString());
    latest.second = second;
    latest.text = `${day}/${MONTHS[month - 1]}/${year}:${clock} +0000`;
  }
  return latest.text;
}

/** The body as text where its type says text and its bytes agree, else as base64. */
function addBody(event, contentType, body) {
  const plain = contentType === JSON_TYPE || isText(bareType(contentType));
  const text = plain ? body.toString() : undefined;
  event.isBase64Encoded = !plain || isDamaged(text, body);
  event.body = event.isBase64Encoded ? body.toString("base64") : text;
}

/** Whether a bare content type is one of text. */
export function isText(type) {
  return TEXT_TYPE.test(type);
}

export function bareType(contentType) {
  return contentType.split(";")[0].trim().toLowerCase();
}

function queryParameters(query) {
  const pairs = query.split("&").filter((pair) => pair !== "");
  const decoded = pairs.map((pair) => {
    const [name, ...value] = pair.replaceAll("+", " ").split("=");
    return [unescape(name), unescape(value.join("="))];
  });
  return joined(decoded, () => ",");
}

/** Pairs as an object; values of a repeated name are joined. Safe for names like __proto__. */
function joined(pairs, glue) {
  const found = new Map();
  for (const [name, value] of pairs) {
    found.set(name, found.has(name) ? `${found.get(name)}${glue(name)}${value}` : value);
  }
  return Object.fromEntries(found);
}

/** Percent-decoding that never fails: what is not UTF-8 becomes U+FFFD. */
function unescape(text) {
  if (!text.includes("%")) return text;
  const bytes = Buffer.from(text).toString("latin1");
  const byte = (_, digits) => String.fromCharCode(Number.parseInt(digits, 16));
  return Buffer.from(bytes.replace(/%([0-9a-fA-F]{2})/g, byte), "latin1").toString();
}

// --- out ---------------------------------------------------------------------------------------

const HEADER_NAME = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;
const HEADER_VALUE = /^[^\x00-\x08\x0a-\x1f\x7f]*$/; // eslint-disable-line no-control-regex
export const TOO_LARGE = "Function.ResponseSizeTooLarge";
const STRING_BYTES_MAX = 3; // that one UTF-16 unit becomes in UTF-8
const BASE64 = /^[A-Za-z0-9+/]*$/;

/** Head and body of the response that a result describes; Invalid says what is wrong. */
export function httpResponse(result) {
  const status = result?.statusCode;
  if (typeof result !== "object" || Array.isArray(result) || status === undefined) {
    return [{ status: 200, headers: [["content-type", JSON_TYPE]] }, encode(result)];
  }
  const number = typeof status === "string" && /^\d{3}$/.test(status) ? Number(status) : status;
  if (!Number.isInteger(number) || number < 100 || number > 599) {
    throw new Invalid(`statusCode ${picture(status)} is not a number from 100 to 599`);
  }
  const headers = responseHeaders(result.headers ?? {}, result.cookies ?? []);
  if (!headers.some(([name]) => name === "content-type")) {
    headers.push(["content-type", JSON_TYPE]);
  }
  return [{ status: number, headers }, responseBody(result.body, result.isBase64Encoded)];
}

/** Every header as a pair of lower-case name and value. */
function responseHeaders(headers, cookies) {
  if (typeof headers !== "object" || Array.isArray(headers)) {
    throw new Invalid(`headers is ${picture(headers)}, not an object`);
  }
  if (!Array.isArray(cookies)) throw new Invalid(`cookies is ${picture(cookies)}, not a list`);
  const pairs = [];
  for (const [name, given] of Object.entries(headers)) {
    if (given === undefined) continue; // as JSON would
    for (const value of Array.isArray(given) ? given : [given]) {
      pairs.push([name.toLowerCase(), headerText(name, value)]);
    }
  }
  for (const cookie of cookies) {
    if (typeof cookie !== "string") {
      throw new Invalid(`a cookie is ${picture(cookie)}, not a string`);
    }
    pairs.push(["set-cookie", headerText("set-cookie", cookie)]);
  }
  return pairs;
}

function headerText(name, value) {
  const plain = typeof value === "boolean" || Number.isFinite(value) ? String(value) : value;
  if (typeof plain !== "string") {
    throw new Invalid(`header ${picture(name)} is ${picture(value)}, not a string`);
  }
  if (!HEADER_NAME.test(name) || !HEADER_VALUE.test(plain)) {
    throw new Invalid(`header ${picture(name)}: ${picture(plain)} cannot be sent`);
  }
  return plain;
}

function responseBody(body, encoded) {
  if (![undefined, null, true, false].includes(encoded)) {
    throw new Invalid(`isBase64Encoded is ${picture(encoded)}, not true or false`);
  }
  if (body === undefined || body === null) return "";
  if (ArrayBuffer.isView(body) || body instanceof ArrayBuffer) {
    throw new Invalid("body is bytes: encode it as base64 text and set isBase64Encoded to true");
  }
  if (typeof body !== "string") return encode(body);
  if (!encoded) return body;
  const compact = body.replace(/\s+|=+\s*$/g, "");
  if (!BASE64.test(compact) || compact.length % 4 === 1) throw new Invalid("body is not base64");
  return Buffer.from(compact, "base64");
}

/** A head's JSON. Refused is what the executor would have to answer by closing the sandbox. */
export function checkedHead(head) {
  const text = stringify(head);
  if (text.length * STRING_BYTES_MAX > HEAD_BYTES_MAX && Buffer.byteLength(text) > HEAD_BYTES_MAX) {
    throw new Invalid("the response's headers are too large", TOO_LARGE);
  }
  return text;
}

export function checkBody(body, bytesMax) {
  if (body.length * STRING_BYTES_MAX <= bytesMax) return;
  const bytes = Buffer.byteLength(body);
  if (bytes > bytesMax) {
    throw new Invalid(`the response has ${bytes} bytes; ${bytesMax} are allowed`, TOO_LARGE);
  }
}

/** A short picture of a value for a message. */
function picture(value) {
  return value !== null && typeof value === "object"
    ? "an object"
    : inspect(value, { maxStringLength: 100 });
}
