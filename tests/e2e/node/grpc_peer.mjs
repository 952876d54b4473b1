// @grpc/grpc-js: grpc_peer.mjs server PORT, or client HOST:PORT SERVICE [CA]. What both do is in
// ../grpc_peer.py; messages are bytes.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { setTimeout as after } from "node:timers/promises";

// Through require, because import does not look at NODE_PATH.
const grpc = createRequire(import.meta.url)("@grpc/grpc-js");
const [role, place, service, ca] = process.argv.slice(2);
const same = (bytes) => bytes;
const method = (name, requestStream, responseStream) => [
  name,
  {
    path: `/t.T/${name}`,
    requestStream,
    responseStream,
    requestSerialize: same,
    requestDeserialize: same,
    responseSerialize: same,
    responseDeserialize: same,
  },
];
const unaries = ["Unary", "Fail", "Left", "Slow", "Cancelled"];
const definition = Object.fromEntries([
  ...unaries.map((name) => method(name, false, false)),
  method("ServerStream", false, true),
  method("ClientStream", true, false),
  method("Bidi", true, true),
]);
const reason = "no 100 % ünique thing";

const serve = () => {
  let cancelled = 0;
  const server = new grpc.Server();
  server.addService(definition, {
    Unary: (call, done) => {
      const head = new grpc.Metadata();
      head.set("x-seen", call.metadata.get("x-ask").join(","));
      call.sendMetadata(head);
      const trailer = new grpc.Metadata();
      trailer.set("x-last-bin", Buffer.from([0, 255]));
      done(null, call.request, trailer);
    },
    ServerStream: (call) => {
      for (let number = 0; number < Number(call.request); number++) call.write(Buffer.from(`${number}`));
      call.end();
    },
    ClientStream: (call, done) => {
      let total = 0;
      call.on("data", (message) => (total += message.length));
      call.on("end", () => done(null, Buffer.from(`${total}`)));
    },
    Bidi: (call) => {
      call.on("data", (message) => call.write(message));
      call.on("end", () => call.end());
    },
    Fail: (call, done) => done({ code: grpc.status.NOT_FOUND, details: reason }),
    Left: (call, done) => done(null, Buffer.from(`${Math.floor(call.getDeadline() - Date.now())}`)),
    Slow: (call) => call.on("cancelled", () => cancelled++),
    Cancelled: (call, done) => done(null, Buffer.from(`${cancelled}`)),
  });
  server.bindAsync(`127.0.0.1:${place}`, grpc.ServerCredentials.createInsecure(), (error) => {
    if (error) throw error;
  });
};

const said = (name, right, ...seen) => {
  if (!right) throw new Error(`${name}: ${JSON.stringify(seen)}`);
  console.log(name);
};

const ask = async () => {
  const security = ca
    ? grpc.credentials.createSsl(readFileSync(ca))
    : grpc.credentials.createInsecure();
  const options = ca ? { "grpc.ssl_target_name_override": "www.example.com" } : {};
  const client = new (grpc.makeGenericClientConstructor(definition, "T"))(place, security, options);
  const metadata = new grpc.Metadata();
  metadata.set("x-service", service);

  const unary = (name, message = "", more = {}, fields = metadata) =>
    new Promise((resolve) => {
      const found = {};
      const call = client[name](Buffer.from(message), fields, more, (error, answer) => {
        Object.assign(found, { error, answer });
        if (error) resolve(found);
      });
      call.on("metadata", (head) => (found.head = head));
      call.on("status", (status) => resolve({ ...found, trailer: status.metadata, status }));
      found.call = call;
      if (more.leave) after(100).then(() => call.cancel());
    });
  const read = async (call) => {
    const messages = [];
    for await (const message of call) messages.push(`${message}`);
    return messages;
  };
  const numbers = (count) => [...Array(count).keys()].map(String);
  const cancelled = async () => Number((await unary("Cancelled")).answer);

  const asking = metadata.clone();
  asking.add("x-ask", "a");
  asking.add("x-ask", "b");
  const { answer, head, trailer } = await unary("Unary", "hello", {}, asking);
  const seen = head.get("x-seen").join().replaceAll(" ", "");
  const last = trailer.get("x-last-bin")[0];
  said("unary", `${answer}` === "hello" && seen === "a,b" && last.equals(Buffer.from([0, 255])), seen, last);
  const large = Buffer.alloc(3 << 20, Buffer.from(numbers(251)));
  said("large", (await unary("Unary", large)).answer.equals(large));
  const stream = await read(client.ServerStream(Buffer.from("100"), metadata));
  said("server stream", stream.join() === numbers(100).join(), stream);
  const total = await new Promise((resolve, reject) => {
    const call = client.ClientStream(metadata, (error, sum) => (error ? reject(error) : resolve(sum)));
    for (let number = 0; number < 100; number++) call.write(Buffer.alloc(1000));
    call.end();
  });
  said("client stream", `${total}` === "100000", `${total}`);
  const both = client.Bidi(metadata);
  const echoes = [];
  both.write(Buffer.from("0"));
  for await (const message of both) {
    echoes.push(`${message}`);
    if (echoes.length < 20) both.write(Buffer.from(`${echoes.length}`));
    else both.end();
  }
  said("bidi", echoes.join() === numbers(20).join(), echoes);
  const { error } = await unary("Fail");
  said("fail", error.code === grpc.status.NOT_FOUND && error.details === reason, error);
  const left = Number((await unary("Left", "", { deadline: Date.now() + 20000 })).answer);
  said("left", 0 < left && left <= 21000, left);
  const before = await cancelled();
  const late = (await unary("Slow", "", { deadline: Date.now() + 300 })).error;
  said("deadline", late.code === grpc.status.DEADLINE_EXCEEDED, late);
  let gone;
  do {
    gone = (await unary("Slow", "", { leave: true })).error; // One may be gone before it is there.
    await after(20);
  } while ((await cancelled()) < before + 2);
  said("cancel", gone.code === grpc.status.CANCELLED, gone);
  client.close();
};

if (role === "server") serve();
else await ask();
