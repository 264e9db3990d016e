// Sorting and the switch between light and dark. Without this script the page shows the same.
"use strict";

const root = document.documentElement;
const KEY = "fastlt-theme";

// A page opened as a file may have no storage: then a choice lasts as long as the page.
function stored() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null;
  }
}

function store(theme) {
  try {
    localStorage.setItem(KEY, theme);
  } catch {
    // nothing to remember with
  }
}

if (["light", "dark"].includes(stored())) root.dataset.theme = stored();

function addThemeSwitch() {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const other = () => ((root.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark" ? "light" : "dark");
  const button = document.createElement("button");
  button.type = "button";
  button.className = "theme";
  const show = () => (button.textContent = other() === "dark" ? "Dark" : "Light");
  button.addEventListener("click", () => {
    root.dataset.theme = other();
    store(root.dataset.theme);
    show();
  });
  system.addEventListener("change", show);
  button.title = "Switch between light and dark";
  show();
  document.querySelector("header").prepend(button);
}

// Numbers by value, all else as text in which numbers count as such; empty cells come last in either order.
function compare(one, two, sign) {
  const texts = [one, two].map((cell) => cell.dataset.value ?? cell.textContent.trim());
  if (texts.includes("")) return (texts[0] === "") - (texts[1] === "");
  const values = texts.map(Number);
  if (values.some(Number.isNaN)) return sign * texts[0].localeCompare(texts[1], "en", { numeric: true });
  return sign * (values[0] - values[1]);
}

function addSorting(table) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const heads = [...table.querySelectorAll("th[data-sort]")];
  for (const head of heads) {
    const column = Number(head.dataset.column);
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.firstElementChild.replaceChildren(button);
    // One order, then the other, then the page's own.
    button.addEventListener("click", () => {
      const [first, second] = head.dataset.sort === "ascending" ? ["ascending", "descending"] : ["descending", "ascending"];
      const order = { [first]: second, [second]: null }[head.getAttribute("aria-sort")];
      const next = order === undefined ? first : order;
      for (const each of heads) each.removeAttribute("aria-sort");
      if (next) head.setAttribute("aria-sort", next);
      const sign = next === "ascending" ? 1 : -1;
      const rows = next ? [...original].sort((a, b) => compare(a.cells[column], b.cells[column], sign)) : original;
      body.append(...rows);
    });
  }
}

document.addEventListener("DOMContentLoaded", () => {
  addThemeSwitch();
  document.querySelectorAll("table").forEach(addSorting);
  const contents = document.querySelector("nav details");
  const few = contents.querySelectorAll("a").length <= 16;
  contents.open = matchMedia(few ? "(min-width: 48rem)" : "(min-width: 100rem)").matches;
});
