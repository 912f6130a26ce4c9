// A suite of node's own test runner, without any package: `rayplane test-env run -- node --test namespaces.test.ts`.
// Its types are all inferred, so that a node before 22.18, which knows no TypeScript, runs it as .mjs. With
// @kubernetes/client-node it is `config.loadFromDefault()`, which reads KUBECONFIG too.
import assert from "node:assert";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { request } from "node:https";
import { test } from "node:test";

const kubeconfig = readFileSync(process.env.KUBECONFIG ?? "", "utf8");
const said = (field = "") => kubeconfig.match(new RegExp(`${field}: (\\S+)`))?.[1] ?? "";
const bytes = (field = "") => Buffer.from(said(`${field}-data`), "base64");
const shown = { ca: bytes("certificate-authority"), cert: bytes("client-certificate"), key: bytes("client-key") };

async function ask(method = "GET", path = "/", body = {}) {
  const headers = { "Content-Type": "application/json" };
  const asking = request(new URL(path, said("server")), { ...shown, method, headers });
  asking.end(method === "GET" ? undefined : JSON.stringify(body));
  const [answer] = await once(asking, "response");
  let text = "";
  for await (const part of answer) text += part;
  return { status: answer.statusCode, body: JSON.parse(text) };
}

test("a namespace is made, and can be found", async () => {
  const made = await ask("POST", "/api/v1/namespaces", { metadata: { name: "from-typescript" } });
  assert.equal(made.status, 201);
  const again = await ask("GET", "/api/v1/namespaces/from-typescript");
  assert.equal(again.body.metadata.uid, made.body.metadata.uid);
});
