// JSON Schema -> form fields. A field knows its name, whether its value is legal, and what differs from the default.

import { el, humanise } from "./dom.js";

/** Make the fields of an object schema. */
export function fieldsOf(schema, styles = []) {
  return Object.entries(schema.properties ?? {}).map(([name, entry]) => {
    const resolved = resolve(entry, schema);
    const isStyle = name === "style" && resolved.type === "string" && styles.length > 0;
    return makeField(name, resolved, isStyle ? styleControl(resolved, styles) : controlFor(resolved));
  });
}

/** The field that picks the network. */
export function modelField({ choices, default: chosen }) {
  const schema = { enum: choices, default: chosen, description: "network to look through" };
  return makeField("model", schema, controlFor(schema), "Network");
}

/** The field that picks the seed. */
export function seedField() {
  const schema = {
    type: "integer", minimum: 0, maximum: 2147483647, default: 0,
    description: "start of the random numbers; same seed, same picture",
  };
  return makeField("seed", schema, controlFor(schema));
}

/** Follow a local `$ref`, and unwrap `anyOf` with null into an optional schema. */
export function resolve(entry, root) {
  const { $ref, ...beside } = entry;
  const found = $ref ? { ...lookUp($ref, root), ...beside } : entry;
  const choices = found.anyOf?.map((choice) => resolve(choice, root));
  if (!choices) return found;
  const { anyOf, ...rest } = found;
  const real = choices.filter((choice) => choice.type !== "null");
  return { ...(real.length === 1 ? real[0] : {}), ...rest, optional: real.length < choices.length };
}

/** Follow `#/a/b` inside a document. */
export function lookUp(pointer, root) {
  return segments(pointer.slice(1)).reduce((at, name) => at?.[name], root) ?? {};
}

/** Split a JSON pointer. */
export function segments(pointer) {
  return pointer.split("/").slice(1).map((part) => part.replaceAll("~1", "/").replaceAll("~0", "~"));
}

/** Say which values a schema allows, for people. */
export function rangeText(schema) {
  const { low, high } = boundsOf(schema);
  const above = schema.exclusiveMinimum !== undefined ? "above " : "";
  if (low !== undefined && high !== undefined) return above ? `above ${low}, up to ${high}` : `${low} to ${high}`;
  if (low !== undefined) return above ? `above ${low}` : `${low} or more`;
  return high === undefined ? "" : `up to ${high}`;
}

function boundsOf(schema) {
  return {
    low: schema.minimum ?? schema.exclusiveMinimum,
    high: schema.maximum ?? schema.exclusiveMaximum,
  };
}

function makeField(name, schema, control, label = humanise(name)) {
  const id = `field-${name}`;
  const hint = el("p", { id: `${id}-hint`, className: "hint" }, hintText(schema));
  const error = el("p", { id: `${id}-error`, className: "field-error", hidden: true });
  Object.assign(control.input, { id, name, title: name });
  control.input.setAttribute("aria-describedby", `${hint.id} ${error.id}`);
  const unit = schema.unit ? el("span", { className: "unit" }, ` ${schema.unit}`) : null;
  const root = el("div", { className: `field ${control.kind}` },
    el("label", { htmlFor: id }, label, unit), control.view, hint, error);
  const field = {
    name, root, input: control.input,
    problem: () => valueProblem(control.read(), schema),
    /** The value as text, or null where it is the default or left empty. */
    changed: () => (sameAsDefault(control.read(), schema) ? null : control.read()),
    reset: () => { control.write(defaultText(schema)); field.mark(""); field.refresh(); },
    mark: (message) => markField(control.input, error, message),
    refresh: () => root.classList.toggle("changed", field.changed() !== null),
  };
  root.addEventListener("input", () => { field.mark(field.problem()); field.refresh(); });
  return field;
}

function markField(input, error, message) {
  error.textContent = message;
  error.hidden = !message;
  if (message) input.setAttribute("aria-invalid", "true");
  else input.removeAttribute("aria-invalid");
}

function hintText(schema) {
  const range = schema.type === "integer" || schema.type === "number" ? rangeText(schema) : "";
  const list = schema.type === "array" ? "comma-separated" : "";
  return [schema.description, range, list].filter(Boolean).join(" · ");
}

function defaultText(schema) {
  return [schema.default ?? ""].flat().join(", ");
}

function sameAsDefault(text, schema) {
  if (text === "") return schema.type !== "string" || schema.optional || defaultText(schema) === "";
  const numeric = schema.type === "integer" || schema.type === "number";
  if (numeric && schema.default != null) return Number(text) === Number(schema.default);
  return text.replaceAll(/\s*,\s*/g, ", ") === defaultText(schema);
}

/** Say what is wrong with a value, or "". The service judges again; this only spares a journey. */
function valueProblem(text, schema) {
  if (text === "" || !["integer", "number"].includes(schema.type)) return "";
  const value = Number(text);
  const { low, high } = boundsOf(schema);
  const fits = Number.isFinite(value)
    && (schema.type === "number" || Number.isInteger(value))
    && !(value < low || value > high)
    && value !== schema.exclusiveMinimum && value !== schema.exclusiveMaximum;
  return fits ? "" : `Must be a ${schema.type === "integer" ? "whole " : ""}number ${rangeText(schema)}.`;
}

function controlFor(schema) {
  if (schema.enum) return selectControl(schema, schema.enum);
  if (schema.type === "boolean") return schema.optional ? selectControl(schema, [true, false]) : checkboxControl(schema);
  if (schema.type === "integer" || schema.type === "number") return numberControl(schema);
  return textControl(schema);
}

function plain(kind, input, view = input) {
  return { kind, input, view, read: () => (input.validity.badInput ? "?" : input.value.trim()), write: (text) => { input.value = text; } };
}

function selectControl(schema, values) {
  const input = el("select", {}, values.map((value) => el("option", { value: String(value) }, String(value))));
  if (schema.optional) input.prepend(el("option", { value: "" }, "automatic"));
  input.value = defaultText(schema);
  return plain("choice", input);
}

function checkboxControl(schema) {
  const input = el("input", { type: "checkbox", checked: schema.default === true });
  return {
    kind: "check", input, view: input,
    read: () => String(input.checked),
    write: (text) => { input.checked = text === "true"; },
  };
}

function textControl(schema) {
  const input = el("input", {
    type: "text", value: defaultText(schema), spellcheck: false, autocomplete: "off",
    maxLength: schema.maxLength,
    placeholder: schema.optional ? "automatic" : schema.type === "array" ? "all" : "",
  });
  return plain("text", input);
}

function numberControl(schema) {
  const { low, high } = boundsOf(schema);
  const step = schema.type === "integer" ? 1 : niceStep(schema);
  const input = el("input", {
    type: "number", min: low, max: high, step, value: defaultText(schema),
    inputMode: schema.type === "integer" ? "numeric" : "decimal",
    placeholder: schema.optional ? "automatic" : "",
  });
  return suitsSlider(schema) ? withSlider(input, schema, step) : plain("number", input);
}

/** A slider suits a default that does not drown at its very left end. */
function suitsSlider(schema) {
  const { low, high } = boundsOf(schema);
  if (schema.default == null || low === undefined || high === undefined) return false;
  return (schema.default - low) / (high - low) >= 0.02 || high - low <= 20;
}

/** Pair a number with a slider; the number is the truth, the slider a shortcut for pointers. */
function withSlider(input, schema, step) {
  const { low, high } = boundsOf(schema);
  const slider = el("input", {
    type: "range", min: schema.exclusiveMinimum === undefined ? low : low + step, max: high, step,
    tabIndex: -1, "aria-hidden": "true",
  });
  slider.value = input.value;
  slider.addEventListener("input", () => { input.value = slider.value; });
  input.addEventListener("input", () => { slider.value = input.value; });
  const control = plain("slider", input, el("div", { className: "slider-pair" }, slider, input));
  return { ...control, write: (text) => { input.value = slider.value = text; } };
}

function niceStep(schema) {
  const { low = 0, high = 1 } = boundsOf(schema);
  const sizes = [(high - low) / 50, Math.abs(schema.default ?? 0) / 5].filter((size) => size > 0);
  return Number(`1e${Math.floor(Math.log10(Math.min(...sizes)) + 1e-9)}`);
}

/** A select of trained styles, with their thumbnails as shortcuts for pointers. */
function styleControl(schema, styles) {
  const input = el("select", {}, styles.map(({ name, title }) => el("option", { value: name }, title || name)));
  const thumbnails = styles.map((style) => styleThumbnail(style, input));
  const show = () => thumbnails.forEach((button) =>
    button.classList.toggle("chosen", button.dataset.style === input.value));
  const control = plain("style", input,
    el("div", {}, input, el("div", { className: "thumbnails", "aria-hidden": "true" }, thumbnails)));
  control.write = (text) => {
    input.value = text;
    if (!input.value) input.value = styles[0].name; // the default is not among the trained ones
    show();
  };
  input.addEventListener("input", show);
  control.write(defaultText(schema));
  return control;
}

function styleThumbnail({ name, title, picture }, input) {
  const button = el("button", { type: "button", tabIndex: -1, title: title || name },
    picture ? el("img", { src: picture, alt: "" }) : title || name);
  button.dataset.style = name;
  button.addEventListener("click", () => {
    input.value = name;
    input.dispatchEvent(new Event("input", { bubbles: true }));
  });
  return button;
}
