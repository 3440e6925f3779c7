// What the service knows of its networks, laid over the form: weights, layer names, class labels.
// All of it is a courtesy; the form works without.

import { getJson } from "./api.js";
import { el } from "./dom.js";

const WEIGHTS_NOTE = { missing: " · weights missing", downloadable: " · weights are fetched first" };

/** Say in the network's select whose weights are not here, and offer the networks a person has brought. */
export async function noteWeights(fields) {
  const model = named(fields, "model");
  if (!model) return;
  const { models } = await getJson("/v1/models").catch(() => ({}));
  const weights = new Map((models ?? []).map((each) => [each.name, each.weights]));
  for (const { name, title } of (models ?? []).filter((each) => each.architecture)) {
    model.input.append(el("option", { value: name, label: title || name }));
  }
  for (const option of model.input.options) {
    if (option.label !== option.textContent) continue; // it has a title
    option.textContent = option.value + (WEIGHTS_NOTE[weights.get(option.value)] ?? "");
  }
}

/** Offer the chosen network's layers, and read class numbers out by label. */
export async function noteNetwork(fields) {
  const [model, layer, target] = ["model", "layer", "target"].map((name) => named(fields, name));
  if (!model || !(layer || target)) return;
  const name = model.input.value;
  const { layers, labels } = await getJson(`/v1/models/${encodeURIComponent(name)}`).catch(() => ({}));
  if (!model.root.isConnected || model.input.value !== name) return; // the person went on meanwhile
  if (layer && Array.isArray(layers)) offerLayers(layer, layers);
  if (target && Array.isArray(labels)) readOut(target, labels);
}

const named = (fields, name) => fields.find((field) => field.name === name);

function offerLayers(field, layers) {
  const id = "layer-names";
  field.root.querySelector("datalist")?.remove();
  field.root.append(el("datalist", { id }, layers.map(({ name, type, shape }) =>
    el("option", { value: name, label: [type, shape?.join("×")].filter(Boolean).join(" ") }))));
  field.input.setAttribute("list", id);
}

function readOut(field, labels) {
  field.root.querySelector("output")?.remove();
  const output = el("output", { className: "read-out" });
  output.htmlFor.add(field.input.id);
  field.root.querySelector(".hint").after(output);
  const show = () => { output.textContent = field.input.value && (labels[Number(field.input.value)] ?? ""); };
  field.root.addEventListener("input", show);
  show();
}
