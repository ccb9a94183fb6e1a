// Calls and their answers: each call is answered once, with a result, an error, or a stream.

import { AsyncLocalStorage } from "node:async_hooks";
import { Call, Context } from "./context.mjs";
import { failure } from "./errors.mjs";
import { Invalid, checkBody, checkedHead, encode, httpResponse, parseEvent } from "./http.mjs";
import { tagLines } from "./output.mjs";
import { Outlet, isIterator, isStreaming, pump, runStreaming } from "./streaming.mjs";
import { END, ERROR, RESULT } from "./wire.mjs";

export class Calls {
  /** `facts` are the same in every call's context; `local` only where calls run side by side. */
  constructor(wire, handler, facts, local) {
    this.wire = wire;
    this.handler = handler;
    this.facts = facts;
    this.local = local;
    this.streams = isStreaming(handler);
    this.running = new Map(); // calls under way, by number
    this.idlers = new Set(); // those of them that wait until nothing else is left to do
    this.flush = local && tagLines(() => local.getStore(), (number) => this.running.has(number));
  }

  answer(number, head, body) {
    if (this.local) this.local.run(number, () => this.run(number, head, body));
    else this.run(number, head, body);
  }

  /** Do `act` as the call: what it writes is the call's. */
  as(call, act) {
    if (this.local) this.local.run(call.number, act);
    else act();
  }

  run(number, head, body) {
    const isHttp = head.kind === "http";
    const call = new Call(number, isHttp);
    this.running.set(number, call);
    let event;
    try {
      event = parseEvent(head, body, this.facts.functionName);
    } catch (error) {
      this.refuse(call, failure("function_error", error, "Runtime.UnmarshalError"));
      return;
    }
    const context = new Context(call, head, this.facts, this);
    try {
      if (this.streams) this.stream(call, event, context);
      else this.invoke(call, event, context);
    } catch (error) {
      this.fail(call, error);
    }
  }

  invoke(call, event, context) {
    const { handler } = this;
    const result = handler(event, context, (error, value) =>
      this.callBack(call, context, error, value),
    );
    if (typeof result?.then === "function") {
      result.then(
        (value) => this.finish(call, value),
        (error) => this.fail(call, error),
      );
    } else if (result !== undefined || handler.length < 2) {
      this.finish(call, result);
    } else if (!call.hasCalledBack) {
      // It may yet call back; when nothing is left that could, the answer is null, as on AWS.
      this.whenIdle(call, () => this.finish(call, null));
    }
  }

  callBack(call, context, error, value) {
    if (call.hasCalledBack) return;
    call.hasCalledBack = true;
    const settle = () => (error ? this.fail(call, error) : this.finish(call, value));
    // Other calls' work is not this one's to wait for.
    if (context.callbackWaitsForEmptyEventLoop && !this.local) this.whenIdle(call, settle);
    else settle();
  }

  // --- answers ---

  finish(call, result) {
    if (call.outlet || !this.running.has(call.number)) return;
    let head;
    let body;
    try {
      if (isIterator(result)) {
        this.open(call, () => pump(call, result));
        return;
      }
      if (call.isHttp) [head, body] = httpResponse(result);
      else body = encode(result);
      if (head) head = checkedHead(head);
      checkBody(body, this.wire.bodyBytesMax);
    } catch (error) {
      this.refuse(call, invalid(error));
      return;
    }
    if (this.close(call)) this.wire.send(RESULT, call.number, head, body);
  }

  fail(call, error) {
    if (call.outlet || !this.running.has(call.number)) return;
    this.refuse(call, failure("function_error", error));
  }

  refuse(call, problem) {
    if (this.close(call)) this.wire.send(ERROR, call.number, problem);
  }

  stream(call, event, context) {
    const whenIdle = (act) => this.whenIdle(call, act);
    this.open(call, () => runStreaming(this.handler, event, context, call, whenIdle));
  }

  /** From here the call's answer is what its outlet sends, until `send` is through. */
  open(call, send) {
    call.outlet = new Outlet(this.wire, call);
    this.as(call, () =>
      send().then(
        () => this.end(call),
        (error) => {
          const isOurs = error instanceof Invalid;
          this.end(call, isOurs ? invalid(error) : failure("function_error", error));
        },
      ),
    );
  }

  end(call, problem) {
    const { outlet } = call;
    if (problem === undefined) outlet.begin();
    outlet.close();
    if (this.close(call)) this.wire.send(outlet.hasBegun ? END : ERROR, call.number, problem);
  }

  /** Once for each call: whatever else it does later is not heard. */
  close(call) {
    if (!this.running.delete(call.number)) return false;
    if (call.whenIdle) this.stayAwake(call);
    this.flush?.(call.number);
    return true;
  }

  // --- what the executor says of a call, which may be over by now ---

  cancel(number) {
    const call = this.running.get(number);
    if (call) this.as(call, () => call.cancel());
  }

  credit(number, bytes) {
    const call = this.running.get(number);
    if (call?.outlet) this.as(call, () => call.outlet.add(bytes));
    else if (call) call.credit += bytes; // it may yet stream
  }

  // --- waiting until the event loop is empty but for the wire, which stops counting until then ---

  whenIdle(call, act) {
    call.whenIdle = act;
    this.idlers.add(call);
    this.wire.socket.unref();
  }

  stayAwake(call) {
    call.whenIdle = undefined;
    this.idlers.delete(call);
    if (this.idlers.size === 0) this.wire.socket.ref();
  }

  settleIdle() {
    const calls = [...this.idlers];
    const acts = calls.map((call) => call.whenIdle);
    for (const call of calls) this.stayAwake(call);
    acts.forEach((act, at) => this.as(calls[at], act));
  }

  /** An error nobody caught ends every call under way; this process does not survive it. */
  failAll(error, type) {
    const problem = { ...failure("function_error", error, type), last: true };
    for (const call of [...this.running.values()]) {
      const hasBegun = call.outlet?.hasBegun;
      if (call.outlet) call.outlet.isOver = true;
      if (this.close(call)) this.wire.send(hasBegun ? END : ERROR, call.number, problem);
    }
  }
}

/** The head of an ERROR about what a handler returned, whose getters may throw anything. */
export function invalid(error, type) {
  type ??= error instanceof Invalid ? error.type : "Runtime.MarshalError";
  return { ...failure("function_response_invalid", error, type), trace: [] };
}

/** Carries the number of the call through whatever it does, where calls run side by side. */
export function localStorage() {
  return new AsyncLocalStorage();
}
