// Node's https module against BASE, which the authority in the PEM file CA has signed; prints what it
// saw as JSON: one connection for several requests, then a session that is resumed, and an upload.
import { readFileSync } from "node:fs";
import https from "node:https";

const [base, ca] = process.argv.slice(2);
const found = {};

for (const version of ["TLSv1.2", "TLSv1.3"]) {
  const agent = new https.Agent({
    keepAlive: true,
    maxSockets: 1,
    ca: readFileSync(ca),
    minVersion: version,
    maxVersion: version,
  });
  const ask = (path, body) =>
    new Promise((resolve, reject) => {
      const method = body ? "POST" : "GET";
      const request = https.request(base + path, { agent, method, timeout: 20_000 }, async (answer) => {
        const socket = answer.socket;
        const pieces = [];
        for await (const piece of answer) pieces.push(piece);
        resolve({
          status: answer.statusCode,
          body: Buffer.concat(pieces),
          reused: request.reusedSocket,
          resumed: socket.isSessionReused(),
          version: socket.getProtocol(),
          socket,
        });
      });
      request.on("error", reject);
      request.on("timeout", () => request.destroy(new Error("timed out")));
      request.end(body);
    });

  const seen = [];
  for (let i = 0; i < 5; i++) seen.push(await ask("page"));
  seen.at(-1).socket.destroy();
  await new Promise((resolve) => seen.at(-1).socket.once("close", resolve));
  const again = await ask("page");
  const body = Buffer.alloc(1 << 20, "n");
  const echoed = await ask("echo", body);
  found[version] = {
    statuses: seen.map((one) => one.status),
    versions: [...new Set(seen.map((one) => one.version))],
    reused: seen.filter((one) => one.reused).length,
    resumed: [again.status, again.resumed],
    posted: [echoed.status, echoed.body.equals(body)],
  };
}

console.log(JSON.stringify(found));
process.exit(0);
