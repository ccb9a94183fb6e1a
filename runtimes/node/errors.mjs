// What went wrong, as type, message and the user's part of the stack, all bounded.

import { spawnSync } from "node:child_process";
import { inspect, types } from "node:util";

const MESSAGE_CHARS_MAX = 16 * 1024;
const TRACE_LINES_MAX = 100;
const CAUSES_MAX = 5;
const SYNTAX_CHECKS_MAX = 50;
const SYNTAX_CHECKS_MS_MAX = 4000;
const SHIM = new URL(".", import.meta.url).href;

/** The head of an ERROR: type, message and the user's part of the stack, bounded. */
export function failure(code, error, type) {
  const facts = describe(error);
  return { code, ...facts, type: type ?? facts.type };
}

/** Type, message and trace of anything thrown. Its getters may throw too. */
export function describe(error) {
  try {
    if (!types.isNativeError(error) && !(error instanceof Error)) {
      const message = typeof error === "string" ? error : inspect(error, { depth: 2 });
      return { type: typeof error, message: cut(message), trace: [] };
    }
    const type = String(error.name || error.constructor.name).slice(0, 256);
    return { type, message: cut(String(error.message)), trace: userTrace(error) };
  } catch {
    return { type: "Error", message: "<the error's own properties throw>", trace: [] };
  }
}

function cut(text) {
  return text.length <= MESSAGE_CHARS_MAX ? text : `${text.slice(0, MESSAGE_CHARS_MAX)}…`;
}

/** The lines of the stack, and of its causes', without frames of this file and of Node's own. */
function userTrace(error) {
  const lines = [];
  for (let [at, depth] = [error, 0]; at && depth < CAUSES_MAX; at = at.cause, depth += 1) {
    const text = cut(typeof at.stack === "string" ? at.stack : inspect(at, { depth: 1 }));
    const own = text.split("\n").filter((line) => !isInternal(line));
    if (depth > 0) own[0] = `Caused by: ${own[0]}`;
    lines.push(...own);
  }
  return lines.slice(0, TRACE_LINES_MAX).map((line) => line.slice(0, 1000));
}

function isInternal(line) {
  return /^\s+at /.test(line) && (line.includes(SHIM) || /[( ]node:/.test(line));
}

/** The place of a syntax error. Node tells it only on the standard error of a process that dies. */
export function syntaxTrace(files) {
  const until = Date.now() + SYNTAX_CHECKS_MS_MAX;
  for (const file of files.slice(0, SYNTAX_CHECKS_MAX)) {
    const options = { encoding: "utf8", timeout: Math.max(1, until - Date.now()), env: {} };
    const { status, stderr } = spawnSync(process.execPath, ["--check", file], options);
    if (status === 1 && stderr.includes("SyntaxError")) {
      const lines = cut(stderr).trimEnd().split("\n");
      return lines.filter((line) => !isInternal(line) && !/^(Node\.js v.*)?$/.test(line));
    }
  }
  return undefined;
}
