// What every page uses: messages, sending a change, telling of a failure.
// Leukoscope has no framework: `leukoscope` below is all that other scripts get.
"use strict";
const leukoscope = (() => {
  const texts = JSON.parse(document.body.dataset.texts || "{}");
  const csrf = document.querySelector('meta[name="csrf"]').content;
  const failure = document.getElementById("failure");

  // A message of the catalogue's group js, with its {values}.
  function t(id, values = {}) {
    return (texts["js." + id] || id).replace(/\{(\w+)\}/g, (whole, name) => (name in values ? values[name] : whole));
  }

  function fail(words) {
    failure.textContent = words || "";
    failure.hidden = !words;
    if (words) failure.scrollIntoView({ block: "nearest" });
  }

  async function answer(request) {
    let response;
    try {
      response = await request;
    } catch {
      throw new Error(t("no_answer"));
    }
    if (response.status === 401) throw new Error(t("signed_out"));
    const isJson = (response.headers.get("content-type") || "").startsWith("application/json");
    const content = isJson ? await response.json() : { detail: await response.text() };
    if (!response.ok) throw new Error(content.detail || response.statusText);
    return content;
  }

  // Sends a change as a form; gives what the device answers, or throws an Error to be shown.
  function post(path, fields = {}) {
    return answer(
      fetch(path, {
        method: "POST",
        headers: { "X-CSRF-Token": csrf, Accept: "application/json" },
        body: new URLSearchParams(fields),
      }),
    );
  }

  // Asks without a person having done anything, so that it does not keep the session alive
  // unless `keep` says that work is going on.
  function poll(path, { keep = false } = {}) {
    const headers = { Accept: "application/json" };
    if (!keep) headers["X-Leukoscope-Poll"] = "1";
    return answer(fetch(path, { headers, cache: "no-store" }));
  }

  return { t, fail, post, poll };
})();

// A menu that is left closes.
document.addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll("details.me[open]")) {
    if (!menu.contains(event.target)) menu.open = false;
  }
});
// Whatever cannot be taken back is asked for once more.
document.addEventListener("submit", (event) => {
  const sure = event.submitter && event.submitter.dataset.sure;
  if (sure && !window.confirm(sure)) event.preventDefault();
});
// A name that signed in on this screen is offered there next time.
(() => {
  const KEY = "leukoscope-names";
  const name = sessionStorage.getItem(KEY);
  const me = document.querySelector("details.me .who");
  if (!name || !me) return;
  sessionStorage.removeItem(KEY);
  try {
    const known = (JSON.parse(localStorage.getItem(KEY)) || []).filter((each) => each !== me.textContent);
    localStorage.setItem(KEY, JSON.stringify([me.textContent, ...known].slice(0, 6)));
  } catch {
    // Without storage the name is typed.
  }
})();
