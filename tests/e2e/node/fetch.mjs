// Node's fetch (undici) against BASE; prints what it saw as JSON.
import { createHash } from "node:crypto";

const base = process.argv[2];
const sha = (body) => createHash("sha256").update(Buffer.from(body)).digest("hex");
const plain = { "Accept-Encoding": "identity" };
const found = {};

let answer = await fetch(base + "page");
found.page = [answer.status, sha(await answer.arrayBuffer())];

answer = await fetch(base + "page", { method: "HEAD", headers: plain });
found.head = [answer.status, answer.headers.get("content-length"), (await answer.text()).length];

answer = await fetch(base + "page", { headers: { Range: "bytes=100-299" } });
found.range = [answer.status, sha(await answer.arrayBuffer())];

answer = await fetch(base + "page", { headers: { "If-None-Match": '"1"' } });
found.unchanged = [answer.status, (await answer.text()).length];

answer = await fetch(base + "pieces");
const hash = createHash("sha256");
for await (const piece of answer.body) hash.update(piece);
found.pieces = [answer.status, hash.digest("hex")];

answer = await fetch(base + "digest", { method: "POST", body: Buffer.alloc(1 << 20) });
let seen = await answer.json();
found.post = [seen.method, seen.size, seen.chunked];

const stream = new ReadableStream({
  start(controller) {
    for (let i = 0; i < 100; i++) controller.enqueue(new Uint8Array(10_000));
    controller.close();
  },
});
answer = await fetch(base + "digest", { method: "PUT", body: stream, duplex: "half" });
seen = await answer.json();
found.stream = [seen.method, seen.size, seen.chunked];

found.many = await Promise.all(
  Array.from({ length: 40 }, async () => {
    const answer = await fetch(base + "page");
    await answer.arrayBuffer();
    return answer.status;
  }),
);

try {
  await fetch(base + "held", { signal: AbortSignal.timeout(300) });
  found.timeout = "none";
} catch (error) {
  found.timeout = error.name;
}
answer = await fetch(base + "page");
await answer.arrayBuffer();
found.after = answer.status;

console.log(JSON.stringify(found));
process.exit(0);
