// A Node program: files, hashes, compression, children, worker threads, timers, a server on a Unix socket.
"use strict";
const { execFileSync } = require("child_process");
const crypto = require("crypto");
const fs = require("fs");
const net = require("net");
const path = require("path");
const zlib = require("zlib");
const { Worker, isMainThread, parentPort, workerData } = require("worker_threads");

function doubled(n) {
  return new Promise((resolve, reject) => {
    const worker = new Worker(__filename, { workerData: n });
    worker.on("message", resolve);
    worker.on("error", reject);
  });
}

function overSocket(text) {
  return new Promise((resolve, reject) => {
    const server = net.createServer((peer) => peer.pipe(peer));
    server.on("error", reject);
    server.listen("socket", () => {
      const client = net.connect("socket", () => client.end(text));
      let said = "";
      client.on("data", (data) => (said += data));
      client.on("error", reject);
      client.on("end", () => server.close(() => resolve(said)));
    });
  });
}

async function main() {
  const bytes = Buffer.alloc(1 << 20, "äöü€");
  fs.writeFileSync("packed.gz", zlib.gzipSync(bytes));
  const back = zlib.gunzipSync(fs.readFileSync("packed.gz"));
  console.log(crypto.createHash("sha256").update(back).digest("hex"));
  console.log(execFileSync("sh", ["-c", "echo child; pwd"]).toString());
  console.log(JSON.stringify({ doubled: await Promise.all([1, 2, 3].map(doubled)), name: path.basename(__filename) }));
  console.log(await overSocket("over a unix socket"));
  await fs.promises.mkdir("deep/er", { recursive: true });
  await fs.promises.rename("packed.gz", "deep/er/packed.gz");
  await new Promise((resolve) => setTimeout(resolve, 5));
  console.error("to stderr");
}

if (isMainThread) main();
else parentPort.postMessage(workerData * 2);
