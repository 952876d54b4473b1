// The front of the example: asks `orders` through its side-car, and says what came of it.
import http from "node:http";

const [port, outbound] = process.argv.slice(2);
const agent = new http.Agent({ keepAlive: true });

function call(service, path) {
  return new Promise((resolve, reject) => {
    const options = { host: "127.0.0.1", port: outbound, path, agent, headers: { Host: service } };
    http
      .get(options, (answer) => {
        let text = "";
        answer.on("data", (piece) => (text += piece));
        answer.on("end", () => resolve({ status: answer.statusCode, text }));
        answer.on("error", reject);
      })
      .on("error", reject);
  });
}

const server = http.createServer(async (request, response) => {
  try {
    const { status, text } = await call("orders", "/orders/7");
    response.writeHead(status, { "Content-Type": "text/plain" }).end(`web: ${text}`);
  } catch (error) {
    response.writeHead(502).end(`web: ${error.message}`);
  }
});
server.keepAliveTimeout = 75_000;
server.listen(port, "127.0.0.1");
process.on("SIGTERM", () => server.close(() => process.exit(0)));
