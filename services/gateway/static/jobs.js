// Following a job: server-sent events; polling where a key must travel or the stream breaks.

import { getJson, getPicture, key, send } from "./api.js";
import { el, duration, svg } from "./dom.js";

const FINAL = new Set(["succeeded", "failed", "canceled", "expired"]);
const EVENTS = ["status", "progress", "preview", "done"];
const POLL_MS = 1000;
const LONGEST_POLL_MS = 10_000;

/**
 * Follow a job until it ends; `on` has status, progress, preview, done, lost and failed.
 * Return a function that stops following.
 */
export function follow(id, on) {
  const watch = { id, on, stopped: false, source: null };
  if (key()) poll(watch);
  else stream(watch);
  return () => { watch.stopped = true; watch.source?.close(); };
}

/** Ask the service to cancel a job. */
export function cancel(id) {
  return send(`/v1/jobs/${encodeURIComponent(id)}/cancel`, { method: "POST" });
}

/** Ask the service to pause a job, or to go on with it; return how it stands. */
export async function setPaused(id, paused) {
  const path = `/v1/jobs/${encodeURIComponent(id)}/${paused ? "pause" : "resume"}`;
  return (await send(path, { method: "POST" })).json();
}

/** Whether a status will never change. */
export const isFinal = (status) => FINAL.has(status);

function stream(watch) {
  const source = new EventSource(`/v1/jobs/${encodeURIComponent(watch.id)}/events`);
  watch.source = source;
  for (const name of EVENTS) {
    source.addEventListener(name, (event) => {
      if (name === "done") source.close();
      watch.on[name](JSON.parse(event.data));
    });
  }
  source.onerror = () => { // refused, cut or timed out: the job's document still tells
    source.close();
    if (!watch.stopped) poll(watch);
  };
}

async function poll(watch) {
  for (let wait = POLL_MS; !watch.stopped; await pause(wait)) {
    try {
      const job = await getJson(`/v1/jobs/${encodeURIComponent(watch.id)}`);
      if (watch.stopped) return;
      if (FINAL.has(job.status)) return watch.on.done(job);
      tell(job, watch.on);
      wait = POLL_MS;
    } catch (failure) {
      if (watch.stopped) return;
      if (!failure.passes) return watch.on.failed(failure);
      watch.on.lost();
      wait = Math.min(wait * 2, LONGEST_POLL_MS);
    }
  }
}

function tell(job, on) {
  on.status(job);
  if (job.progress) on.progress(job.progress);
  if (job.preview?.url) on.preview(job.preview);
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** The view of a job under way: bar, numbers, loss curve, newest preview, pause, cancel. */
export function jobView({ title, onCancel, onPause }) {
  const status = el("p", { className: "job-status" }, "Sending…");
  const bar = el("progress", { "aria-label": `Progress of ${title}` });
  const numbers = el("p", { className: "numbers" });
  const curve = svg("polyline", { class: "curve" });
  const chart = svg("svg", { class: "loss", viewBox: "0 0 100 24", preserveAspectRatio: "none", "aria-hidden": "true" }, curve);
  const picture = el("img", { className: "picture", alt: "Newest preview", hidden: true });
  const button = el("button", { type: "button", textContent: "Cancel" });
  const hold = pauseButton(onPause);
  chart.style.display = "none";
  button.addEventListener("click", () => { button.disabled = true; onCancel(); });
  const losses = [];
  let said = "";
  return {
    root: el("div", { className: "job" },
      el("div", { className: "job-head" }, status, el("div", { className: "actions" }, hold.root, button)), bar, numbers, chart, picture),
    /** Say how the job stands; it is said again once a lost connection is back. */
    say: (text) => { status.textContent = said = text; },
    state: hold.state,
    lost: () => { status.textContent = "Connection lost; trying again…"; },
    preview: newestPreview(picture),
    allowCancel: () => { button.disabled = false; },
    progress: (progress) => {
      status.textContent = said;
      showProgress(progress, bar, numbers);
      if (Number.isFinite(progress.loss)) losses.push(progress.loss);
      chart.style.display = losses.length > 2 ? "" : "none";
      curve.setAttribute("points", curvePoints(losses));
    },
  };
}

/** A button that pauses a job that waits or runs, and lets a paused one go on. */
function pauseButton(onPause) {
  const root = el("button", { type: "button", textContent: "Pause", hidden: true });
  let paused = false;
  root.addEventListener("click", () => { root.disabled = true; onPause?.(!paused); });
  return {
    root,
    state: (status) => {
      paused = status === "paused";
      root.hidden = FINAL.has(status);
      root.disabled = false;
      root.textContent = paused ? "Go on" : "Pause";
    },
  };
}

function showProgress({ done, total, fraction, loss, eta_s: eta }, bar, numbers) {
  const share = fraction ?? (total ? done / total : null);
  if (share !== null) bar.value = share;
  numbers.textContent = [
    total ? `step ${done} of ${total}` : null,
    Number.isFinite(loss) ? `loss ${Number(loss.toPrecision(4))}` : null,
    Number.isFinite(eta) && eta > 0 ? `about ${duration(Math.max(1, Math.round(eta)) * 1000)} left` : null,
  ].filter(Boolean).join(" · ");
}

/** Show previews one at a time; while one is on its way only the newest is remembered. */
function newestPreview(picture) {
  let busy = false;
  let next = null;
  return async function show(preview) {
    next = preview;
    if (busy) return;
    busy = true;
    while (next?.url) {
      const { url, step } = next;
      next = null;
      const blob = await getPicture(url, { cache: "no-cache" }).catch(() => null);
      if (blob) replacePicture(picture, blob, step);
    }
    busy = false;
  };
}

function replacePicture(picture, blob, step) {
  URL.revokeObjectURL(picture.src);
  picture.src = URL.createObjectURL(blob);
  picture.alt = step === undefined ? "Newest preview" : `Preview at step ${step}`;
  picture.hidden = false;
}

function curvePoints(losses) {
  const low = Math.min(...losses);
  const span = Math.max(...losses) - low || 1;
  return losses.map((loss, at) =>
    `${((100 * at) / (losses.length - 1 || 1)).toFixed(2)},${(22 - (20 * (loss - low)) / span).toFixed(2)}`).join(" ");
}
