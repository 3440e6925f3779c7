// Building the page: elements are made, never parsed, so no text from a server can become markup.

/** Make an element; keys with a dash, and the few listed, are attributes, all others properties. */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (value === undefined || value === null) continue;
    if (key.includes("-") || key === "role" || key === "list") node.setAttribute(key, value);
    else node[key] = value;
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

/** Make an SVG element. */
export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

/** Return the element with that id. */
export const $ = (id) => document.getElementById(id);

/** Turn plain text into nodes: `code` in backticks and arXiv numbers become elements. */
export function prose(text) {
  return text.split(/(`[^`]+`|arXiv:\d{4}\.\d{4,5})/).map((part) => {
    if (part.startsWith("`")) return el("code", { textContent: part.slice(1, -1) });
    if (!part.startsWith("arXiv:")) return part;
    return el("a", { href: `https://arxiv.org/abs/${part.slice(6)}`, rel: "noreferrer", textContent: part });
  });
}

/** Group entries by what `key` says of them, in order of first appearance. */
export function grouped(entries, key) {
  const groups = new Map();
  for (const entry of entries) {
    if (!groups.has(key(entry))) groups.set(key(entry), []);
    groups.get(key(entry)).push(entry);
  }
  return groups;
}

/** Write a name as a label: `octave_scale` -> `Octave scale`. */
export function humanise(name) {
  const words = name.replaceAll(/[_-]/g, " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/** Say milliseconds the short way. */
export function duration(ms) {
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(ms < 10_000 ? 1 : 0)} s`;
  return `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1000)} s`;
}

/** A button that copies a text, and says that it did. */
export function copyButton(read) {
  const button = el("button", { type: "button", className: "quiet copy", textContent: "Copy" });
  button.addEventListener("click", async () => {
    const done = await navigator.clipboard?.writeText(read()).then(() => true, () => false);
    button.textContent = done ? "Copied" : "Select and copy";
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
  return button;
}
