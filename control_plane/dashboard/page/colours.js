// One colour for each name, always the same.

export function hue(name) {
  let hash = 0;
  for (const char of name) hash = (hash * 31 + char.codePointAt(0)) >>> 0;
  return (hash * 137) % 360;
}

export const colour = (name) => `oklch(0.68 0.13 ${hue(name)})`;
