// Which rows of a long list are seen: only those, and a few around them, are drawn.

import { directive, Directive } from "./lib/lit-html/directive.js";
import { noChange } from "./lib/lit-html/lit-html.js";

const AROUND = 20;

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
