// A WebSocket over HTTP/2 (RFC 8441): says hello, closes in good order, and tells what it heard.
import http2 from "node:http2";

const client = http2.connect(process.argv[2]);
const heard = { frames: [] };
const frame = (kind, content) =>
  Buffer.concat([Buffer.from([0x80 | kind, 0x80 | content.length, 0, 0, 0, 0]), content]);

client.on("remoteSettings", (settings) => {
  heard.announced = settings.enableConnectProtocol;
  const stream = client.request({
    ":method": "CONNECT", ":protocol": "websocket", ":path": process.argv[3],
    "sec-websocket-version": "13", "sec-websocket-protocol": "superchat",
  });
  stream.on("response", (head) => {
    heard.status = head[":status"];
    stream.write(frame(1, Buffer.from("hello")));
  });
  stream.on("data", (data) => {
    heard.frames.push([data[0], data.subarray(2).toString("latin1")]);
    if (data[0] === 0x81) stream.write(frame(8, Buffer.from([3, 0xe8])));
  });
  stream.on("end", () => stream.end());
  stream.on("close", () => {
    heard.code = stream.rstCode;
    console.log(JSON.stringify(heard));
    client.close();
  });
});
