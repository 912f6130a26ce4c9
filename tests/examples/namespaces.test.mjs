// A suite of node's own test runner, without any package: `rayplane test-env run -- node --test`.
// Types or no types: it is TypeScript as it stands. Packages such as @kubernetes/client-node read KUBECONFIG themselves.
import assert from "node:assert";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { request } from "node:https";
import { test } from "node:test";

const found = JSON.parse(execFileSync("rayplane", ["endpoints", "-o", "json"]));
const [ca, cert, key] = ["ca", "cert", "key"].map((file) => readFileSync(found[file]));

function ask(method, path, body) {
  return new Promise((resolve, reject) => {
    const headers = { "Content-Type": "application/json" };
    const asking = request(new URL(path, found.apiserver), { method, headers, ca, cert, key }, (answer) => {
      let text = "";
      answer.on("data", (part) => (text += part));
      answer.on("end", () => resolve({ status: answer.statusCode, body: JSON.parse(text) }));
    });
    asking.on("error", reject);
    asking.end(body && JSON.stringify(body));
  });
}

test("a namespace is made, and can be found", async () => {
  const made = await ask("POST", "/api/v1/namespaces", { metadata: { name: "shop" } });
  assert.equal(made.status, 201);
  const again = await ask("GET", "/api/v1/namespaces/shop");
  assert.equal(again.body.metadata.uid, made.body.metadata.uid);
});
