// What the control plane was like whenever this tab looked, for an hour or so: nobody else remembers it.

const EVERY_S = 10;
const LOOKS_MAX = 360;

let looks = [];

export const any = () => looks.length > 0;
export const forget = () => (looks = []);

// The highest revision that a member told of.
const revisionOf = ({ members }) => Math.max(0, ...members.map((one) => one.revision || 0));

// Keeps a look, made at `at` seconds, where the last one is some time ago or something is otherwise since.
export function keep(now, at, otherwise) {
  const last = looks.at(-1);
  if (last && !otherwise && at - last.at < EVERY_S) return;
  looks.push({ now, at, revision: Math.max(last?.revision ?? 0, revisionOf(now)) });
  looks = looks.slice(-LOOKS_MAX);
}

// The looks up to a revision, the last one being of then; none where this tab had not looked yet.
export const upTo = (revision) => looks.filter((one) => one.revision <= revision);
