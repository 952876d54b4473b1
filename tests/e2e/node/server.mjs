// The site of tests/e2e/served.py on Node's http server: node server.mjs PORT IDLE_MS
import http from "node:http";

const [port, idle] = process.argv.slice(2).map(Number);
const large = { "X-Large": "l".repeat(7000) };
for (let i = 0; i < 50; i++) large[`X-Many-${i}`] = "m".repeat(100);

const server = http.createServer((request, answer) => {
  const path = request.url.split("?")[0];
  if (path === "/echo") {
    const pieces = [];
    request.on("data", (piece) => pieces.push(piece));
    request.on("end", () => {
      const body = Buffer.concat(pieces);
      answer.setHeader("Content-Length", body.length);
      answer.end(body);
    });
    return;
  }
  if (path === "/refuse") {
    answer.writeHead(403, { "Content-Length": 2 });
    answer.end("no");
    return;
  }
  if (path === "/pieces") {
    for (let i = 0; i < 50; i++) answer.write(`${String(i).padStart(3, "0")},`.repeat(250));
    answer.end();
    return;
  }
  if (path === "/fields") {
    let size = 0;
    for (const [name, value] of Object.entries(request.headers)) {
      if (name.startsWith("x-sent-")) size += value.length;
    }
    answer.writeHead(200, large);
    answer.end(String(size));
    return;
  }
  // With a Connection field of one's own Node does not announce its idle limit.
  if (path === "/bare") answer.setHeader("Connection", "keep-alive");
  answer.setHeader("ETag", '"one"');
  if (request.headers["if-none-match"] === '"one"') {
    answer.writeHead(304);
    answer.end();
    return;
  }
  answer.setHeader("Content-Length", 5);
  answer.end("hello");
});
server.keepAliveTimeout = idle;
server.listen(port, "127.0.0.1");
process.on("SIGTERM", () => process.exit(0));
