// A report that EventBridge's schedule asks for: an AWS Lambda handler, unchanged.
// CommonJS and a callback, as such handlers were written for years.

"use strict";

const MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(" ");
const DAY_MS = 24 * 60 * 60 * 1000;

exports.handler = (event, context, callback) => {
  if (event.source !== "aws.events" || event["detail-type"] !== "Scheduled Event") {
    callback(new Error(`not a schedule's event: ${event.source} ${event["detail-type"]}`));
    return;
  }
  // Work that is still under way when the report is made is not waited for.
  context.callbackWaitsForEmptyEventLoop = false;
  const until = Date.parse(event.time);
  gather(until, (error, days) => {
    if (error) callback(error);
    else callback(null, report(event, context, days));
  });
};

/** A week of numbers; a real one would ask a database for them. */
function gather(until, done) {
  const days = Array.from({ length: 7 }, (_, back) => new Date(until - (7 - back) * DAY_MS));
  setTimeout(() => {
    if (Number.isNaN(until)) done(new Error("the event has no time"));
    else done(null, days.map((day) => ({ day, orders: 20 + ((day.getUTCDate() * 7) % 13) })));
  }, 1);
}

function report(event, context, days) {
  const total = days.reduce((sum, { orders }) => sum + orders, 0);
  const lines = days.map(({ day, orders }) => {
    const date = `${String(day.getUTCDate()).padStart(2)} ${MONTHS[day.getUTCMonth()]}`;
    return `${date} ${"#".repeat(orders / 2)} ${orders}`;
  });
  console.log("report for %s, %d ms to spare", event.time, context.getRemainingTimeInMillis());
  return {
    rule: event.resources[0].split("/").pop(),
    until: event.time,
    total,
    report: [...lines, `total ${total}`].join("\n"),
  };
}
