// The same call on a command line.

import { key } from "./api.js";

/**
 * Write the curl command that runs a technique; `entries` are the parameters that differ from their
 * defaults, `filled` says how many photos each slot has.
 */
export function curlFor(technique, entries = [], filled = new Map()) {
  const accept = technique.outputs[0]?.name === "classes" ? "application/json" : "image/jpeg";
  const saves = technique.runs === "interactive" && accept === "image/jpeg";
  const files = technique.inputs.flatMap((input) => filesOf(input, filled.get(input.name) ?? 0));
  return [
    "curl",
    files.length || entries.length ? null : "-X POST",
    key() ? '-H "Authorization: Bearer $LANTERN_KEY"' : null,
    technique.runs === "interactive" ? `-H 'Accept: ${accept}'` : null,
    ...files,
    ...entries.map(([name, value]) => `${flagFor(value)} ${quoted(`${name}=${value}`)}`),
    saves ? `-o ${technique.name}.jpg` : null,
    `${location.origin}/v1/techniques/${technique.name}`,
  ].filter(Boolean).join(" \\\n  ");
}

/** One `-F` for each photo of a slot, as many as there are or must be. */
function filesOf({ name, least }, count) {
  return Array.from({ length: Math.max(least, count) }, (_, at) => `-F ${name}=@${name}${at ? `-${at + 1}` : ""}.jpg`);
}

/** `-F` reads some values as files or types; `--form-string` never does. */
function flagFor(value) {
  return /^[@<]|;/.test(value) ? "--form-string" : "-F";
}

function quoted(text) {
  return /^[\w.,=:@%+-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
