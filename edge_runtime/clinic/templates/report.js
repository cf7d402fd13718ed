"use strict";
(function () {
  const byId = (id) => document.getElementById(id);
  const fields = byId("field-list");
  const slider = byId("min-score");
  const classes = byId("class-filter");

  /* The same filter holds for the gallery and for the boxes on the pictures. */
  const scored = Array.from(document.querySelectorAll("[data-score]"));
  const crops = scored.filter((item) => item.tagName === "LI");
  function filter() {
    const lowest = Number(slider.value);
    const wanted = classes ? classes.value : "";
    for (const item of scored) {
      const hidden =
        Number(item.dataset.score) < lowest || (wanted !== "" && item.dataset.class !== wanted);
      item.classList.toggle("off", hidden);
    }
    for (const group of document.querySelectorAll(".group")) {
      group.classList.toggle("off", !group.querySelector("li[data-score]:not(.off)"));
    }
    byId("min-score-value").value = lowest.toFixed(2);
    const shown = crops.filter((item) => !item.classList.contains("off")).length;
    byId("shown").textContent = shown + " of " + crops.length + " in this gallery";
  }
  if (slider) {
    slider.addEventListener("input", filter);
    if (classes) classes.addEventListener("change", filter);
    byId("filters").addEventListener("submit", (event) => event.preventDefault());
    filter();
  }

  /* Checkboxes of the fields' section, each a class on the list. */
  function bind(id, name, whenChecked) {
    const box = byId(id);
    if (!box) return;
    const apply = () => fields.classList.toggle(name, box.checked === whenChecked);
    box.addEventListener("change", apply);
    apply();
  }
  bind("show-boxes", "no-boxes", false);
  bind("show-empty", "no-empty", false);
  bind("show-scores", "scores", true);

  /* A link to a cell or field opens its picture; style does the rest through :target. */
  function show() {
    document.querySelectorAll(".here").forEach((item) => item.classList.remove("here"));
    for (const item of document.querySelectorAll(".field.open")) {
      item.classList.remove("open");
      item.querySelector(".picture").style.maxWidth = "";
    }
    const target = location.hash.length > 1 ? byId(decodeURIComponent(location.hash.slice(1))) : null;
    const field = target && target.closest(".field");
    if (!field) return;
    field.classList.add("open");
    /* The whole field with its caption should fit into the window. */
    const view = field.querySelector("svg").viewBox.baseVal;
    const tallest = Math.max(innerHeight - 110, 320);
    field.querySelector(".picture").style.maxWidth = (tallest * view.width) / view.height + "px";
    if (target !== field) target.classList.add("here");
    /* Opening changes the layout, so the place is sought only afterwards. */
    requestAnimationFrame(() => {
      field.scrollIntoView({ block: field.offsetHeight > innerHeight ? "start" : "center" });
      (target === field ? field : target).focus({ preventScroll: true });
    });
  }
  addEventListener("hashchange", show);
  if (fields) {
    fields.addEventListener("click", (event) => {
      if (event.target.closest("a")) return;
      const field = event.target.closest(".field");
      if (!field || !event.target.closest(".picture")) return;
      location.hash = field.classList.contains("open") ? "#fields" : "#" + field.id;
    });
  }
  show();

  /* A closed <details> would be missing on paper. */
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = Array.from(document.querySelectorAll("details:not([open])"));
    for (const item of opened) item.open = true;
  });
  addEventListener("afterprint", () => {
    for (const item of opened) item.open = false;
  });
})();
