// The web studio: pick a technique, give it a photo, see what comes back.
// All forms are computed from GET /v1/techniques; this file only wires the pieces together.

import { Failure, getJson, getPicture, key, send } from "./api.js";
import { curlFor } from "./curl.js";
import { $, copyButton, duration, el, grouped, humanise, prose } from "./dom.js";
import { fieldsOf, modelField, seedField, segments } from "./forms.js";
import { film } from "./film.js";
import { cancel, follow, isFinal, jobView, setPaused } from "./jobs.js";
import { openKeyForm, wireKeyForm } from "./key.js";
import { noteNetwork, noteWeights } from "./network.js";
import { materialise, releasePictures, resultView, serverTiming } from "./results.js";
import { acceptPaste, ignoreStrayDrops, makeSlot } from "./slots.js";

const state = {
  techniques: [],
  styles: [],
  technique: null,
  slots: [],
  fields: [],
  renderingFields: [],
  stop: null, // ends the run under way; null where there is none
};

// --- start ---------------------------------------------------------------------------------------

async function start() {
  showFailure(null);
  try {
    state.techniques = await getJson("/v1/techniques");
    state.styles = await loadStyles();
  } catch (failure) {
    $("techniques").replaceChildren();
    return showFailure(failure, { retry: start });
  }
  const [name, jobId] = location.hash.slice(1).split("/").map(decodeURIComponent);
  drawTechniques();
  choose(state.techniques.find((each) => each.name === name) ?? state.techniques[0]);
  if (jobId && !state.stop) resume(jobId);
}

/** Load the styles with their thumbnails; a service without any still has its other techniques. */
async function loadStyles() {
  try {
    const { styles } = await getJson("/v1/styles");
    return await Promise.all(styles.map(async (style) => ({ ...style, picture: await thumbnail(style) })));
  } catch (failure) {
    if (failure.status === 401) throw failure;
    return [];
  }
}

/** A thumbnail's address; with a key it is fetched, for an <img> could not show the key. */
async function thumbnail({ thumbnail: url }) {
  if (!url || !key()) return url ?? null;
  return getPicture(url).then(URL.createObjectURL, () => null);
}

// --- techniques ----------------------------------------------------------------------------------

function drawTechniques() {
  const families = grouped(state.techniques, (technique) => technique.family);
  $("techniques").replaceChildren(...[...families].map(([family, members]) =>
    el("fieldset", {}, el("legend", {}, humanise(family)), members.map(techniqueChoice))));
}

function techniqueChoice(technique) {
  const input = el("input", { type: "radio", name: "technique", value: technique.name, className: "visually-hidden" });
  input.addEventListener("change", () => choose(technique));
  const pace = technique.runs === "job" ? el("small", { title: "takes a while and shows its progress" }, " slow") : null;
  return el("label", { className: "technique", title: technique.summary }, input, el("span", {}, technique.title, pace));
}

function choose(technique) {
  if (!technique) return showFailure(new Failure({ title: "The service has no techniques." }));
  state.technique = technique;
  const radio = document.querySelector(`input[name=technique][value="${CSS.escape(technique.name)}"]`);
  if (radio) radio.checked = true;
  if (!location.hash.startsWith(`#${technique.name}/`)) remember(technique.name);
  showFailure(null);
  drawForm(technique);
}

/** Keep technique and job in the address, so that a reload finds them again. */
function remember(...parts) {
  history.replaceState(null, "", `#${parts.map(encodeURIComponent).join("/")}`);
}

// --- the form ------------------------------------------------------------------------------------

function drawForm(technique) {
  $("title").textContent = technique.title;
  $("summary").replaceChildren(...prose(technique.summary));
  $("details").replaceChildren(...prose(technique.details ?? ""));
  $("source").replaceChildren("After ", ...prose(technique.source));

  state.slots = technique.inputs.map((input) => makeSlot(input, drawCurl));
  const params = fieldsOf(technique.params, state.styles);
  if (technique.model) params.push(modelField(technique.model));
  if (technique.seeded) params.push(seedField());
  state.renderingFields = fieldsOf(technique.rendering ?? {});
  state.fields = [...params, ...state.renderingFields];

  $("slots").replaceChildren(...state.slots.map((slot) => slot.root));
  $("params").replaceChildren(...params.map((field) => field.root));
  $("rendering").replaceChildren(...state.renderingFields.map((field) => field.root));
  $("params-group").hidden = params.length === 0;
  $("output-group").hidden = state.renderingFields.length === 0;
  $("form").hidden = false;
  state.fields.forEach((field) => field.refresh());
  noteWeights(state.fields);
  noteNetwork(state.fields);
  drawCurl();
}

function drawCurl() {
  const filled = new Map(state.slots.map((slot) => [slot.name, slot.files().length]));
  $("curl").textContent = curlFor(state.technique, changedEntries(), filled);
}

/** The parameters that differ from their defaults, as [name, text]. */
function changedEntries() {
  return state.fields.map((field) => [field.name, field.changed()]).filter(([, text]) => text !== null);
}

/** Mark what is wrong already here; return whether all is well. */
function formIsSound() {
  for (const part of [...state.slots, ...state.fields]) part.mark(part.problem());
  return !showFirstMark();
}

/** Mark what the service says is wrong, by the name that ends each pointer; return the first mark. */
function markErrors(errors) {
  for (const { pointer, detail } of errors) {
    const path = segments(pointer ?? "");
    const parts = path[0] === "inputs" ? [...state.slots, ...state.fields] : [...state.fields, ...state.slots];
    const named = path.reverse().map((name) => parts.find((part) => part.name === name)).find(Boolean);
    named?.mark(detail);
  }
  return showFirstMark();
}

function showFirstMark() {
  const first = $("form").querySelector("[aria-invalid=true]");
  first?.closest("details")?.setAttribute("open", "");
  first?.focus();
  return first;
}

function resetForm() {
  state.fields.forEach((field) => field.reset());
  state.slots.forEach((slot) => slot.mark(""));
  noteNetwork(state.fields);
  drawCurl();
}

// --- a run ---------------------------------------------------------------------------------------

async function run() {
  if (state.stop) return;
  showFailure(null);
  if (!formIsSound()) return;
  const { technique } = state;
  remember(technique.name);
  const original = state.slots[0]?.files()[0] ?? null;
  const abort = new AbortController();
  const view = openStage(technique.title, () => abort.abort());
  const started = performance.now();
  try {
    const response = await send(`/v1/techniques/${technique.name}`,
      { method: "POST", body: callBody(), signal: abort.signal });
    if (response.status === 202) return await followJob(await jobOf(response), technique, view, original);
    const result = await response.json();
    const small = [`${duration(performance.now() - started)} in all`, ...serverTiming(response.headers.get("Server-Timing"))];
    await showResult(technique, result.artifacts, { facts: result.facts, original, small });
    endRun("The result is here.");
  } catch (failure) {
    failRun(failure);
  }
}

function callBody() {
  const body = new FormData();
  for (const slot of state.slots) for (const file of slot.files()) body.append(slot.name, file, file.name);
  for (const [name, text] of changedEntries()) body.append(name, text);
  return body;
}

/** Read the job document of a 202; its id stands in Location too. */
async function jobOf(response) {
  const job = await response.json().catch(() => ({}));
  return { ...job, id: job.id ?? response.headers.get("Location")?.split("/").pop() };
}

/** Show that a run is under way; return the view of its progress. */
function openStage(title, stop) {
  state.stop = stop;
  setRunning(true);
  releasePictures();
  const view = jobView({ title, onCancel: () => state.stop?.(), onPause: (on) => state.pause?.(on) });
  $("stage").replaceChildren(view.root);
  announce(`${title} is running.`);
  reveal();
  return view;
}

function endRun(said) {
  state.stop = state.pause = null;
  setRunning(false);
  announce(said);
}

function failRun(failure) {
  if (failure.name === "AbortError") {
    $("stage").replaceChildren(el("p", { className: "empty" }, "Stopped."));
    return endRun("Stopped.");
  }
  stripJobView();
  endRun("");
  showFailure(failure);
  if (!markErrors(failure.errors ?? [])) reveal();
}

/** Leave only the last preview of a run that ended without a result. */
function stripJobView() {
  for (const part of $("stage").querySelectorAll(".job > :not(.picture)")) part.remove();
}

/** Bring the stage into sight on a narrow screen, where it lies below the form. */
function reveal() {
  if (matchMedia("(min-width: 48rem)").matches) return;
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  $("stage").parentElement.scrollIntoView({ behavior: calm ? "auto" : "smooth", block: "start" });
}

function setRunning(on) {
  $("run").disabled = on;
  $("run").textContent = on ? "Running…" : "Run";
}

async function showResult(technique, artifacts, { facts, original, small }) {
  if (facts?.style) state.styles = await loadStyles(); // the job has trained one
  const pieces = await Promise.all(artifacts.map(materialise));
  $("stage").replaceChildren(resultView({
    technique: technique.name, pieces, facts, original, small,
    onReuse: state.slots.length ? (file) => state.slots[0].put([file]) : null,
  }));
  await Promise.allSettled([...$("stage").querySelectorAll("img")].map((image) => image.decode()));
  reveal();
}

// --- a job ---------------------------------------------------------------------------------------

/** Take up a job that the address names, after a reload. */
async function resume(id) {
  try {
    const job = await getJson(`/v1/jobs/${encodeURIComponent(id)}`);
    const technique = state.techniques.find((each) => each.name === job.technique) ?? state.technique;
    const view = openStage(technique.title, () => {});
    await followJob(job, technique, view, null);
  } catch (failure) {
    failRun(failure);
    remember(state.technique.name);
  }
}

async function followJob(job, technique, view, original) {
  remember(technique.name, job.id);
  if (isFinal(job.status)) return finishJob(job, technique, original);
  const milestones = new Set();
  const stands = ({ status }) => { view.say(statusText(status)); view.state(status); };
  state.stop = () => cancelJob(job.id, view);
  state.pause = (on) => pauseJob(job.id, on, view, stands);
  stands({ status: job.status ?? "queued" });
  follow(job.id, {
    status: stands,
    progress: (progress) => { view.progress(progress); announceQuarters(progress, milestones); },
    preview: view.preview,
    lost: view.lost,
    failed: failRun,
    done: (ended) => finishJob(ended, technique, original),
  });
}

function statusText(status) {
  return { queued: "Waiting for a worker", running: "Running", paused: "Paused" }[status] ?? humanise(status);
}

async function cancelJob(id, view) {
  view.say("Cancelling…");
  try {
    await cancel(id);
  } catch (failure) {
    if (failure.status === 409) return; // it ended meanwhile; its last event says how
    view.allowCancel();
    showFailure(failure);
  }
}

async function pauseJob(id, on, view, stands) {
  try {
    const job = await setPaused(id, on);
    if (on && job.status === "running") view.say("Pausing behind this step…");
    else if (!isFinal(job.status)) stands(job);
  } catch (failure) {
    if (failure.status !== 409) showFailure(failure);
  }
}

async function finishJob(job, technique, original) {
  try {
    if (job.status !== "succeeded") return endWithout(job);
    const [, ...others] = job.result?.artifacts ?? [];
    const principal = { ...job.result?.artifacts?.[0], url: `/v1/jobs/${encodeURIComponent(job.id)}/result` };
    await showResult(technique, [principal, ...others],
      { facts: job.result?.facts, original, small: [jobTime(job), `job ${job.id}`] });
    endRun("The job is done. The result is here.");
    const making = await film(job.id).catch(() => null); // a nicety: the result is there without it
    if (making) $("stage").querySelector(".result")?.append(making);
  } catch (failure) {
    failRun(failure);
  }
}

function endWithout({ status, error }) {
  if (status !== "canceled") {
    const title = status === "expired" ? "The result has expired." : "The job failed.";
    return failRun(new Failure({ title, ...error, status: 0 }));
  }
  stripJobView();
  const shown = $("stage").querySelector(".picture:not([hidden])");
  $("stage").prepend(shown ? el("p", { className: "job-status" }, "Cancelled. This is how far it came.")
    : el("p", { className: "empty" }, "Cancelled."));
  endRun("Cancelled.");
}

function jobTime({ started_at: from, finished_at: to }) {
  const ms = new Date(to) - new Date(from);
  return from && to && ms >= 0 ? `${duration(ms)} at work` : null;
}

function announceQuarters({ fraction }, milestones) {
  const quarter = Math.floor((fraction ?? 0) * 4);
  if (quarter < 1 || quarter > 3 || milestones.has(quarter)) return;
  milestones.add(quarter);
  announce(`${quarter * 25} percent done.`);
}

// --- saying things -------------------------------------------------------------------------------

function announce(text) {
  $("announcer").textContent = text;
}

function showFailure(failure, { retry } = {}) {
  if (!failure) return $("alert").replaceChildren();
  if (!(failure instanceof Failure)) console.error(failure);
  const shown = failure instanceof Failure ? failure : new Failure({ title: "The studio met an answer it does not understand." });
  const again = retry ? el("button", { type: "button", textContent: "Try again" }) : null;
  again?.addEventListener("click", retry);
  $("alert").replaceChildren(el("div", { className: "failure" },
    el("p", {}, shown.message),
    otherErrors(shown),
    shown.requestId ? el("p", { className: "small-print" }, `Request ${shown.requestId}`) : null,
    again));
  if (shown.status === 401) openKeyForm(true);
}

/** Errors that say more than the sentence above them. */
function otherErrors({ errors, message }) {
  const more = (errors ?? []).filter(({ detail }) => detail && !message.toLowerCase().includes(detail.toLowerCase()));
  return more.length ? el("ul", {}, more.map(({ pointer, detail }) =>
    el("li", {}, el("code", {}, segments(pointer ?? "").pop() ?? ""), ` ${detail}`))) : null;
}

// --- wiring --------------------------------------------------------------------------------------

$("form").addEventListener("submit", (event) => { event.preventDefault(); run(); });
$("form").addEventListener("input", drawCurl);
$("form").addEventListener("change", (event) => { if (event.target.name === "model") noteNetwork(state.fields); });
$("reset").addEventListener("click", resetForm);
wireKeyForm(() => {
  if (!state.technique) return start();
  showFailure(null);
  drawCurl();
});
$("curl-copy").append(copyButton(() => $("curl").textContent));
acceptPaste(() => state.slots);
ignoreStrayDrops();
start();
