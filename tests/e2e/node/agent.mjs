// Node's http module with one keep-alive connection against BASE; prints what it saw as JSON.
import { createHash } from "node:crypto";
import http from "node:http";

const base = process.argv[2];
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
const found = {};

const read = async (answer) => {
  const pieces = [];
  for await (const piece of answer) pieces.push(piece);
  return Buffer.concat(pieces);
};

const ask = (path, options = {}) =>
  new Promise((resolve, reject) => {
    const request = http.request(base + path, { agent, timeout: 20_000, ...options });
    request.on("error", reject);
    request.on("timeout", () => request.destroy(new Error("timed out")));
    request.on("response", async (answer) => {
      const body = await read(answer);
      resolve({ status: answer.statusCode, headers: answer.headers, body, request });
    });
    if (options.headers?.Expect) {
      // The body is sent when it is asked for, and not before.
      request.flushHeaders();
      request.on("continue", () => {
        request.continued = true;
        request.end(options.body);
      });
    } else {
      request.end();
    }
  });

found.statuses = [];
found.reused = 0;
for (let i = 0; i < 50; i++) {
  const answer = await ask("page");
  found.statuses.push(answer.status);
  if (answer.request.reusedSocket) found.reused++;
}

const pieces = await ask("pieces");
found.pieces = [pieces.status, createHash("sha256").update(pieces.body).digest("hex")];

const head = await ask("page", { method: "HEAD" });
found.head = [head.status, head.headers["content-length"]];

const body = Buffer.alloc(5 << 20);
const expecting = {
  method: "POST",
  headers: { Expect: "100-continue", "Content-Length": body.length },
  body,
};
const expected = await ask("digest", expecting);
const seen = JSON.parse(expected.body);
found.expected = [expected.request.continued ? "continued" : "not continued", seen.method, seen.size];

const refused = await ask("no", expecting);
found.refused = [refused.status, refused.request.continued ? "continued" : "not continued"];

console.log(JSON.stringify(found));
process.exit(0);
