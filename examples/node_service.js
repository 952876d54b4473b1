// A Node service. It knows nothing of the registry; the side-car does:
//
//   PORT=8083 fairlead register --service hello-node --port 8083 \
//     --check http://127.0.0.1:8083/health -- node examples/node_service.js

const http = require("node:http");

const server = http.createServer((request, response) => {
  response.setHeader("Content-Type", "text/plain");
  response.end(request.url === "/health" ? "ok\n" : "hello from Node\n");
});

// The side-car sends this when no proxy knows of the instance any more.
process.on("SIGTERM", () => server.close(() => process.exit(0)));

server.listen(Number(process.env.PORT || 8083));
