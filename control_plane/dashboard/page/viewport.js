// Which rows of a long list are seen: only those, and a few around them, are drawn, and no more often than there is time.

import { directive, Directive } from "./lib/lit-html/directive.js";
import { noChange } from "./lib/lit-html/lit-html.js";

const AROUND = 20;
const REST = 8; // times as long as it works

// `place` marks the element that is as high as all rows together; `shown(count)` tells which of them to draw.
export function viewport(signal, rowPx, draw) {
  let element;
  let waiting = false;
  const again = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      if (!signal.aborted) draw();
    });
  };
  window.addEventListener("scroll", again, { signal, passive: true });
  window.addEventListener("resize", again, { signal, passive: true });
  class Place extends Directive {
    update(part) {
      element = part.element;
      return noChange;
    }
  }
  const above = () => (element ? -element.getBoundingClientRect().top : 0);
  return {
    place: directive(Place)(),
    shown(count) {
      const first = Math.max(0, Math.floor(above() / rowPx) - AROUND);
      const from = Math.min(first, Math.max(0, count - 1));
      return { from, to: Math.min(count, from + Math.ceil(window.innerHeight / rowPx) + 2 * AROUND) };
    },
  };
}

// A part of a page that is made again only for another thing, or with something else.
class Unchanged extends Directive {
  render(of, by, make) {
    if (of === this.of && by === this.by) return noChange;
    this.of = of;
    this.by = by;
    return make();
  }
}
export const unchanged = directive(Unchanged);

// What is asked for together is done once, and never for more than a part of the time, however long it takes.
export function rarely(signal, work) {
  let waiting;
  let from = 0;
  const now = () => {
    waiting = undefined;
    if (signal.aborted) return;
    const began = performance.now();
    work();
    from = performance.now() + (REST - 1) * (performance.now() - began);
  };
  return () => (waiting ??= setTimeout(now, Math.max(0, from - performance.now())));
}
