// Charts are drawn when they come near the screen. Tables can be sorted by any column and filtered by any word.

const SIZES = { k: 1e3, M: 1e6, G: 1e9 };

function number(text) {
  const found = text.replace(/,/g, "").match(/^[<+]?\s*(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)([kMG])?/);
  return found ? parseFloat(found[1]) * (SIZES[found[2]] ?? 1) : null;
}

function compare(first, second, numeric) {
  if (!numeric) return first.localeCompare(second);
  const a = number(first), b = number(second);
  if (a === null || b === null) return (a === null) - (b === null); // what is missing comes last, either way
  return a - b;
}

function sort(table, column, header) {
  const body = table.tBodies[0];
  const numeric = header.classList.contains("number");
  const descending = header.getAttribute("aria-sort") === "ascending";
  const sign = descending ? -1 : 1;
  const missing = (text) => numeric && number(text) === null;
  const rows = [...body.rows].map((row) => [row.cells[column].textContent.trim(), row]);
  rows.sort(([a], [b]) => (missing(a) || missing(b) ? 1 : sign) * compare(a, b, numeric));
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", descending ? "descending" : "ascending");
  body.append(...rows.map(([, row]) => row));
}

function filter(table, words) {
  const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
  for (const row of table.tBodies[0].rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !wanted.every((word) => text.includes(word));
  }
}

for (const table of document.querySelectorAll("table")) {
  [...table.tHead.rows[0].cells].forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = header.textContent;
    button.addEventListener("click", () => sort(table, column, header));
    header.replaceChildren(button);
  });
  const input = document.createElement("input");
  input.type = "search";
  input.className = "filter";
  input.placeholder = "filter rows";
  input.setAttribute("aria-label", `filter the rows of: ${table.getAttribute("aria-label")}`);
  input.addEventListener("input", () => filter(table, input.value));
  table.closest(".scroll").before(input);
}

async function draw(place) {
  let text = document.getElementById(place.dataset.spec).textContent;
  if (place.clientWidth < 420) text = text.replaceAll('"columns":2', '"columns":1'); // long names need a phone's width
  const spec = JSON.parse(text);
  await window.vegaEmbed(place, spec, { renderer: "svg", actions: false, tooltip: { theme: "custom" } });
  place.dataset.drawn = "yes";
}

const watch = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    watch.unobserve(entry.target);
    draw(entry.target);
  }
}, { rootMargin: "600px" });
document.querySelectorAll(".chart").forEach((place) => watch.observe(place));
