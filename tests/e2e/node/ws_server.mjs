// A WebSocket server with Node's package ws: ws_server.mjs PORT. Echoes; "leave" makes it close.
import { createRequire } from "node:module";

const { WebSocketServer } = createRequire(import.meta.url)("ws");
const server = new WebSocketServer({
  host: "127.0.0.1",
  port: Number(process.argv[2]),
  perMessageDeflate: true,
  maxPayload: 32 << 20,
});
server.on("connection", (socket) => {
  socket.on("message", (message, binary) => {
    if (!binary && message.toString() === "leave") socket.close(4002, "enough");
    else socket.send(message, { binary });
  });
});
process.on("SIGTERM", () => process.exit(0));
