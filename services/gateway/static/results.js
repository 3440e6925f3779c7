// Showing what came back: pictures, tables, facts and timings.

import { send } from "./api.js";
import { el, duration, humanise } from "./dom.js";

const SHOWABLE = "image/*, application/json;q=0.9, application/*;q=0.8";
let pictureUrls = [];

/** Let go of the pictures of the last result. */
export function releasePictures() {
  pictureUrls.forEach((url) => URL.revokeObjectURL(url));
  pictureUrls = [];
}

/** Turn an artifact into `{name, kind, blob}` or `{name, kind, rows}`, fetching it where it is not inline. */
export async function materialise({ name, kind, data, url }) {
  if (typeof data === "string" && data.startsWith("data:")) return { name, kind, blob: blobOf(data) };
  if (data !== undefined) return { name, kind, rows: data };
  const response = await send(url, { accept: SHOWABLE });
  const type = response.headers.get("Content-Type") ?? "";
  if (!type.includes("json")) return { name, kind, blob: await response.blob() };
  const body = await response.json();
  return body?.artifacts ? materialise(body.artifacts[0]) : { name, kind, rows: body };
}

/** The view of a finished run. */
export function resultView({ technique, pieces, facts = {}, original = null, small = [], onReuse }) {
  return el("div", { className: "result" },
    factsSummary(facts),
    pieces.map((piece, at) => pieceView(piece, { technique, original: at === 0 ? original : null, onReuse })),
    small.length ? el("p", { className: "small-print" }, small.filter(Boolean).join(" · ")) : null,
    factsDetails(facts));
}

/** Read a Server-Timing header: `model;dur=80` -> `model 80 ms`. */
export function serverTiming(header) {
  return (header ?? "").split(",").map((entry) => {
    const [name, ...rest] = entry.trim().split(";");
    const dur = rest.map((part) => part.trim()).find((part) => part.startsWith("dur="));
    return dur ? `${name} ${duration(Number(dur.slice(4)))}` : name;
  }).filter(Boolean);
}

function pieceView(piece, context) {
  if (piece.blob?.type.startsWith("image/")) return pictureView(piece, context);
  if (piece.blob) return el("p", {}, `${humanise(piece.name)} `, downloadLink(piece, context.technique));
  if (Array.isArray(piece.rows) && piece.rows[0] && "probability" in piece.rows[0]) return barList(piece.rows);
  if (Array.isArray(piece.rows)) return tableView(piece.rows);
  return el("pre", {}, JSON.stringify(piece.rows, null, 2));
}

function pictureView(piece, { technique, original, onReuse }) {
  const made = pictureUrl(piece.blob);
  const picture = el("img", { className: "picture", src: made, alt: `${humanise(piece.name)} made by ${technique}` });
  const actions = el("div", { className: "actions" }, downloadLink(piece, technique, made));
  if (original) actions.append(compareButton(picture, made, pictureUrl(original)));
  if (onReuse && piece.kind !== "animation") { // a photo does not move
    const reuse = el("button", { type: "button", textContent: "Use as photo" });
    reuse.addEventListener("click", () => onReuse(new File([piece.blob], fileName(piece, technique), { type: piece.blob.type })));
    actions.append(reuse);
  }
  return el("figure", {}, picture, el("figcaption", {}, actions));
}

function compareButton(picture, made, original) {
  const button = el("button", { type: "button", "aria-pressed": "false", textContent: "Show original" });
  const text = picture.alt;
  button.addEventListener("click", () => {
    const show = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(show));
    picture.src = show ? original : made;
    picture.alt = show ? "The original photo" : text;
  });
  return button;
}

function downloadLink(piece, technique, href = pictureUrl(piece.blob)) {
  return el("a", { className: "button", href, download: fileName(piece, technique), textContent: "Download" });
}

function fileName({ name, blob }, technique) {
  const ending = blob.type.split("/")[1]?.split(/[;+]/)[0].replace("jpeg", "jpg").replace("vnd.", "") || "bin";
  return `${technique}-${name}.${ending}`;
}

function barList(rows) {
  return el("ol", { className: "bars" }, rows.map((row) => {
    const bar = el("span", { className: "bar", "aria-hidden": "true" });
    bar.style.width = `${Math.max(0.3, row.probability * 100)}%`;
    return el("li", {},
      el("span", { className: "bar-label" }, row.label ?? `class ${row.class}`,
        row.class === undefined ? null : el("small", { title: "class number, the `target` of other techniques" }, ` ${row.class}`)),
      el("span", { className: "bar-value" }, percent(row.probability)),
      el("span", { className: "bar-track" }, bar));
  }));
}

function tableView(rows) {
  if (!rows.length) return el("p", {}, "The table is empty.");
  const columns = Object.keys(rows[0]);
  const cells = (tag, texts) => el("tr", {}, texts.map((text) => el(tag, {}, String(text ?? ""))));
  return el("div", { className: "scroll", tabIndex: 0 }, el("table", {},
    el("thead", {}, cells("th", columns.map(humanise))),
    el("tbody", {}, rows.map((row) => cells("td", columns.map((column) => row[column]))))));
}

function factsSummary({ class: explained, warnings }) {
  const notes = [warnings ?? []].flat().map((text) => el("p", { className: "warning" }, String(text)));
  if (!explained) return notes;
  return [el("p", { className: "explained" }, "Explained class: ", el("strong", {}, explained.label ?? ""),
    ` (${explained.index})`,
    Number.isFinite(explained.probability) ? `, to which the network gives ${percent(explained.probability)}` : ""), ...notes];
}

function factsDetails(facts) {
  if (!Object.keys(facts).length) return null;
  return el("details", { className: "facts" }, el("summary", {}, "Facts, to trust and repeat it"),
    el("pre", { tabIndex: 0 }, JSON.stringify(facts, null, 2)));
}

function percent(share) {
  return `${(share * 100).toFixed(share < 0.1 ? 2 : 1)} %`;
}

function pictureUrl(blob) {
  const url = URL.createObjectURL(blob);
  pictureUrls.push(url);
  return url;
}

/** Decode a base64 data URL; fetch() would be refused by the page's own security policy. */
function blobOf(dataUrl) {
  const comma = dataUrl.indexOf(",");
  const type = dataUrl.slice(5, comma).split(";")[0];
  const bytes = Uint8Array.from(atob(dataUrl.slice(comma + 1)), (letter) => letter.charCodeAt(0));
  return new Blob([bytes], { type });
}
