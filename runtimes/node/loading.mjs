// From INIT to a handler: environment, module, function, or what is there instead.

import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { setFlagsFromString } from "node:v8";
import { syntaxTrace } from "./errors.mjs";

const FOUND_MAX = 100;
const KEPT_ENV = new Set(["PATH", "LANG", "LC_ALL", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"]);
const SUFFIXES = [".mjs", ".js", ".cjs"];

export const TASK = process.env.HEARTH_TASK ?? "/var/task";

export class HandlerNotFound extends Error {
  name = "HandlerNotFound";

  constructor(message, found) {
    super(message);
    this.found = found.sort().slice(0, FOUND_MAX);
  }
}

/** Of the environment this process was started with little is the function's to see. */
export function clearEnvironment() {
  for (const name of Object.keys(process.env)) {
    if (!KEPT_ENV.has(name)) delete process.env[name];
  }
}

export function applyEnvironment(head) {
  Object.assign(process.env, head.env, {
    LAMBDA_TASK_ROOT: TASK,
    _HANDLER: head.handler,
    AWS_LAMBDA_FUNCTION_NAME: head.function,
    AWS_LAMBDA_FUNCTION_VERSION: head.version,
    AWS_LAMBDA_FUNCTION_MEMORY_SIZE: head.memory_mb,
    HEARTH_NAMESPACE: head.namespace,
    TMPDIR: "/tmp",
    HOME: "/tmp",
  });
}

/**
 * Collect garbage as a small machine would. V8 sized its heap when the stem booted, for a machine
 * as large as the host, and would let garbage fill the function's memory before it looks at it.
 */
export function boundHeap(memoryMb) {
  if (memoryMb <= 1024) setFlagsFromString("--semi-space-growth-factor=1");
  if (memoryMb <= 256) setFlagsFromString("--heap-growing-percent=20");
}

/** The function that `path/module.name` (or `.name.of.a.property`) names. */
export async function findHandler(name, root = TASK) {
  const match = /^((?:.*\/)?[^./]+)\.([^/]+)$/.exec(name);
  const wanted = `handler ${JSON.stringify(name)}`;
  if (!match) throw new HandlerNotFound(`${wanted} is not module.function`, modulesIn(root));
  const [, module, attribute] = match;
  const [found, exports] = await findExport(module, attribute, root);
  if (typeof found === "function") return found;
  const what = found === undefined ? "does not exist" : "is not a function";
  throw notFound(module, attribute, what, exports);
}

/** What `path/module:name` (or `:name.of.a.property`) names: an application, or its promise. */
export async function findApplication(name) {
  const match = /^([^:]*[^:/]):([^:/]+)$/.exec(name);
  const wanted = `handler ${JSON.stringify(name)}`;
  if (!match) throw new HandlerNotFound(`${wanted} is not module:export`, modulesIn(TASK));
  const [, module, attribute] = match;
  const [found, exports] = await findExport(module, attribute, TASK);
  if (found !== undefined) return { found };
  throw notFound(module, attribute, "does not exist", exports);
}

function notFound(module, attribute, what, exports) {
  const message = `${JSON.stringify(attribute)} in module ${JSON.stringify(module)} ${what}`;
  return new HandlerNotFound(message, functionsIn(exports));
}

async function findExport(module, attribute, root) {
  const file = SUFFIXES.map((suffix) => join(root, module + suffix)).find(existsSync);
  if (!file) {
    throw new HandlerNotFound(`no module ${JSON.stringify(module)} in the code`, modulesIn(root));
  }
  const exports = await load(file);
  const keys = attribute.split(".");
  const at = (root) => keys.reduce((value, key) => value?.[key], root);
  return [at(exports) ?? at(exports.default), exports];
}

/** Import a file; Node decides whether it is an ES module or CommonJS. */
async function load(file) {
  try {
    return await import(pathToFileURL(file));
  } catch (error) {
    if (error instanceof SyntaxError && !String(error.stack).includes(TASK)) {
      const trace = syntaxTrace([file, ...codeIn(TASK)]);
      if (trace) error.stack = trace.join("\n");
    }
    throw error;
  }
}

/** Paths of the function's own files. */
function codeIn(folder) {
  const entries = readdirSync(folder, { withFileTypes: true }).filter(
    ({ name }) => name !== "node_modules" && !name.startsWith("."),
  );
  return entries.flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return codeIn(path);
    return entry.isFile() && /\.[cm]?js$/.test(path) ? [path] : [];
  });
}

function modulesIn(folder) {
  const names = readdirSync(folder).filter((name) => /^[^.].*\.[cm]?js$/.test(name));
  return [...new Set(names.map((name) => name.replace(/\.[cm]?js$/, "")))];
}

function functionsIn(exports) {
  const all = Object.assign(Object.create(null), exports.default, exports);
  return Object.keys(all).filter((name) => typeof all[name] === "function" && name !== "default");
}
