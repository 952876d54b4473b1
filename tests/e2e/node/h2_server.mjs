// An instance of HTTP/2 on Node: node h2_server.mjs PORT [CERT KEY]; in clear text without the latter.
import { readFileSync } from "node:fs";
import http2 from "node:http2";

const [port, cert, key] = process.argv.slice(2);
const server = cert
  ? http2.createSecureServer({ cert: readFileSync(cert), key: readFileSync(key) })
  : http2.createServer();

server.on("stream", (stream, fields) => {
  const path = fields[":path"];
  if (path.endsWith("/echo")) {
    stream.respond({ ":status": 200 });
    stream.pipe(stream);
  } else if (path.endsWith("/large")) {
    stream.respond({ ":status": 200, "content-length": 4 << 20 });
    stream.end(Buffer.alloc(4 << 20, "large"));
  } else if (path.endsWith("/trailers")) {
    stream.additionalHeaders({ ":status": 103, link: "</a>" });
    stream.respond({ ":status": 200 }, { waitForTrailers: true });
    stream.on("wantTrailers", () => stream.sendTrailers({ "x-te": fields.te ?? "none" }));
    stream.end("page");
  } else {
    stream.respond({ ":status": 200, "set-cookie": ["a=1", "b=2"] });
    stream.end("page");
  }
});
server.listen(Number(port), "127.0.0.1");
process.on("SIGTERM", () => process.exit(0));
