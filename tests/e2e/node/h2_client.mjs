// Node's http2 against BASE, whose authority's PEM file is CA (none in clear text); prints as JSON what came of
// pages, uploads of a MiB and a download, all at the same time on one connection.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import http2 from "node:http2";

const [base, ca] = [new URL(process.argv[2]), process.argv[3]];
const session = http2.connect(base.origin, ca ? { ca: readFileSync(ca) } : {});

async function ask(path, body) {
  const stream = session.request({ ":path": base.pathname + path, ":method": body ? "POST" : "GET" });
  let status;
  stream.on("response", (head) => (status = head[":status"]));
  stream.end(body);
  const pieces = [];
  for await (const piece of stream) pieces.push(piece);
  return [status, createHash("sha256").update(Buffer.concat(pieces)).digest("hex")];
}

const body = Buffer.alloc(1 << 20, "n");
const asked = [];
for (let i = 0; i < 4; i++) asked.push(ask("page"), ask("echo", body));
asked.push(ask("large"));
console.log(JSON.stringify(await Promise.all(asked)));
session.close();
