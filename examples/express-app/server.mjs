// A guest book in Express: routes, middleware, cookies, and a stream; nothing of it is Hearth's.
// Under Node alone: app.listen(3000).

import express from "express";

const ENTRIES_MAX = 1000;
const entries = [{ name: "Ada", text: "Lovely." }];

export const app = express();

app.set("trust proxy", true);
app.use(express.json({ limit: "16kb" }));

app.get("/", (req, res) => {
  const visits = Number(/(?:^|; )visits=(\d+)/.exec(req.headers.cookie ?? "")?.[1] ?? 0) + 1;
  res.cookie("visits", String(visits), { httpOnly: true, sameSite: "lax" });
  const told = `Your visit ${visits}, from ${req.ip}.`;
  res.type("html").send(`<h1>${entries.length} guests</h1><p>${told}</p>`);
});

app.get("/entries", (req, res) => res.json({ entries }));

app.post("/entries", (req, res) => {
  const { name, text } = req.body ?? {};
  if (typeof name !== "string" || typeof text !== "string" || !name.trim() || !text.trim()) {
    res.status(422).json({ error: "send name and text" });
  } else if (entries.length >= ENTRIES_MAX) {
    res.status(507).json({ error: `there are ${ENTRIES_MAX} entries already` });
  } else {
    entries.push({ name: name.trim(), text: text.trim() });
    console.log(`${name.trim()} was here`);
    res.status(201).json(entries.at(-1));
  }
});

// A line for each entry, as they are written: nothing is held back.
app.get("/entries.txt", async (req, res) => {
  res.type("text/plain");
  for (const { name, text } of entries) {
    res.write(`${name}: ${text}\n`);
    await new Promise((next) => setImmediate(next));
  }
  res.end();
});

app.use((req, res) => res.status(404).json({ error: `there is nothing at ${req.path}` }));
