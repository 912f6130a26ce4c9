// A command in a container, in a terminal: Kubernetes' remote command protocol over a WebSocket.

import { html, render } from "./lib/lit-html/lit-html.js";
import { Terminal } from "./lib/xterm/xterm.js";
import { FitAddon } from "./lib/xterm/addon-fit.js";
import { socket, text } from "./api.js";

const PROTOCOL = "v5.channel.k8s.io";
const INPUT = 0;
const ERROR = 3;
const SIZE = 4;
const SHELL = "/bin/sh";

export async function open(tab, path, containers, signal) {
  let running = new AbortController();
  const begin = (event) => {
    event.preventDefault();
    running.abort();
    running = new AbortController();
    const form = new FormData(event.target);
    const ends = AbortSignal.any([signal, running.signal]);
    run(tab.querySelector(".terminal"), path, form.get("container"), form.get("command").trim().split(/\s+/), ends);
  };
  render(html`<form @submit=${begin}>
      <label>Container <select name="container">${containers.map((name) => html`<option>${name}</option>`)}</select></label>
      <label>Command <input name="command" value=${SHELL} required></label> <button>Run</button>
    </form><div class="terminal"></div>`, tab);
}

function run(place, path, container, command, signal) {
  place.replaceChildren();
  const shown = new Terminal({ cursorBlink: true, screenReaderMode: true, scrollback: 5000 });
  const fit = new FitAddon();
  shown.loadAddon(fit);
  shown.open(place);
  fit.fit();
  const query = new URLSearchParams([["container", container], ["stdin", "true"], ["stdout", "true"], ["tty", "true"], ...command.map((word) => ["command", word])]);
  const url = `${path}/exec?${query}`;
  const channel = socket(url, [PROTOCOL]);
  let opened = false;
  channel.binaryType = "arraybuffer";
  const send = (number, bytes) => channel.readyState === WebSocket.OPEN && channel.send(new Uint8Array([number, ...bytes]));
  const encode = (value) => new TextEncoder().encode(value);
  const size = () => send(SIZE, encode(JSON.stringify({ Width: shown.cols, Height: shown.rows })));
  channel.onopen = () => ((opened = true), size(), shown.focus());
  channel.onmessage = ({ data }) => {
    const bytes = new Uint8Array(data);
    if (bytes[0] === ERROR) shown.write(`\r\n${ended(new TextDecoder().decode(bytes.slice(1)))}\r\n`);
    else shown.write(bytes.slice(1));
  };
  // Browsers hide why a WebSocket was refused; the same asked plainly is told.
  const refusal = () => text(url, { signal }).catch((error) => signal.aborted || shown.write(`${error.message}\r\n`));
  channel.onclose = () => signal.aborted || (opened ? shown.write("\r\n[closed]\r\n") : refusal());
  shown.onData((typed) => send(INPUT, encode(typed)));
  shown.onResize(size);
  window.addEventListener("resize", () => fit.fit(), { signal });
  signal.addEventListener("abort", () => (channel.close(), shown.dispose()));
}

// What the Status on the error channel says.
function ended(status) {
  try {
    const found = JSON.parse(status);
    return found.status === "Success" ? "[ended]" : `[${found.message}]`;
  } catch {
    return `[${status}]`;
  }
}
