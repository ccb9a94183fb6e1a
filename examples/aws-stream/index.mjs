// Server-sent events by awslambda.streamifyResponse: an AWS Lambda handler, unchanged.
// It tells a text word by word, as what writes it would.

import { setTimeout as sleep } from "node:timers/promises";

const TEXT = "Put another log on the fire , and the room is warm again .";
const PAUSE_MS_MAX = 1000;

export const handler = awslambda.streamifyResponse(async (event, responseStream, context) => {
  const asked = event.queryStringParameters ?? {};
  const pause = Math.min(Number(asked.pause ?? 40), PAUSE_MS_MAX);
  const first = Number(event.headers?.["last-event-id"] ?? -1) + 1;
  if (!(pause >= 0) || !Number.isInteger(first)) {
    end(responseStream, 400, "pause is a number of milliseconds, Last-Event-ID that of an event");
    return;
  }
  const out = awslambda.HttpResponseStream.from(responseStream, {
    statusCode: 200,
    headers: { "content-type": "text/event-stream", "cache-control": "no-store" },
    cookies: [`story=${context.awsRequestId}; HttpOnly`],
  });
  for (const [number, word] of TEXT.split(" ").entries()) {
    if (number < first) continue; // a client that comes again goes on where it was
    out.write(`id: ${number}\ndata: ${JSON.stringify({ word })}\n\n`);
    await sleep(pause);
  }
  out.write("event: end\ndata: {}\n\n");
  out.end();
});

function end(responseStream, statusCode, message) {
  const headers = { "content-type": "text/plain" };
  const out = awslambda.HttpResponseStream.from(responseStream, { statusCode, headers });
  out.write(message);
  out.end();
}
