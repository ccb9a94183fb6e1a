// What a handler is told about its call, and the call as the shim keeps it.

const CREDIT_BYTES = 256 * 1024; // of chunks, that a call begins with
const { AbortController } = globalThis; // kept from before user code could replace it

/** One call, from CALL to its answer. */
export class Call {
  constructor(number, isHttp) {
    this.number = number;
    this.isHttp = isHttp;
    this.isCancelled = false;
    this.credit = CREDIT_BYTES;
    this.controller = undefined; // made when the function asks for its signal
    this.outlet = undefined; // where its chunks go, once it streams
    this.stop = undefined; // what CANCEL does to its stream
    this.whenIdle = undefined; // what to do once the event loop has nothing left
    this.hasCalledBack = false;
  }

  get signal() {
    this.controller ??= new AbortController();
    if (this.isCancelled) this.controller.abort();
    return this.controller.signal;
  }

  cancel() {
    this.isCancelled = true;
    this.stop?.();
    this.controller?.abort();
  }
}

/** The handler's context: AWS's fields, and ours. */
export class Context {
  #call;

  constructor(call, head, facts, calls) {
    this.#call = call;
    this.callbackWaitsForEmptyEventLoop = true;
    this.functionName = facts.functionName;
    this.functionVersion = facts.functionVersion;
    this.memoryLimitInMB = facts.memoryLimitInMB;
    this.invokedFunctionArn = facts.invokedFunctionArn;
    this.logGroupName = facts.logGroupName;
    this.logStreamName = facts.logStreamName;
    this.clientContext = undefined;
    this.identity = undefined;
    this.awsRequestId = head.id;
    this.deadline = head.deadline_ms;
    this.traceparent = head.trace;
    // Functions of their own, so that they may be taken apart from the context.
    const until = head.deadline_ms;
    this.getRemainingTimeInMillis = () => Math.max(0, until - Date.now());
    this.succeed = (value) => calls.finish(call, value);
    this.fail = (error) => calls.fail(call, error);
    this.done = (error, value) => (error ? calls.fail(call, error) : calls.finish(call, value));
  }

  /** Aborted when nobody waits for the call any more, or its time is over. */
  get signal() {
    return this.#call.signal;
  }
}

/** What is the same in every call's context. */
export function factsOf(head, streamId) {
  const name = `${head.function}:${head.version}`;
  const day = new Date().toISOString().slice(0, 10).replaceAll("-", "/");
  return {
    functionName: head.function,
    functionVersion: String(head.version),
    memoryLimitInMB: String(head.memory_mb),
    invokedFunctionArn: `arn:aws:lambda:local:000000000000:function:${name}`,
    logGroupName: `/aws/lambda/${head.function}`,
    logStreamName: `${day}/[${head.version}]${streamId}`,
  };
}
