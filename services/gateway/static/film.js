// The making of a picture: the previews of its job as a film to play and to scrub through.

import { getJson, getPicture } from "./api.js";
import { el } from "./dom.js";

const FRAME_MS = 250;

/** The film of a finished job, loaded when it is opened; null where there is too little to see. */
export async function film(id) {
  const { previews } = await getJson(`/v1/jobs/${encodeURIComponent(id)}/previews`);
  if (previews.length < 3) return null;
  const picture = el("img", { className: "picture", alt: "" });
  const slider = el("input", { type: "range", min: 0, max: previews.length - 1, value: 0, "aria-label": "Step" });
  const play = el("button", { type: "button", textContent: "Play" });
  const step = el("span", { className: "numbers" });
  const root = el("details", { className: "film" }, el("summary", {}, "Watch it being made"),
    picture, el("div", { className: "film-controls" }, play, slider, step));
  const show = showing(previews, picture, slider, step);
  slider.addEventListener("input", show);
  play.addEventListener("click", player(slider, play, show));
  root.addEventListener("toggle", () => root.open && show(), { once: true });
  return root;
}

/** Return what shows the frame that the slider is at; each is fetched once. */
function showing(previews, picture, slider, step) {
  const frames = new Map();
  return async function show() {
    const at = Number(slider.value);
    if (!frames.has(at)) frames.set(at, URL.createObjectURL(await getPicture(previews[at].url)));
    if (Number(slider.value) !== at) return;
    picture.src = frames.get(at);
    picture.alt = `Preview at step ${previews[at].step}`;
    step.textContent = `step ${previews[at].step}`;
  };
}

/** Return what starts and stops the film. */
function player(slider, button, show) {
  let timer = 0;
  const stop = () => { clearInterval(timer); timer = 0; button.textContent = "Play"; };
  return () => {
    if (timer) return stop();
    if (slider.value === slider.max) slider.value = 0;
    button.textContent = "Stop";
    show();
    timer = setInterval(() => {
      if (slider.value === slider.max || !button.isConnected) return stop();
      slider.value = Number(slider.value) + 1;
      show().catch(stop);
    }, FRAME_MS);
  };
}
