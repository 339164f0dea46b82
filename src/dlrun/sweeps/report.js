"use strict";
// What belongs to point 12 has data-p="12", in the table as in the charts. Without this script all is there to read.
const body = document.body, table = document.querySelector("#points"), tip = document.querySelector("#tip");
const rows = table ? [...table.tBodies[0].rows] : [];
const byPoint = new Map();
for (const node of document.querySelectorAll("[data-p]")) {
  const p = node.dataset.p;
  if (!byPoint.has(p)) byPoint.set(p, []);
  byPoint.get(p).push(node);
}

// Sorting: a cell's data-v is its number where the text is none.
const worth = (row, i) => {
  const cell = row.cells[i], text = cell.dataset.v ?? cell.textContent.trim();
  return text === "" || cell.className.includes("none") ? null : Number.isNaN(Number(text)) ? text : Number(text);
};
const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
table?.tHead.addEventListener("click", (event) => {
  const head = event.target.closest("th");
  if (!head) return;
  const up = head.getAttribute("aria-sort") !== "ascending", i = head.cellIndex;
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const keyed = rows.map((row) => [worth(row, i), row]);
  keyed.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : up ? compare(a, b) : compare(b, a)));
  rows.splice(0, rows.length, ...keyed.map(([, row]) => row));
  table.tBodies[0].append(...rows);
  cut();
});

// Only the first rows until all are asked for.
let whole = false;
const all = document.querySelector("button.all");
const cut = () => {
  const most = Number(table.dataset.first);
  let there = 0;
  for (const row of rows) row.classList.toggle("more", !whole && !row.classList.contains("out") && there++ >= most);
  if (all) {
    all.hidden = whole || there <= most;
    all.textContent = `Show all ${there} points`;
  }
};
all?.addEventListener("click", () => ((whole = true), cut()));
if (table) cut();
addEventListener("beforeprint", () => rows.forEach((row) => row.classList.remove("more")));
addEventListener("afterprint", () => table && cut());

// Resting on a point shows it everywhere.
let lit = null;
const light = (p) => {
  if (p === lit) return;
  for (const node of byPoint.get(lit) ?? []) node.classList.remove("lit");
  for (const node of byPoint.get(p) ?? []) {
    node.classList.add("lit");
    if (node.tagName === "path") node.parentNode.append(node);
  }
  body.classList.toggle("busy", p !== null);
  lit = p;
};
const near = (event) => {
  for (const d of [0, -2, 2, -4, 4, -6, 6])
    for (const [x, y] of [[0, d], [d, 0]]) {
      const found = document.elementFromPoint(event.clientX + x, event.clientY + y)?.closest("[data-p]");
      if (found) return found.dataset.p;
    }
  return null;
};
const show = (event, p) => {
  const row = byPoint.get(p)?.find((node) => node.tagName === "TR");
  tip.hidden = !row;
  if (!row) return;
  if (tip.dataset.p !== p) {
    const title = document.createElement("b"), list = document.createElement("dl");
    title.textContent = `Point ${p}`;
    [...row.cells].forEach((cell, i) => {
      const name = table.tHead.rows[0].cells[i].textContent, text = cell.textContent.trim();
      if (name === "point" || !text || cell.className.includes("none")) return;
      const key = document.createElement("dt"), value = document.createElement("dd");
      key.textContent = name;
      value.textContent = text;
      list.append(key, value);
    });
    tip.replaceChildren(title, list);
    tip.dataset.p = p;
  }
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(event.clientX + 16, innerWidth - box.width - 8))}px`;
  tip.style.top = `${Math.max(4, Math.min(event.clientY + 16, innerHeight - box.height - 8))}px`;
};
document.addEventListener("pointermove", (event) => {
  const chart = event.target.closest("svg"), row = event.target.closest("tr[data-p]");
  const p = chart ? near(event) : row ? row.dataset.p : null;
  light(p);
  if (chart && p !== null) show(event, p);
  else tip.hidden = true;
});
document.addEventListener("pointerleave", () => (light(null), (tip.hidden = true)));

// A range drawn along an axis keeps the points that pass through it; a click takes it away.
const parallel = document.querySelector("svg.parallel"), ranges = new Map();
const sift = () => {
  const paths = new Map([...parallel.querySelectorAll("[data-p]")].map((path) => [path.dataset.p, path]));
  const kept = (path) => {
    const spots = new Map(path.getAttribute("d").slice(1).split("L").map((spot) => spot.split(",").map(Number)));
    return [...ranges].every(([x, [from, to]]) => spots.get(x) >= from && spots.get(x) <= to);
  };
  for (const [p, nodes] of byPoint) {
    const out = ranges.size > 0 && !(paths.has(p) && kept(paths.get(p)));
    for (const node of nodes) node.classList.toggle("out", out);
  }
  cut();
};
const shape = (parent, kind, x, y, width, height) => {
  const box = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  for (const [name, value] of Object.entries({ class: kind, x, y, width, height })) box.setAttribute(name, value);
  parent.append(box);
  return box;
};
for (const column of parallel?.querySelectorAll(".column") ?? []) {
  const x = Number(column.dataset.x), [, top, bottom] = column.querySelector("path").getAttribute("d").match(/,(\d+)V(\d+)/);
  const at = (event) => {
    const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(parallel.getScreenCTM().inverse());
    return Math.max(Number(top) - 6, Math.min(Number(bottom) + 34, place.y));
  };
  const grip = shape(column, "grip", x - 10, Number(top) - 6, 20, bottom - top + 40);
  let from = null, brush = null;
  column.classList.add("brushable");
  grip.addEventListener("pointerdown", (event) => {
    grip.setPointerCapture(event.pointerId);
    event.preventDefault();
    from = at(event);
    brush?.remove();
    brush = null;
    ranges.delete(x);
    sift();
  });
  grip.addEventListener("pointermove", (event) => {
    if (from === null) return;
    const to = at(event);
    if (Math.abs(to - from) < 3) return;
    brush ??= shape(column, "brush", x - 6, 0, 12, 0);
    brush.setAttribute("y", Math.min(from, to));
    brush.setAttribute("height", Math.abs(to - from));
    column.append(grip);
    ranges.set(x, [Math.min(from, to), Math.max(from, to)]);
    sift();
  });
  grip.addEventListener("pointerup", () => (from = null));
}

document.querySelector("button.copy")?.addEventListener("click", async (event) => {
  const text = document.querySelector(".shell pre");
  try {
    await navigator.clipboard.writeText(text.textContent);
    event.target.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(text);
  }
});
