// The API page, made from /openapi.json and /v1/techniques.

import { getJson } from "./api.js";
import { curlFor } from "./curl.js";
import { $, copyButton, el, grouped, humanise, prose } from "./dom.js";
import { lookUp, rangeText, resolve } from "./forms.js";

const LAST_TAGS = ["health", "openapi"]; // for those who operate the service
const MOST_OPEN_ROWS = 4; // longer tables start folded
const METHODS = ["get", "head", "post", "put", "patch", "delete"];

async function start() {
  await Promise.all([
    section(getJson("/v1/techniques"), drawTechniques),
    section(getJson("/openapi.json"), drawPaths),
  ]);
  drawContents();
  if (location.hash) document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
}

/** Draw one part of the page; the other stands even where this one cannot be had. */
async function section(promise, draw) {
  try {
    draw(await promise);
  } catch (failure) {
    const help = failure.status === 401 ? " Give the key on the studio page, in this tab, then come back." : "";
    $("alert").append(el("div", { className: "failure" }, el("p", {}, failure.message + help)));
  }
}

function drawContents() {
  const headings = [...document.querySelectorAll("main section:not([hidden])")].filter((part) => part.id !== "start");
  $("contents").append(...headings.flatMap((part) => [
    el("a", { href: `#${part.id}` }, part.querySelector("h2").textContent),
    ...[...part.querySelectorAll("h3")].map((heading) =>
      el("a", { href: `#${heading.closest("article").id}`, className: "sub" }, heading.textContent)),
  ]));
}

// --- techniques ----------------------------------------------------------------------------------

function drawTechniques(techniques) {
  $("techniques").append(...techniques.map(techniqueEntry));
  $("techniques").hidden = techniques.length === 0;
}

function techniqueEntry(technique) {
  const command = curlFor(technique);
  const pace = technique.runs === "job" ? "answers 202 and a job"
    : "answers at once, or as a job where the call takes much work";
  return el("article", { className: "entry", id: `technique-${technique.name}` },
    el("div", { className: "entry-head" }, el("h3", {}, technique.title), el("code", {}, technique.name),
      el("span", { className: "hint" }, pace)),
    el("p", {}, prose(technique.summary)),
    technique.details ? el("p", { className: "hint" }, prose(technique.details)) : null,
    el("div", { className: "curl" }, el("pre", { tabIndex: 0 }, command), copyButton(() => command)),
    parameterDetails(technique),
    el("p", { className: "small-print" }, "After ", prose(technique.source), " · ",
      el("a", { href: `/v1/techniques/${technique.name}` }, "JSON"), " · ",
      el("a", { href: `/#${technique.name}` }, "open in the studio")));
}

function parameterDetails({ params, rendering, model, seeded }) {
  const rows = [...schemaRows(params), ...(model ? [modelRow(model)] : []), ...(seeded ? [seedRow()] : []), ...schemaRows(rendering)];
  return el("details", {}, el("summary", {}, `${rows.length} parameters`),
    tableOf(["name", "type", "default", "what it does"], rows));
}

function schemaRows(schema = {}) {
  return Object.entries(schema.properties ?? {}).map(([name, entry]) => {
    const resolved = resolve(entry, schema);
    return [codeOf(name), typeText(resolved), defaultText(resolved), told(resolved.description)];
  });
}

function modelRow({ choices, default: chosen }) {
  return [codeOf("model"), choices.join(", "), chosen, "network to look through"];
}

function seedRow() {
  return [codeOf("seed"), "integer, 0 to 2147483647", "0", "start of the random numbers"];
}

/** Say a schema's type and range: `integer, 1 to 10 px`. */
function typeText(schema) {
  if (schema.enum) return schema.enum.join(", ");
  if (schema.type === "array") return `list of ${typeText(schema.items ?? {})}`;
  const range = ["integer", "number"].includes(schema.type) ? rangeText(schema) : "";
  const type = [schema.type].flat().filter(Boolean).join(" or ") || "any";
  return `${type}${range ? `, ${range}` : ""}${schema.unit ? ` ${schema.unit}` : ""}`;
}

function defaultText(schema) {
  if (schema.default === null || (schema.default === undefined && schema.optional)) return "automatic";
  return schema.default === undefined ? "" : [schema.default].flat().join(", ") || "none";
}

// --- paths ---------------------------------------------------------------------------------------

function drawPaths(api) {
  const groups = grouped(operationsOf(api), (operation) => operation.tags?.[0] ?? firstSegment(operation.path));
  const ordered = [...groups].sort(([one], [other]) => LAST_TAGS.indexOf(one) - LAST_TAGS.indexOf(other));
  $("paths").append(...ordered.map(([tag, operations]) =>
    el("section", { id: `tag-${tag}` }, el("h2", {}, humanise(tag)),
      operations.map((operation) => operationEntry(operation, api)))));
}

/** List the operations; a path's own parameters belong to each of them. */
function operationsOf(api) {
  return Object.entries(api.paths ?? {}).flatMap(([path, item]) =>
    METHODS.filter((method) => item[method]).map((method) => ({
      ...item[method], path, method,
      parameters: [...(item.parameters ?? []), ...(item[method].parameters ?? [])],
    })));
}

function firstSegment(path) {
  return path.split("/").filter((part) => part && part !== "v1")[0] ?? "pages";
}

function operationEntry(operation, api) {
  const { method, path, summary, description } = operation;
  return el("article", { className: "entry", id: `${method}-${path}` },
    el("div", { className: "entry-head" },
      el("span", { className: `method ${method}` }, method.toUpperCase()), el("code", {}, path)),
    summary ? el("p", {}, prose(summary)) : null,
    description && description !== summary ? el("p", { className: "hint" }, prose(description)) : null,
    parametersOf(operation, api), bodyOf(operation, api), responsesOf(operation, api));
}

function parametersOf({ parameters }, api) {
  if (!parameters.length) return null;
  const rows = parameters.map((entry) => deref(entry, api)).map((parameter) => {
    const schema = resolve(parameter.schema ?? {}, api);
    return [codeOf(parameter.name), parameter.in, typeText(schema), told(parameter.description ?? schema.description)];
  });
  const anyTold = rows.some((row) => row[3]);
  const table = anyTold ? tableOf(["name", "in", "type", "what it does"], rows)
    : tableOf(["name", "in", "type"], rows.map((row) => row.slice(0, 3)));
  return rows.length > MOST_OPEN_ROWS
    ? el("details", {}, el("summary", {}, `${rows.length} parameters`), table)
    : el("div", {}, el("h4", {}, "Parameters"), table);
}

function bodyOf({ requestBody }, api) {
  if (!requestBody) return null;
  const content = deref(requestBody, api).content ?? {};
  return el("div", {}, el("h4", {}, "Body"), Object.entries(content).map(([type, { schema }]) => mediaEntry(type, schema, api)));
}

function responsesOf({ responses }, api) {
  const lines = Object.entries(responses ?? {}).map(([code, entry]) => {
    const { description, content } = deref(entry, api);
    const types = Object.keys(content ?? {}).join(", ");
    return el("li", {}, codeOf(code), ` ${description ?? ""}`, types ? el("span", { className: "hint" }, ` as ${types}`) : null);
  });
  return lines.length ? el("div", {}, el("h4", {}, "Answers"), el("ul", { className: "answers" }, lines)) : null;
}

/** One media type of a body; a schema worth reading folds out. */
function mediaEntry(type, schema, api) {
  const shown = schema ? deref(schema, api) : {};
  if (!shown.properties && !shown.oneOf && !shown.anyOf) return el("p", {}, codeOf(type));
  return el("details", {}, el("summary", {}, codeOf(type)), el("pre", { tabIndex: 0 }, JSON.stringify(shown, null, 2)));
}

const deref = (entry, api) => (entry.$ref ? lookUp(entry.$ref, api) : entry);

const told = (text) => (text ? prose(text) : "");

const codeOf = (text) => el("code", {}, text);

function tableOf(columns, rows) {
  const line = (tag, cells) => el("tr", {}, cells.map((cell) => el(tag, {}, cell)));
  return el("div", { className: "scroll" }, el("table", {},
    el("thead", {}, line("th", columns)), el("tbody", {}, rows.map((row) => line("td", row)))));
}

start();
