// Lists, watches, patches, applies, runs commands and forwards a port with @kubernetes/client-node. Argument: a namespace
// that has the ready pod `web` with a server on port 8080.
import assert from "node:assert";
import net from "node:net";
import stream from "node:stream";
import * as k8s from "@kubernetes/client-node";

const namespace = process.argv[2];
const config = new k8s.KubeConfig();
config.loadFromDefault();
const core = config.makeApiClient(k8s.CoreV1Api);
const apps = config.makeApiClient(k8s.AppsV1Api);

function collected() {
  const sink = new stream.PassThrough();
  const chunks = [];
  sink.on("data", (chunk) => chunks.push(chunk));
  sink.text = () => Buffer.concat(chunks).toString();
  return sink;
}

const pods = await core.listNamespacedPod({ namespace });
assert.deepEqual(pods.items.map((pod) => pod.metadata.name), ["web"]);

// An informer and a watch see what is made, changed and deleted.
const seen = [];
const informer = k8s.makeInformer(config, `/api/v1/namespaces/${namespace}/configmaps`, () =>
  core.listNamespacedConfigMap({ namespace }));
const gone = new Promise((resolve) => {
  for (const verb of ["add", "update", "delete"]) {
    informer.on(verb, (one) => {
      if (one.metadata.name === "a") seen.push(verb);
      if (one.metadata.name === "a" && verb === "delete") resolve();
    });
  }
});
await informer.start();
await core.createNamespacedConfigMap({ namespace, body: { metadata: { name: "a" }, data: { x: "1" } } });
await core.patchNamespacedConfigMap(
  { namespace, name: "a", body: [{ op: "add", path: "/data/y", value: "2" }] },
  k8s.setHeaderOptions("Content-Type", k8s.PatchStrategy.JsonPatch),
);
const patched = await core.patchNamespacedConfigMap(
  { namespace, name: "a", body: { data: { z: "3" } } },
  k8s.setHeaderOptions("Content-Type", k8s.PatchStrategy.MergePatch),
);
assert.deepEqual(patched.data, { x: "1", y: "2", z: "3" });
await core.deleteNamespacedConfigMap({ namespace, name: "a" });
await gone;
assert.deepEqual([seen[0], seen.at(-1)], ["add", "delete"]);
await informer.stop();

// Server-side apply, and objects of any kind.
const objects = k8s.KubernetesObjectApi.makeApiClient(config);
const deployment = {
  apiVersion: "apps/v1",
  kind: "Deployment",
  metadata: { name: "app", namespace },
  spec: {
    replicas: 2,
    selector: { matchLabels: { app: "app" } },
    template: { metadata: { labels: { app: "app" } }, spec: { containers: [{ name: "c", image: "nginx" }] } },
  },
};
await objects.patch(deployment, undefined, undefined, "javascript", true, k8s.PatchStrategy.ServerSideApply);
await objects.patch({ ...deployment, spec: { replicas: 3 } }, undefined, undefined, undefined, undefined, k8s.PatchStrategy.StrategicMergePatch);
assert.equal((await apps.readNamespacedDeploymentScale({ namespace, name: "app" })).spec.replicas, 3);

// Commands.
const [out, err] = [collected(), collected()];
const status = await new Promise((resolve, reject) => {
  new k8s.Exec(config)
    .exec(namespace, "web", "server", ["sh", "-c", "read line; echo got $line; echo trouble >&2; exit 3"], out, err,
      stream.Readable.from(["typed\n"]), false, resolve)
    .catch(reject);
});
assert.deepEqual([out.text(), err.text()], ["got typed\n", "trouble\n"]);
assert.equal(status.details.causes[0].message, "3");

// Logs.
const log = collected();
await new k8s.Log(config).log(namespace, "web", "server", log, { tailLines: 1 });
await stream.promises.finished(log, { writable: false });
assert.match(log.text(), /begun/);

// A port.
const forward = new k8s.PortForward(config);
const server = net.createServer((socket) => forward.portForward(namespace, "web", [8080], socket, null, socket));
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const answer = await new Promise((resolve, reject) => {
  const socket = net.connect(server.address().port, "127.0.0.1", () => socket.write("GET /hello HTTP/1.0\r\n\r\n"));
  let text = "";
  socket.on("data", (data) => {
    text += data;
    if (text.endsWith("GET /hello")) resolve(text);
  });
  socket.on("error", reject);
});
assert.match(answer, /^HTTP\/1.0 200/);
console.log("all done");
process.exit(0);
