"use strict";
document.documentElement.classList.add("js");

// Tables: a click on the name of a column sorts by it, numbers from the largest one, and another click the other way
// round. What is undefined stays last.
const number = text => parseFloat(text.replace("−", "-").replace(/^\+/, ""));
for (const table of document.querySelectorAll(".table table")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const text = row => row.cells[column].textContent;
      const [known, empty] = [true, false].map(is => [...body.rows].filter(row => (text(row) !== "-") === is));
      const numeric = known.every(row => !Number.isNaN(number(text(row))));
      const before = head.getAttribute("aria-sort");
      const falling = before ? before === "ascending" : numeric;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      known.sort((a, b) => numeric ? number(text(a)) - number(text(b))
        : text(a).localeCompare(text(b), undefined, {numeric: true}));
      body.append(...(falling ? known.reverse() : known), ...empty);
    });
  });
}

// Images: right of the slider is the map that is chosen.
for (const one of document.querySelectorAll(".case")) {
  const maps = [...one.querySelectorAll(".view")].slice(1);
  const slider = one.querySelector("input[type=range]"), choice = one.querySelector("select");
  const show = () => {
    maps.forEach((map, at) => map.classList.toggle("shown", at === choice.selectedIndex));
    for (const map of maps) map.style.setProperty("--from", `${slider.value}%`);
  };
  slider.addEventListener("input", show);
  choice.addEventListener("change", show);
  show();
}
const outlines = document.querySelector("#outlines");
if (outlines) outlines.addEventListener("change", () => document.body.classList.toggle("hidden", !outlines.checked));
