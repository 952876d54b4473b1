// A WebSocket client on Node: ws_client.mjs builtin|ws BASE SIZE; prints what it saw as JSON.
import { createRequire } from "node:module";

const [library, base, size] = process.argv.slice(2);
// Through require, because import does not look at NODE_PATH.
const Socket = library === "ws" ? createRequire(import.meta.url)("ws") : globalThis.WebSocket;
const found = {};

const open = (name) =>
  new Promise((resolve, reject) => {
    const socket = new Socket(base + name, ["chat", "superchat"]);
    socket.binaryType = "arraybuffer";
    socket.messages = [];
    socket.waiting = [];
    socket.onmessage = ({ data }) => {
      const waiting = socket.waiting.shift();
      if (waiting) waiting(data);
      else socket.messages.push(data);
    };
    socket.closed = new Promise((done) => (socket.onclose = done));
    socket.onopen = () => resolve(socket);
    socket.onerror = reject;
  });

const next = (socket) =>
  socket.messages.length
    ? socket.messages.shift()
    : new Promise((resolve) => socket.waiting.push(resolve));

let socket = await open("echo");
found.protocol = socket.protocol;
socket.send("text");
found.echo = [await next(socket)];
socket.send("größer als ∅");
found.echo.push(await next(socket));
const large = Buffer.alloc(Number(size), "0123456789abcdef!");
socket.send(large);
const back = Buffer.from(await next(socket));
found.echo.push(back.length, back.equals(large));
socket.close(4001, "goodbye");
await socket.closed;

socket = await open("pieces");
found.pieces = [await next(socket), (await next(socket)).byteLength];
socket.close(1000);
await socket.closed;

socket = await open("leave");
let closed = await socket.closed;
found.left = [closed.code, closed.reason];

socket = await open("drop");
socket.onerror = () => {};
socket.send("now");
closed = await socket.closed;
found.dropped = closed.code;

const echoes = Array.from({ length: 50 }, async (_, number) => {
  const socket = await open("echo");
  socket.send(String(number));
  const right = (await next(socket)) === String(number);
  socket.close(1000);
  await socket.closed;
  return right;
});
found.many = (await Promise.all(echoes)).filter(Boolean).length;

console.log(JSON.stringify(found));
process.exit(0);
