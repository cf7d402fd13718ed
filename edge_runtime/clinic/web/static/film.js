// A mark on the map leads to its cell in the gallery.
"use strict";
(() => {
  const map = document.getElementById("map");
  if (!map) return;
  map.addEventListener("click", (event) => {
    const mark = event.target.closest('[id^="cell-"]');
    if (mark) location.assign(`${map.dataset.gallery}#${mark.id}`);
  });
})();
