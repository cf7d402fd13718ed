// Correcting cells, in the gallery and in a field: tap a cell and then its class, or arm a class
// and then tap cell after cell; keys 1-9 name, 0 rejects, U takes back, arrows move.
"use strict";
const cells = (() => {
  const { t, fail, post } = leukoscope;
  const root = document.getElementById("cells");
  const bar = document.getElementById("class-bar");
  const about = document.getElementById("about");
  const details = document.getElementById("details");
  const film = root.dataset.film;
  let armed = null;
  let selected = null;
  // A view that draws boxes takes over a class here (see field.js).
  let takeClass = () => false;
  // One change after the other, so that what is taken back is the newest.
  let last = Promise.resolve();

  const all = () => [...root.querySelectorAll("[data-cell]")].filter((each) => !each.closest("[hidden]"));
  const marksOf = (id) => root.querySelectorAll(`[data-cell="${id}"]`);
  const label = (name) => {
    const button = bar.querySelector(`[data-give="${CSS.escape(name)}"]`);
    return button ? button.dataset.label : name.replaceAll("_", " ");
  };

  function say(words, more = "") {
    about.textContent = words || about.dataset.empty;
    details.textContent = more;
  }

  function select(mark) {
    if (selected) selected.classList.remove("selected");
    selected = mark;
    if (!mark) return say(armed === null ? "" : t("armed", { name: armedLabel() }));
    mark.classList.add("selected");
    mark.focus({ preventScroll: true });
    mark.scrollIntoView({ block: "nearest" });
    say(mark.dataset.about, mark.dataset.details);
  }

  const armedLabel = () => bar.querySelector(`[data-give="${CSS.escape(armed)}"]`).dataset.label;

  function arm(name) {
    armed = armed === name ? null : name;
    for (const each of bar.querySelectorAll("[data-give]")) {
      each.setAttribute("aria-pressed", String(armed !== null && each.dataset.give === armed));
    }
    root.classList.toggle("armed", armed !== null);
    select(null);
  }

  function change(path, fields, done) {
    last = last.then(async () => {
      try {
        const answer = await post(path, fields);
        fail("");
        done(answer);
      } catch (error) {
        fail(error.message);
      }
    });
    return last;
  }

  function give(mark, name) {
    const id = mark.dataset.cell;
    const next = neighbour(mark, 1);
    const advance = mark === selected;
    const path = name === "" ? `/cells/${id}/reject` : `/cells/${id}/class`;
    change(path, name === "" ? {} : { class_name: name }, (cell) => {
      show(cell);
      say(t("named", { name: cell.rejected ? label("") : label(cell.class_name) }));
      if (advance) select(next && next.isConnected ? next : null);
    });
  }

  // Shows what a cell is now, wherever it stands in this view.
  function show(cell) {
    for (const mark of marksOf(cell.id)) {
      mark.dataset.class = cell.class_name;
      mark.toggleAttribute("data-rejected", cell.rejected);
      mark.classList.toggle("given", cell.given);
      mark.dataset.about = cell.rejected ? label("") : label(cell.class_name);
      const text = mark.querySelector("text");
      if (text) {
        text.textContent = mark.dataset.about;
        mark.setAttribute("aria-label", mark.dataset.about);
        continue;
      }
      const sure = mark.querySelector(".sure");
      if (sure.dataset.model === undefined) sure.dataset.model = sure.textContent === "✓" ? "" : sure.textContent;
      sure.textContent = cell.given ? "✓" : sure.dataset.model;
      const group = root.querySelector(`[data-group="${cell.rejected ? "rejected" : CSS.escape(cell.class_name)}"]`);
      const from = mark.closest("[data-group]");
      if (group && group !== from) {
        group.querySelector("ul").append(mark.closest("li"));
        for (const each of [from, group]) count(each);
      }
    }
  }

  function count(group) {
    const number = group.querySelectorAll("[data-cell]").length;
    group.querySelector("[data-count]").textContent = number;
    group.hidden = number === 0;
    const jump = document.querySelector(`.jumps [href="#${CSS.escape(group.id)}"] b`);
    if (jump) jump.textContent = number;
  }

  function neighbour(mark, step) {
    const found = all();
    return found[found.indexOf(mark) + step] || null;
  }

  function undo() {
    change(`/films/${film}/undo`, {}, (answer) => {
      if (answer.what === null) return say(t("nothing_to_undo"));
      if (answer.cell) show(answer.cell);
      say(t("undone"));
      // A field's own view was drawn without what came back.
      document.dispatchEvent(new CustomEvent("leukoscope:undone", { detail: answer }));
    });
  }

  root.addEventListener("click", (event) => {
    const mark = event.target.closest("[data-cell]");
    if (!mark) return;
    if (armed !== null) give(mark, armed);
    else select(mark === selected ? null : mark);
  });
  bar.addEventListener("click", (event) => {
    const button = event.target.closest("[data-give]");
    if (!button) return;
    const name = button.dataset.give;
    if (takeClass(name)) return;
    if (selected) give(selected, name);
    else arm(name);
  });
  document.getElementById("undo").addEventListener("click", undo);
  document.addEventListener("keydown", (event) => {
    if (event.target.closest("input, textarea, select") || event.altKey || event.metaKey) return;
    if (event.ctrlKey && event.key !== "z") return;
    const button = bar.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
    if (button) button.click();
    else if (event.key === "u" || event.key === "U" || event.key === "z") undo();
    else if (event.key === "Escape") (armed !== null ? arm(armed) : select(null));
    else if (event.key === "ArrowRight" || event.key === "ArrowLeft") {
      const step = event.key === "ArrowRight" ? 1 : -1;
      select(selected ? neighbour(selected, step) || selected : all()[0] || null);
    } else if ((event.key === "Enter" || event.key === " ") && event.target.closest("g[data-cell]")) {
      event.target.closest("g[data-cell]").dispatchEvent(new MouseEvent("click", { bubbles: true }));
    } else return;
    event.preventDefault();
  });
  // The map of the film leads to one cell.
  if (location.hash.startsWith("#cell-")) select(document.getElementById(location.hash.slice(1)));

  return {
    root,
    film,
    say,
    change,
    label,
    selectNone: () => select(null),
    onClass: (take) => {
      takeClass = take;
    },
  };
})();
