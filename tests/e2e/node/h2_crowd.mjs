// Node's http2 against BASE, STREAMS requests (8) at a time on each of four connections, until standard
// input ends; prints how many were answered, what failed, and how many connections there were.
import http2 from "node:http2";

const base = new URL(process.argv[2]);
const found = { answers: 0, failures: [], connections: 0, refused: 0 };
let over = false;
process.stdin.on("end", () => (over = true)).resume();

function connect() {
  found.connections++;
  const session = http2.connect(base.origin);
  session.on("error", (error) => found.failures.push(String(error)));
  session.leaving = false;
  session.on("goaway", () => (session.leaving = true));
  return session;
}

function ask(session) {
  return new Promise((answered) => {
    const stream = session.request({ ":path": base.pathname });
    let status = 0;
    let size = 0;
    stream.on("response", (head) => (status = head[":status"]));
    stream.on("data", (piece) => (size += piece.length));
    // What is asked when GOAWAY is there and not told yet, Node refuses itself: nobody saw it.
    const refused = () => stream.rstCode === http2.constants.NGHTTP2_REFUSED_STREAM;
    stream.on("error", (error) => refused() || found.failures.push(String(error)));
    stream.on("close", () => {
      if (refused() && session.leaving && !status) found.refused++;
      else if (status === 200 && size === 4) found.answers++;
      else found.failures.push(`${status} with ${size} bytes`);
      answered();
    });
  });
}

async function client() {
  let session = connect();
  async function loop() {
    while (!over) {
      if (session.leaving || session.closed || session.destroyed) session = connect();
      await ask(session);
    }
  }
  await Promise.all(Array.from({ length: Number(process.argv[3] ?? 8) }, loop));
  session.close();
}

await Promise.all(Array.from({ length: 4 }, client));
console.log(JSON.stringify(found));
