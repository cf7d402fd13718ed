// The digits to tap with gloves on, and the names that signed in on this very screen.
"use strict";
(() => {
  const form = document.querySelector("form.sign-in");
  if (!form) return;
  const name = form.elements.namedItem("name");
  const secret = form.elements.namedItem("secret");
  const pad = document.getElementById("pad");
  const names = document.getElementById("names");
  const KEY = "leukoscope-names";

  pad.hidden = false;
  pad.addEventListener("click", (event) => {
    const key = event.target.closest("button");
    if (!key) return;
    if ("digit" in key.dataset) secret.value += key.dataset.digit;
    else secret.value = "clear" in key.dataset ? "" : secret.value.slice(0, -1);
  });

  let known = [];
  try {
    known = JSON.parse(localStorage.getItem(KEY)) || [];
  } catch {
    known = [];
  }
  for (const each of known) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = each;
    button.addEventListener("click", () => {
      name.value = each;
      secret.value = "";
    });
    names.append(button);
  }
  names.hidden = known.length === 0;
  // The name is kept by the page after, when signing in went well: see clinic.js.
  form.addEventListener("submit", () => sessionStorage.setItem(KEY, name.value.trim()));
})();
