// What the gRPC API does for a program in JavaScript, whose stubs are made of the .proto files.
// Usage: node grpc_client.mjs NAMESPACE SOURCES ENDPOINTS.json
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const [namespace, sources, where] = process.argv.slice(2);
const endpoints = JSON.parse(readFileSync(where));
const files = ["rayplane/v1/objects", "rayplane/v1/pods", "google/rpc/status", "google/rpc/error_details"]
  .map((name) => `rayplane/proto/${name}.proto`);
const options = { keepCase: true, longs: String, enums: String, defaults: true, oneofs: true, includeDirs: [sources] };
const { rayplane: { v1 } } = grpc.loadPackageDefinition(loader.loadSync(files, options));
const protobuf = createRequire(createRequire(import.meta.url).resolve("@grpc/proto-loader"))("protobufjs");
const messages = new protobuf.Root();
messages.resolvePath = (_, path) => (path.startsWith("google/protobuf") ? path : `${sources}/${path}`);
messages.loadSync(files, { keepCase: true });

const [ca, key, cert] = [endpoints.ca, endpoints.key, endpoints.cert].map((path) => readFileSync(path));
const named = { "grpc.ssl_target_name_override": "rayplane.internal", "grpc.default_authority": "rayplane.internal" };
const open = (Service) => new Service(endpoints.grpc[0], grpc.credentials.createSsl(ca, key, cert), named);
const objects = open(v1.Objects);
const pods = open(v1.Pods);

const call = (method, request) =>
  new Promise((resolve, reject) =>
    objects[method](request, { deadline: Date.now() + 30_000 }, (error, answer) => (error ? reject(error) : resolve(answer))));
const failure = (method, request) => call(method, request).then(() => assert.fail(`${method} was to fail`), (error) => error);
const details = (error) => {
  const status = messages.lookupType("google.rpc.Status").decode(error.metadata.get("grpc-status-details-bin")[0]);
  return Object.fromEntries(status.details.map((any) => {
    const name = any.type_url.split("/").pop();
    return [name.split(".").pop(), messages.lookupType(name).decode(any.value)];
  }));
};
const ref = (name = "", more = {}) => ({ resource: "configmaps", namespace, name, ...more });
const configMap = (name, data) => ({ apiVersion: "v1", kind: "ConfigMap", metadata: { name, namespace }, data });
const bytes = (object) => Buffer.from(JSON.stringify(object));
const parsed = (answer) => JSON.parse(answer.json);

async function unary() {
  const created = await call("Create", { ref: ref(), json: bytes(configMap("a", { x: "1" })) });
  assert.equal(created.created, true);
  assert.match(parsed(created).metadata.managedFields[0].manager, /^grpc-node-js/);
  await call("Patch", { ref: ref("a"), type: "MERGE", patch: bytes({ data: { y: "2" } }) });
  const applied = await call("Patch", {
    ref: ref("a"), type: "APPLY", patch: bytes(configMap("a", { z: "3" })), options: { field_manager: "me" },
  });
  assert.deepEqual(parsed(applied).data, { x: "1", y: "2", z: "3" });
  const warned = await call("Create", { ref: ref(), json: bytes({ ...configMap("w", {}), odd: 1 }) });
  assert.deepEqual(warned.warnings, ['unknown field "odd"']);
  const { results } = await call("Batch", { operations: [{ get: { ref: ref("a") } }, { get: { ref: ref("none") } }] });
  assert.equal(parsed(results[0]).metadata.name, "a");
  assert.equal(JSON.parse(results[1].status).reason, "NotFound");
}

async function errors() {
  const missing = await failure("Get", { ref: ref("none") });
  assert.equal(missing.code, grpc.status.NOT_FOUND);
  assert.equal(details(missing).ErrorInfo.reason, "NOT_FOUND");
  const invalid = await failure("Create", { ref: ref(), json: bytes(configMap("Not A Name", {})) });
  assert.equal(details(invalid).BadRequest.field_violations[0].field, "metadata.name");
  const conflict = await failure("Patch", {
    ref: ref("a"), type: "APPLY", patch: bytes(configMap("a", { z: "4" })), options: { field_manager: "you" },
  });
  assert.equal(conflict.code, grpc.status.ABORTED);
  assert.equal(details(conflict).PreconditionFailure.violations[0].subject, ".data.z");
}

async function streams() {
  const names = [];
  for await (const page of objects.ListStream({ ref: ref() })) names.push(...page.items.map((i) => JSON.parse(i).metadata.name));
  assert(names.includes("a") && names.includes("w"));
  const watch = objects.Watch({ ref: ref(), send_initial_events: true, allow_bookmarks: true });
  for await (const { events } of watch) {
    if (events.some((event) => event.type === "BOOKMARK")) break;
  }
  watch.cancel();
}

async function commands() {
  const running = pods.Exec();
  running.write({ command: { namespace, name: "web", command: ["sh", "-c", "cat; exit 3"], stdin: true } });
  running.write({ stdin: Buffer.from("hello") });
  running.end();
  let output = "";
  let code;
  for await (const answer of running) {
    output += answer.stdout;
    if (answer._exit_code) code = answer.exit_code;
  }
  assert.deepEqual([output, code], ["hello", 3]);
  let log = "";
  for await (const { data } of pods.Logs({ namespace, name: "web" })) log += data;
  assert(log.length > 0);
}

for (const part of [unary, errors, streams, commands]) {
  await part();
  console.log(part.name);
}
objects.close();
pods.close();
console.log("all done");
