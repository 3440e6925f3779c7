// The camera page: frames go out over a WebSocket, painted ones come back and are drawn.

import { getJson, key } from "./api.js";
import { $, el } from "./dom.js";

const LONGEST_SIDE = 768;
const MOST_UNDER_WAY = 2; // one is painted while the next is on its way
const QUALITY = 0.8;

const live = { socket: null, camera: null, timer: 0, underWay: 0, sheet: document.createElement("canvas") };

// --- controls ------------------------------------------------------------------------------------

async function fillStyles() {
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

function change() {
  if (live.socket?.readyState === WebSocket.OPEN) live.socket.send(JSON.stringify(chosen()));
}

// --- the stream ----------------------------------------------------------------------------------

async function start() {
  say("");
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
  live.socket.addEventListener("open", () => { live.underWay = 0; tick(); });
  live.socket.addEventListener("message", ({ data }) => (typeof data === "string" ? hear(JSON.parse(data)) : draw(data)));
  live.socket.addEventListener("close", ({ reason }) => { if (live.camera) { stop(); say(reason || "The stream has ended."); } });
  $("start").textContent = "Stop";
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
fillStyles().catch((failure) => say(failure.message));
