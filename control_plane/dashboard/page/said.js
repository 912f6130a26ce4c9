// What came of a button, told for a moment at the bottom of the page and to readers of screens.

const SHOWN_MS = 8000;
let clearing;

export function said(text, bad = false) {
  const place = document.getElementById("said");
  place.textContent = text;
  place.className = bad ? "bad" : "";
  clearTimeout(clearing);
  clearing = setTimeout(() => (place.textContent = ""), SHOWN_MS);
}

// Does what a button is for; the text that it returns, or why it failed, is told.
export async function attempt(work) {
  try {
    const text = await work();
    if (typeof text === "string") said(text);
    return true;
  } catch (error) {
    said(error.message, true);
    return false;
  }
}
