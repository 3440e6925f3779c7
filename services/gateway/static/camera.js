// The camera page: frames go out over a WebSocket, painted ones come back and are drawn.

import { getJson, key } from "./api.js";
import { $, el } from "./dom.js";
import { openKeyForm, wireKeyForm } from "./key.js";

const LONGEST_SIDE = 768;
const MOST_UNDER_WAY = 2; // one is painted while the next is on its way
const QUALITY = 0.8;

const live = { socket: null, camera: null, timer: 0, underWay: 0, sheet: document.createElement("canvas") };

// --- controls ------------------------------------------------------------------------------------

/** Offer the styles; return whether they could be had. */
async function fillStyles() {
  say("");
  try {
    await offerStyles();
    return true;
  } catch (failure) {
    $("style").replaceChildren();
    say(failure.message);
    if (failure.status === 401) openKeyForm(true);
    return false;
  }
}

async function offerStyles() {
  const { styles } = await getJson("/v1/styles");
  const option = ({ name, title }) => el("option", { value: name }, title || name);
  const first = styles.find((style) => style.blends) ?? styles[0];
  $("style").replaceChildren(...styles.map(option));
  if (first) $("style").value = first.name;
  $("blend").replaceChildren(el("option", { value: "" }, "nothing"), ...styles.filter((style) => style.blends).map(option));
}

/** What the controls say, as the service's parameters. */
function chosen() {
  const [style, blend, share] = [$("style").value, $("blend").value, Number($("share").value)];
  const mixed = blend && blend !== style && share > 0 && share < 1;
  return {
    style: mixed ? `${style}:${(1 - share).toFixed(2)},${blend}:${share.toFixed(2)}` : (share === 1 && blend) || style,
    strength: Number($("strength").value),
    fps: Number($("fps").value) || 12,
  };
}

/** Write beside the sliders where they stand, also for those who hear it. */
function showValues() {
  for (const id of ["share", "strength"]) {
    const shown = `${Math.round($(id).value * 100)} %`;
    $(`${id}-value`).textContent = shown;
    $(id).setAttribute("aria-valuetext", shown);
  }
}

function change() {
  if (live.socket?.readyState === WebSocket.OPEN) live.socket.send(JSON.stringify(chosen()));
}

// --- the stream ----------------------------------------------------------------------------------

async function start() {
  if (!$("style").value && !(await fillStyles())) return;
  say("");
  if (!navigator.mediaDevices) return say("A browser lets a page see the camera over https or on localhost only.");
  try {
    live.camera = await navigator.mediaDevices.getUserMedia({ video: { width: 640, height: 480 }, audio: false });
  } catch (error) {
    return say(`There is no camera to be had: ${error.message}`);
  }
  $("video").srcObject = live.camera;
  await $("video").play();
  const address = new URL("/v1/stream", location.href);
  address.protocol = address.protocol.replace("http", "ws");
  address.search = new URLSearchParams({ ...chosen(), size: LONGEST_SIDE });
  live.socket = new WebSocket(address, ["lantern", ...(key() ? [`bearer.${key()}`] : [])]);
  live.socket.binaryType = "blob";
  let isOpen = false;
  live.socket.addEventListener("open", () => { isOpen = true; live.underWay = 0; tick(); });
  live.socket.addEventListener("message", ({ data }) => (typeof data === "string" ? hear(JSON.parse(data)) : draw(data)));
  live.socket.addEventListener("close", async ({ reason }) => {
    if (!live.camera) return;
    stop();
    say(reason || (isOpen ? "The stream has ended." : await whyRefused(address.search)));
  });
  $("start").textContent = "Stop";
}

/** Ask again without a handshake: a WebSocket does not tell why it was refused. */
async function whyRefused(query) {
  const failure = await getJson(`/v1/stream${query}`).catch((refusal) => refusal);
  if (failure.status === 401) openKeyForm(true);
  return failure.status === 426 ? "The stream was not opened; perhaps too many are open." : failure.message;
}

function stop() {
  clearTimeout(live.timer);
  const { socket, camera } = live;
  live.socket = live.camera = null;
  camera?.getTracks().forEach((track) => track.stop());
  socket?.close();
  $("start").textContent = "Start the camera";
}

/** Send the present frame, unless the last ones are still under way; come again in time. */
function tick() {
  const { socket, sheet } = live;
  if (socket?.readyState !== WebSocket.OPEN) return;
  live.timer = setTimeout(tick, 1000 / chosen().fps);
  const video = $("video");
  if (live.underWay >= MOST_UNDER_WAY || !video.videoWidth) return;
  const scale = Math.min(1, LONGEST_SIDE / Math.max(video.videoWidth, video.videoHeight));
  sheet.width = video.videoWidth * scale;
  sheet.height = video.videoHeight * scale;
  sheet.getContext("2d").drawImage(video, 0, 0, sheet.width, sheet.height);
  live.underWay += 1;
  sheet.toBlob((frame) => frame && socket.readyState === WebSocket.OPEN && socket.send(frame), "image/jpeg", QUALITY);
}

async function draw(blob) {
  live.underWay = Math.max(0, live.underWay - 1);
  const bitmap = await createImageBitmap(blob);
  const picture = $("picture");
  picture.width = bitmap.width;
  picture.height = bitmap.height;
  picture.getContext("2d").drawImage(bitmap, 0, 0);
  bitmap.close();
}

function hear(message) {
  if (message.type === "rate") {
    live.underWay = Math.min(live.underWay, 1); // a frame that was dropped has no answer
    $("rate").textContent = `${message.fps} frames per second, ${message.size} px, ${message.dropped} dropped`;
  } else if (message.type === "problem") {
    live.underWay = Math.max(0, live.underWay - 1);
    say(message.problem.detail);
  }
}

function say(text) {
  $("alert").textContent = text;
}

$("controls").addEventListener("submit", (event) => {
  event.preventDefault();
  if (live.camera) stop();
  else start();
});
for (const id of ["style", "blend", "share", "strength", "fps"]) $(id).addEventListener("change", change);
for (const id of ["share", "strength"]) $(id).addEventListener("input", showValues);
wireKeyForm(fillStyles);
showValues();
fillStyles();
