// A field: adding a cell that was missed (a tap sets a box of the usual size, a pull draws one), and
// saying that every white cell has its box.
"use strict";
(() => {
  const { t, fail, post } = leukoscope;
  const { root, film } = cells;
  const over = document.getElementById("over");
  const add = document.getElementById("add");
  const check = document.getElementById("check");
  const field = root.dataset.field;
  const side = Number(root.dataset.side);
  const SVG = "http://www.w3.org/2000/svg";
  let draft = null;
  let from = null;

  const adding = () => add.getAttribute("aria-pressed") === "true";

  function stop() {
    add.setAttribute("aria-pressed", "false");
    root.classList.remove("adding");
    if (draft) draft.remove();
    draft = from = null;
    cells.say("");
  }

  function place(event) {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(over.getScreenCTM().inverse());
    return [point.x, point.y];
  }

  function draw([x1, y1], [x2, y2]) {
    if (!draft) {
      draft = document.createElementNS(SVG, "rect");
      draft.setAttribute("class", "draft");
      over.append(draft);
    }
    const box = { x: Math.min(x1, x2), y: Math.min(y1, y2), width: Math.abs(x2 - x1), height: Math.abs(y2 - y1) };
    for (const [name, value] of Object.entries(box)) draft.setAttribute(name, value);
  }

  add.addEventListener("click", () => {
    if (adding()) return stop();
    cells.selectNone();
    add.setAttribute("aria-pressed", "true");
    root.classList.add("adding");
    cells.say(t("add_where"));
  });
  over.addEventListener("pointerdown", (event) => {
    if (!adding()) return;
    event.preventDefault();
    over.setPointerCapture(event.pointerId);
    from = place(event);
  });
  over.addEventListener("pointermove", (event) => {
    if (from) draw(from, place(event));
  });
  over.addEventListener("pointerup", (event) => {
    if (!from) return;
    const [x1, y1] = from;
    const [x2, y2] = place(event);
    // A finger that hardly moved has tapped.
    if (Math.hypot(x2 - x1, y2 - y1) < side / 2) {
      draw([x1 - side / 2, y1 - side / 2], [x1 + side / 2, y1 + side / 2]);
    } else draw([x1, y1], [x2, y2]);
    from = null;
    cells.say(t("add_class"));
  });
  over.addEventListener("click", (event) => {
    if (adding()) event.stopPropagation();
  }, true);

  cells.onClass((name) => {
    if (!adding()) return false;
    if (!draft || name === "") {
      cells.say(t("add_where"));
      return true;
    }
    const box = ["x", "y", "width", "height"].map((each) => Number(draft.getAttribute(each)));
    const fields = { x1: box[0], y1: box[1], x2: box[0] + box[2], y2: box[1] + box[3], class_name: name };
    cells.change(`/films/${film}/fields/${field}/cells`, fields, () => location.reload());
    return true;
  });
  document.addEventListener("leukoscope:undone", (event) => {
    const { what } = event.detail;
    if (what === "cell_added" || what === "field_checked") location.reload();
  });

  check.addEventListener("click", async () => {
    const checked = check.dataset.checked !== "true";
    check.disabled = true;
    try {
      await post(`/films/${film}/fields/${field}/check`, { checked });
      if (checked && check.dataset.next) location.assign(check.dataset.next);
      else location.reload();
    } catch (error) {
      check.disabled = false;
      fail(error.message);
    }
  });
})();
