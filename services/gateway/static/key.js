// The form for the service's key, on each page that needs one.

import { keepKey, key } from "./api.js";
import { $ } from "./dom.js";

/** Show or hide the form. */
export function openKeyForm(open) {
  $("key-form").hidden = !open;
  $("key-open").hidden = false;
  $("key-forget").hidden = !key();
  if (open) $("key-input").focus();
}

/** Let the form work; `onChange` is called when there is another key, or none any more. */
export function wireKeyForm(onChange) {
  const use = (text) => {
    const isHeaderSafe = /^[\x21-\x7e]*$/.test(text);
    $("key-input").setCustomValidity(isHeaderSafe ? "" : "A key has only plain letters, digits and signs.");
    if (text && !$("key-form").reportValidity()) return;
    keepKey(text);
    $("key-input").value = "";
    openKeyForm(false);
    onChange();
  };
  $("key-form").addEventListener("submit", (event) => { event.preventDefault(); use($("key-input").value.trim()); });
  $("key-input").addEventListener("input", () => $("key-input").setCustomValidity(""));
  $("key-forget").addEventListener("click", () => use(""));
  $("key-open").addEventListener("click", () => openKeyForm($("key-form").hidden));
  $("key-open").hidden = !key();
}
