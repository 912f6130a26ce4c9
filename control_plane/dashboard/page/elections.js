// Who has led of late: a strip for etcd, and one for each Lease that one of several holds.

import { html } from "./lib/lit-html/lit-html.js";
import { styleMap } from "./lib/lit-html/directives/style-map.js";
import { colour } from "./colours.js";

const SPAN_S = 300;
const SHOWN_S = 60; // at least, so that the first seconds do not fill the strip
const NOBODY = "nobody", UNKNOWN = "not known";

// The member that leads. One that was cut off says so still, in an earlier term.
export const leaderOf = (members) => members.filter((one) => one.leader).sort((a, b) => b.term - a.term)[0];

// Puts a look, made at `at` seconds, to what the strips show.
export function note(strips, now, at) {
  const leader = leaderOf(now.members);
  const none = now.members.every((one) => one.error) ? UNKNOWN : NOBODY;
  const led = [["etcd", leader?.name ?? none, leader ? `in term ${leader.term}` : ""]];
  for (const { name, holder, error } of now.leases || []) led.push([name, error ? UNKNOWN : holder.split("_")[0] || NOBODY, ""]);
  for (const [of, who, why] of led) {
    const spans = (strips.get(of) || []).filter((one) => one.to > at - SPAN_S);
    const last = spans.at(-1);
    if (last) last.to = at;
    if (!last || last.who !== who || last.why !== why) spans.push({ who, why, from: at, to: at });
    strips.set(of, spans);
  }
}

export function elections(strips) {
  const all = [...strips.values()].flat();
  const ends = Math.max(...all.map((span) => span.to));
  const begins = Math.max(ends - SPAN_S, Math.min(ends - SHOWN_S, ...all.map((span) => span.from)));
  const part = (span) => {
    const seconds = Math.max(0.5, span.to - Math.max(span.from, begins));
    const led = span.who !== NOBODY && span.who !== UNKNOWN;
    const look = { flexGrow: seconds, background: led ? colour(span.who) : "transparent" };
    return html`<i style=${styleMap(look)} class=${led ? "" : span.who === NOBODY ? "nobody" : "unknown"} title="${span.who} ${span.why} for ${seconds.toFixed(0)} s">${span.who}</i>`;
  };
  const row = ([of, spans]) => html`<div class="election"><span>${of}</span>
    <div role="img" aria-label="${of}: ${spans.at(-1).who} now, ${spans.length - 1} changes seen"><u style=${styleMap({ flexGrow: Math.max(0, spans[0].from - begins) })}></u>${spans.map(part)}</div></div>`;
  return html`<h2>Elections <small>of the last ${ends - begins > 90 ? `${Math.round((ends - begins) / 60)} minutes` : "minute"}, as far as this page has looked</small></h2>${[...strips].map(row)}`;
}
