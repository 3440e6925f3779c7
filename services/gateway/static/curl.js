// The same call on a command line.

import { key } from "./api.js";

/** Write the curl command that runs a technique; `entries` are the parameters that differ from their defaults. */
export function curlFor(technique, entries = []) {
  const accept = technique.outputs[0]?.name === "classes" ? "application/json" : "image/jpeg";
  const saves = technique.runs === "interactive" && accept === "image/jpeg";
  return [
    "curl",
    technique.inputs.length || entries.length ? null : "-X POST",
    key() ? '-H "Authorization: Bearer $LANTERN_KEY"' : null,
    technique.runs === "interactive" ? `-H 'Accept: ${accept}'` : null,
    ...technique.inputs.map(({ name }) => `-F ${name}=@${name}.jpg`),
    ...entries.map(([name, value]) => `${flagFor(value)} ${quoted(`${name}=${value}`)}`),
    saves ? `-o ${technique.name}.jpg` : null,
    `${location.origin}/v1/techniques/${technique.name}`,
  ].filter(Boolean).join(" \\\n  ");
}

/** `-F` reads some values as files or types; `--form-string` never does. */
function flagFor(value) {
  return /^[@<]|;/.test(value) ? "--form-string" : "-F";
}

function quoted(text) {
  return /^[\w.,=:@%+-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
