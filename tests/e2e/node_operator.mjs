// An operator with @kubernetes/client-node that keeps a ConfigMap for each Greeting, and what its user does meanwhile.
// Argument: a namespace.
import assert from "node:assert";
import { setTimeout as pause } from "node:timers/promises";
import * as k8s from "@kubernetes/client-node";

const namespace = process.argv[2];
const config = new k8s.KubeConfig();
config.loadFromDefault();
const core = config.makeApiClient(k8s.CoreV1Api);
const custom = config.makeApiClient(k8s.CustomObjectsApi);
const definitions = config.makeApiClient(k8s.ApiextensionsV1Api);
const [group, version, plural] = ["operators.example.com", "v1", "greetings"];
const greetings = { group, version, namespace, plural };

async function until(what, check) {
  for (let left = 600; left > 0; left--) {
    if (await check()) return;
    await pause(50);
  }
  throw new Error(`not in time: ${what}`);
}

const absent = (error) => {
  if (error.code === 404) return undefined;
  throw error;
};
const kept = (name) => core.readNamespacedConfigMap({ namespace, name }).catch(absent);

// What it extends.
const schema = { type: "object", properties: { spec: { type: "object", properties: { text: { type: "string" } } } } };
const definition = await definitions.createCustomResourceDefinition({
  body: {
    metadata: { name: `${plural}.${group}` },
    spec: {
      group,
      scope: "Namespaced",
      names: { plural, singular: "greeting", kind: "Greeting" },
      versions: [{ name: version, served: true, storage: true, schema: { openAPIV3Schema: schema } }],
    },
  },
});
await until("established", async () => {
  const { status } = await definitions.readCustomResourceDefinition({ name: definition.metadata.name });
  return status?.conditions?.some(({ type, status: is }) => type === "Established" && is === "True");
});

// The operator: what is wished for is made so whenever either side changes, one object at a time.
const wishes = k8s.makeInformer(config, `/apis/${group}/${version}/namespaces/${namespace}/${plural}`, () =>
  custom.listNamespacedCustomObject(greetings));
const maps = k8s.makeInformer(config, `/api/v1/namespaces/${namespace}/configmaps`, () =>
  core.listNamespacedConfigMap({ namespace }));
let turn = Promise.resolve();

async function reconcile(name) {
  const wish = wishes.get(name, namespace);
  if (wish === undefined) return;
  const { uid } = wish.metadata;
  const ownerReferences = [{ apiVersion: `${group}/${version}`, kind: "Greeting", name, uid, controller: true }];
  const body = { metadata: { name, ownerReferences }, data: { text: wish.spec.text } };
  const found = await kept(name);
  if (found === undefined) await core.createNamespacedConfigMap({ namespace, body });
  else if (found.data?.text !== wish.spec.text) await core.replaceNamespacedConfigMap({ namespace, name, body });
}

const failures = [];
for (const informer of [wishes, maps]) {
  for (const verb of ["add", "update", "delete"]) {
    informer.on(verb, ({ metadata: { name } }) => {
      turn = turn.then(() => reconcile(name)).catch((error) => failures.push(error));
    });
  }
  informer.on("error", (error) => failures.push(error));
  await informer.start();
}

// Its user.
const made = (name, text) => ({ apiVersion: `${group}/${version}`, kind: "Greeting", metadata: { name }, spec: { text } });
const says = (name, text) => until(`${name} says ${text}`, async () => (await kept(name))?.data?.text === text);
for (const name of ["a", "b"]) await custom.createNamespacedCustomObject({ ...greetings, body: made(name, "hello") });
for (const name of ["a", "b"]) await says(name, "hello");
await custom.patchNamespacedCustomObject(
  { ...greetings, name: "a", body: { spec: { text: "good bye" } } },
  k8s.setHeaderOptions("Content-Type", k8s.PatchStrategy.MergePatch),
);
await says("a", "good bye");
await core.deleteNamespacedConfigMap({ namespace, name: "b" });
await says("b", "hello");
await custom.deleteNamespacedCustomObject({ ...greetings, name: "b" });
await until("collected", async () => (await kept("b")) === undefined);
await turn;
assert.deepEqual(failures, []);
await Promise.all([wishes.stop(), maps.stop()]);
await definitions.deleteCustomResourceDefinition({ name: definition.metadata.name });
console.log("all done");
process.exit(0);
