// The microscope's view: asks for the newest picture and for the state, again and again.
"use strict";
(() => {
  const root = document.getElementById("live");
  if (!root) return;
  const { t, fail, post, poll } = leukoscope;
  const at = (id) => document.getElementById(id);
  const PICTURE_MS = 200;
  const STATE_MS = 500;
  // Older than this, a picture is no longer what lies under the microscope.
  const OLD_MS = 3000;

  let state = null;
  let answeredAt = Date.now();
  let pictureAt = Date.now();
  let pictureNumber = 0;
  const wait = (ms) => new Promise((done) => setTimeout(done, Math.max(0, ms)));
  const seen = () =>
    document.hidden ? new Promise((done) => document.addEventListener("visibilitychange", done, { once: true })) : null;

  // ---- The picture

  function draw(bitmap, facts) {
    const canvas = at("view");
    if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
      canvas.width = bitmap.width;
      canvas.height = bitmap.height;
    }
    const pen = canvas.getContext("2d");
    pen.drawImage(bitmap, 0, 0);
    // Boxes and words keep their size on the screen, however far the picture is shrunk.
    const scale = bitmap.width / Math.max(1, canvas.clientWidth);
    const look = getComputedStyle(root);
    const line = look.getPropertyValue("--box");
    const casing = look.getPropertyValue("--casing");
    pen.font = `600 ${Math.round(14 * scale)}px system-ui, "DejaVu Sans", sans-serif`;
    pen.textBaseline = "bottom";
    for (const [x1, y1, x2, y2, name] of facts.boxes) {
      pen.strokeStyle = casing;
      pen.lineWidth = 5 * scale;
      pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
      pen.strokeStyle = line;
      pen.lineWidth = 2.5 * scale;
      pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
      const wide = pen.measureText(name).width + 8 * scale;
      const high = 19 * scale;
      const left = Math.min(Math.max(0, x1), bitmap.width - wide);
      const top = y1 - high - 2 * scale < 0 ? y2 + 2 * scale : y1 - high - 2 * scale;
      pen.fillStyle = casing;
      pen.fillRect(left, top, wide, high);
      pen.fillStyle = line;
      pen.fillText(name, left + 4 * scale, top + high - 2 * scale);
    }
    at("age").textContent = t("live_age", { ms: facts.age_ms });
  }

  async function askPicture() {
    const answer = await fetch(`/live/picture?after=${pictureNumber}`, {
      headers: { "X-Leukoscope-Poll": "1" },
      cache: "no-store",
    });
    if (answer.status === 401) location.reload();
    if (answer.status !== 200) return;
    const facts = JSON.parse(answer.headers.get("x-leukoscope-picture"));
    const bitmap = await createImageBitmap(await answer.blob());
    draw(bitmap, facts);
    bitmap.close();
    pictureNumber = facts.number;
    pictureAt = Date.now() - facts.age_ms;
  }

  async function pictures() {
    for (;;) {
      await seen();
      const began = Date.now();
      try {
        await askPicture();
      } catch {
        // The state's loop tells that nobody answers.
        await wait(500);
      }
      await wait(PICTURE_MS - (Date.now() - began));
    }
  }

  // ---- The state

  function row(cells, none) {
    const line = document.createElement("tr");
    if (none) line.className = "none";
    for (const words of cells) line.insertCell().textContent = words;
    return line;
  }

  function show() {
    root.dataset.phase = state.phase;
    const say = at("say");
    // Only what changes is written, so that a screen reader says it once.
    if (say.dataset.tone !== state.headline.tone) say.dataset.tone = state.headline.tone;
    write(at("say-text"), state.headline.text);
    write(at("say-detail"), state.headline.detail || "");
    write(at("cells"), state.cells_text);
    write(at("to-next"), state.to_next);
    const progress = at("progress");
    progress.firstElementChild.style.width = `${100 * state.progress}%`;
    progress.setAttribute("aria-valuenow", state.cells);
    const meter = at("focus").querySelector(".meter");
    at("focus").hidden = state.focus === null;
    meter.firstElementChild.style.width = `${100 * (state.focus || 0)}%`;
    meter.classList.toggle("good", state.focus >= 0.5);
    meter.setAttribute("aria-valuenow", state.focus || 0);
    const advice = state.gate && state.gate.text !== state.headline.text ? state.gate.text : "";
    write(at("gate"), advice);
    const busy = state.phase === "running" || state.phase === "ending";
    const counted = busy || state.fields !== "";
    at("found").hidden = !counted;
    const screening = state.screening;
    const twice = screening && screening.text === state.headline.text;
    write(at("screening"), screening && !twice ? screening.detail || screening.text : "");
    at("screening").dataset.tone = screening ? screening.tone : "calm";
    at("rows").replaceChildren(
      ...state.differential.map((each) =>
        row([each.name, each.count, each.percent === null ? "–" : each.percent, each.interval], !each.count),
      ),
    );
    at("outside").replaceChildren(
      ...state.outside.filter(([, count]) => count).map(([name, count]) => row([name, count, "", ""], false)),
    );
    const named = state.differential.length > 0;
    at("found").querySelector("table").hidden = !named;
    at("no-classes").hidden = named;
    at("notes").replaceChildren(
      ...state.notes.map((words) => {
        const item = document.createElement("li");
        item.textContent = words;
        return item;
      }),
    );
    write(at("fields"), [state.fields, state.age].filter(Boolean).join(". "));
    at("count").toggleAttribute("data-empty", !counted);
    for (const id of ["start", "go"]) {
      if (at(id)) at(id).hidden = busy || state.phase === "starting";
    }
    const stop = at("stop");
    if (stop) {
      stop.hidden = !busy;
      stop.disabled = state.phase === "ending";
    }
    const look = at("look");
    look.hidden = busy || state.phase === "starting" || state.last_film === null;
    if (state.last_film !== null) {
      look.href = `/films/${state.last_film}`;
      write(look, look.dataset.words.replace("%", state.last_film));
    }
  }

  function write(place, words) {
    if (place.textContent !== words) place.textContent = words;
  }

  function tellAge() {
    const now = Date.now();
    const shows = state && (state.phase === "running" || state.focus !== null);
    let words = "";
    if (now - answeredAt > OLD_MS) {
      words = t("live_silent", { seconds: Math.round((now - answeredAt) / 1000) });
    } else if (shows && now - pictureAt > OLD_MS) {
      words = t("live_frozen", { seconds: Math.round((now - pictureAt) / 1000) });
    }
    write(at("old"), words);
    at("old").hidden = !words;
  }

  async function askState() {
    // A film that runs is work going on, though nobody touches the screen.
    state = await poll("/live/state", { keep: state !== null && state.phase === "running" });
    answeredAt = Date.now();
    show();
  }

  async function states() {
    for (;;) {
      await seen();
      try {
        await askState();
      } catch (error) {
        if (error.message === t("signed_out")) location.reload();
        await wait(500);
      }
      tellAge();
      await wait(STATE_MS);
    }
  }

  // ---- What a person does

  const form = at("start");
  if (form) {
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const go = at("go");
      go.disabled = true;
      fail("");
      try {
        await post("/live/start", Object.fromEntries(new FormData(form)));
        form.reset();
        await askState();
      } catch (error) {
        fail(error.message);
      }
      go.disabled = false;
    });
    at("stop").addEventListener("click", async () => {
      if (!window.confirm(at("stop").dataset.ask)) return;
      try {
        await post("/live/stop");
        await askState();
      } catch (error) {
        fail(error.message);
      }
    });
  }

  pictures();
  states();
})();
