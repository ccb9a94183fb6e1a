// Markdown in, HTML out: POST text, or hand it over as {"markdown": "# Title"}.

import MarkdownIt from "markdown-it";

// Raw HTML in the text stays text, so the answer is safe to put on a page.
const markdown = new MarkdownIt({ html: false, linkify: true, typographer: true });

export const handler = async (event) => {
  if (event.requestContext === undefined) {
    return { html: markdown.render(String(event.markdown ?? "")) };
  }
  if (event.requestContext.http.method !== "POST") {
    return { statusCode: 405, headers: { Allow: "POST" }, body: { error: "POST some Markdown" } };
  }
  const text = bodyOf(event);
  if (text.trim() === "") {
    return { statusCode: 400, body: { error: "the request has no body" } };
  }
  const html = markdown.render(text);
  const page = event.queryStringParameters?.page !== undefined;
  return {
    statusCode: 200,
    headers: { "Content-Type": "text/html; charset=utf-8" },
    body: page ? asPage(html) : html,
  };
};

function bodyOf(event) {
  const body = event.body ?? "";
  return event.isBase64Encoded ? Buffer.from(body, "base64").toString("utf8") : body;
}

function asPage(html) {
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Markdown</title>
<body>
${html}</body>
</html>
`;
}
