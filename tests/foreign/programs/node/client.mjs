// node-hl7-client: `node client.mjs HOST PORT TLS ANSWERS FILE…`; see `tests/foreign/clients.py`.
import { existsSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { Client, Message } from "node-hl7-client";

const TIMEOUT_MS = 30_000;
const [host, port, folder, , ...files] = process.argv.slice(2);

function tlsOf(folder) {
  if (folder === "-") return undefined;
  const read = (name) => (existsSync(join(folder, name)) ? readFileSync(join(folder, name)) : undefined);
  return { ca: read("ca.pem"), cert: read("client.pem"), key: read("client.key"), servername: "localhost" };
}

function said(message) {
  const text = message.toString();
  const told = {
    code: message.get("MSA.1").toString(),
    control_id: message.get("MSA.2").toString(),
    hex: Buffer.from(text, "latin1").toString("hex"),
  };
  if (text.includes("\rERR|")) {
    told.error = message.get("ERR.3.1").toString();
    told.reason = message.get("ERR.5.1").toString();
  }
  return told;
}

const client = new Client({ host, tls: tlsOf(folder) });
let heard = () => {};
const connection = client.createConnection({ port: Number(port), encoding: "latin1" }, async (answer) => heard(answer.getMessage()));
connection.on("client.error", () => process.exit(3));

for (const file of files) {
  let message;
  try {
    message = new Message({ text: readFileSync(file, "latin1").trim() });
  } catch (error) {
    console.log(JSON.stringify({ file: basename(file), failed: error.constructor.name }));
    continue;
  }
  const answer = await new Promise((resolve) => {
    const late = setTimeout(() => process.exit(4), TIMEOUT_MS);
    heard = (told) => {
      clearTimeout(late);
      resolve(told);
    };
    connection.sendMessage(message);
  });
  console.log(JSON.stringify({ file: basename(file), answers: [said(answer)] }));
}
await connection.close();
process.exit(0);
