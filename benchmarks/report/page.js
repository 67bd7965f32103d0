// The pages work without this script; with it, tables sort, boards are cut to what is asked, and charts are drawn.
"use strict";
(() => {
  const all = (words, root = document) => [...root.querySelectorAll(words)];
  const SIZES = { k: 1e3, M: 1e6, G: 1e9 };

  function made(name, properties = {}, ...inside) {
    const element = Object.assign(document.createElement(name), properties);
    element.append(...inside);
    return element;
  }

  // Tables -----------------------------------------------------------------------------------------------------------

  function number(text) {
    const found = text.replace(/,/g, "").match(/^[<+]?\s*(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)([kMG])?/);
    return found ? parseFloat(found[1]) * (SIZES[found[2]] ?? 1) : null;
  }

  const textOf = (cell) => (cell.querySelector("a:not(.link)") ?? cell).textContent.trim();

  function sort(table, column, descending) {
    const numeric = table.tHead.rows[0].cells[column].classList.contains("number");
    const sign = descending ? -1 : 1;
    const value = (text) => (numeric ? number(text) : text);
    const rows = [...table.tBodies[0].rows].map((row) => [value(textOf(row.cells[column])), row]);
    rows.sort(([a, first], [b, second]) => {
      const pinned = second.classList.contains("dense") - first.classList.contains("dense"); // dense stays on top
      if (pinned) return pinned;
      if (a === null || b === null) return (a === null) - (b === null); // what is missing comes last, either way
      return sign * (numeric ? a - b : a.localeCompare(b));
    });
    [...table.tHead.rows[0].cells].forEach((head, place) => {
      if (place === column) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    table.tBodies[0].append(...rows.map(([, row]) => row));
  }

  function pressed(table, column) {
    const head = table.tHead.rows[0].cells[column];
    const now = head.getAttribute("aria-sort");
    sort(table, column, now ? now === "ascending" : head.dataset.best === "high"); // the best first
  }

  function filter(table) {
    const words = (table.dataset.words ?? "").toLowerCase().split(/\s+/).filter(Boolean);
    const controls = table.dataset.view === "controls";
    for (const row of table.tBodies[0].rows) {
      const text = row.textContent.toLowerCase();
      const other = controls && !row.classList.contains("control") && !row.classList.contains("dense");
      row.hidden = other || !words.every((word) => text.includes(word));
    }
  }

  function sortable(table) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = made("button", { type: "button", textContent: head.textContent.trim() });
      button.addEventListener("click", () => pressed(table, column));
      head.replaceChildren(button);
    });
    const input = made("input", { type: "search", className: "filter", placeholder: "filter rows" });
    input.setAttribute("aria-label", `filter the rows of: ${table.getAttribute("aria-label")}`);
    input.addEventListener("input", () => {
      table.dataset.words = input.value;
      filter(table);
    });
    return input;
  }

  // Boards: views, columns, copies -----------------------------------------------------------------------------------

  function show(table) {
    const view = table.dataset.view;
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const other = (view === "before" || view === "after") && head.dataset.in && head.dataset.in !== view;
      const hidden = Boolean(other) || "off" in head.dataset;
      for (const row of table.rows) row.cells[column].hidden = hidden;
    });
    filter(table);
  }

  function views(table, name) {
    const options = { all: "everything", after: "after", before: "before", controls: "controls" };
    const group = made("fieldset", { className: "views" }, made("legend", { textContent: "view" }));
    for (const [value, words] of Object.entries(options)) {
      const radio = made("input", { type: "radio", name: `view-${name}`, value, checked: value === "all" });
      radio.addEventListener("change", () => {
        table.dataset.view = value;
        const wanted = [...table.tHead.rows[0].cells].findIndex((head) => head.dataset.in === value);
        if (wanted >= 0) sort(table, wanted, table.tHead.rows[0].cells[wanted].dataset.best === "high");
        show(table);
      });
      group.append(made("label", {}, radio, ` ${words}`));
    }
    return group;
  }

  function columns(table) {
    const list = made("div", { className: "choices" });
    for (const head of table.tHead.rows[0].cells) {
      const name = head.textContent.trim();
      if (name === "method") continue;
      const box = made("input", { type: "checkbox", checked: !("off" in head.dataset) });
      box.addEventListener("change", () => {
        if (box.checked) delete head.dataset.off;
        else head.dataset.off = "";
        show(table);
      });
      list.append(made("label", {}, box, ` ${name}`));
    }
    return made("details", { className: "columns" }, made("summary", { textContent: "columns" }), list);
  }

  const LATEX = {
    "\\": "\\textbackslash{}", "{": "\\{", "}": "\\}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}",
    "<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}", "&": "\\&", "%": "\\%", $: "\\$", "#": "\\#",
    _: "\\_", "±": "$\\pm$", "×": "$\\times$", "–": "--", "…": "\\ldots{}", "†": "$\\dagger$", "‡": "$\\ddagger$",
    "↳": "$\\hookrightarrow$", "·": "$\\cdot$", "−": "$-$",
  };
  const latex = (text) => [...text].map((letter) => LATEX[letter] ?? letter).join("");
  const markdown = (text) => text.replace(/[\\`*_[\]<>|&#~]/g, "\\$&");
  const quoted = (text) => {
    const inert = /^[=@\t\r]|^[+-](?!\d)/.test(text) ? `'${text}` : text; // no formula in a spreadsheet
    return /[",\n]/.test(inert) ? `"${inert.replace(/"/g, '""')}"` : inert;
  };

  const FORMS = {
    LaTeX: (rows, words) => [
      `\\begin{tabular}{${words.map((left) => (left ? "l" : "r")).join("")}}`, "\\toprule",
      `${rows[0].map(latex).join(" & ")} \\\\`, "\\midrule",
      ...rows.slice(1).map((row) => `${row.map(latex).join(" & ")} \\\\`), "\\bottomrule", "\\end{tabular}", "",
    ].join("\n"),
    Markdown: (rows, words) => {
      const line = (cells) => `| ${cells.join(" | ")} |`;
      const ruler = words.map((left) => (left ? ":--" : "--:"));
      return [line(rows[0].map(markdown)), line(ruler), ...rows.slice(1).map((row) => line(row.map(markdown))), ""].join("\n");
    },
    CSV: (rows) => rows.map((row) => row.map(quoted).join(",")).join("\n") + "\n",
  };

  function shownCells(table) {
    const heads = [...table.tHead.rows[0].cells].filter((head) => !head.hidden);
    const body = [...table.tBodies[0].rows].filter((row) => !row.hidden);
    const rows = body.map((row) => [...row.cells].filter((cell) => !cell.hidden).map(textOf));
    return [[heads.map((head) => head.textContent.trim()), ...rows], heads.map((head) => head.classList.contains("words"))];
  }

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const place = made("textarea", { value: text });
      document.body.append(place);
      place.select();
      document.execCommand("copy");
      place.remove();
    }
  }

  function copies(table) {
    const said = made("span", { className: "said" });
    said.setAttribute("role", "status");
    const buttons = Object.entries(FORMS).map(([name, write]) => {
      const button = made("button", { type: "button", textContent: name });
      button.setAttribute("aria-label", `copy the rows shown as ${name}`);
      button.addEventListener("click", async () => {
        const [rows, words] = shownCells(table);
        await copy(write(rows, words));
        said.textContent = `${rows.length - 1} rows copied as ${name}`;
      });
      return button;
    });
    return made("span", { className: "copies" }, "copy as ", ...buttons, said);
  }

  for (const table of all("table")) {
    if (table.classList.contains("top")) continue;
    const input = sortable(table);
    const board = table.closest(".board");
    if (!board) {
      table.closest(".scroll").before(input);
      continue;
    }
    table.dataset.view = "all";
    const tools = board.querySelector(".tools");
    tools.append(input, views(table, board.id), columns(table), copies(table));
    tools.hidden = false;
    show(table);
  }

  // The answer to "which method at my budget?" -----------------------------------------------------------------------

  const form = document.querySelector(".picker");
  if (form) {
    const parts = all(".pick");
    const names = ["data", "unit", "budget"];
    const fits = (part, upTo) => names.slice(0, upTo).every((name) => part.dataset[name] === form.elements[name].value);
    const refill = (place) => {
      const select = form.elements[names[place]];
      const old = select.value;
      const options = new Map(parts.filter((part) => fits(part, place)).map((part) => {
        const value = part.dataset[names[place]];
        return [value, names[place] === "unit" ? part.dataset.unitWords : value];
      }));
      select.replaceChildren(...[...options].map(([value, words]) => made("option", { value, textContent: words })));
      if (options.has(old)) select.value = old;
      if (place < 2) refill(place + 1);
      else for (const part of parts) part.hidden = !fits(part, 3);
    };
    names.forEach((name, place) => form.elements[name].addEventListener("change", () => refill(place + (place < 2))));
    for (const select of [form.elements.budget]) select.addEventListener("change", () => {
      for (const part of parts) part.hidden = !fits(part, 3);
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    form.hidden = false;
    refill(0);
  }

  // Links: what they lead to is opened and marked --------------------------------------------------------------------

  function arrive() {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    for (let part = target; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
    all(".arrived").forEach((old) => old.classList.remove("arrived"));
    target.classList.add("arrived");
    target.scrollIntoView({ block: target.tagName === "TR" ? "center" : "start" });
  }
  window.addEventListener("hashchange", arrive);
  document.addEventListener("click", (event) => {
    if (event.target.closest?.('a[href^="#"]')?.hash === location.hash) arrive(); // the same link once more
  });

  // Charts: those near the screen first, then the others, so that all are there when the page is printed --------------

  async function unpacked(id) {
    const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (letter) => letter.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }

  const drawn = new Map();

  function prepared(place, specs) {
    const spec = specs[place.dataset.chart];
    const figure = place.closest("figure");
    spec.description = `${figure.querySelector(".figure-title").textContent}. ${figure.querySelector("figcaption").textContent}`;
    spec.config = { ...spec.config, aria: true };
    if (place.dataset.legend) for (const layer of spec.layer ?? [spec]) { // the page has a legend of its own
      for (const channel of ["color", "shape", "strokeDash"]) if (layer.encoding?.[channel]) layer.encoding[channel].legend = null;
    }
    return spec;
  }

  async function draw(place, specs) {
    if (drawn.has(place)) return;
    drawn.set(place, null);
    const found = await vegaEmbed(place, prepared(place, specs), { renderer: "svg", actions: false, tooltip: { theme: "custom" } });
    drawn.set(place, found.view);
    place.dataset.drawn = "yes";
    for (const input of all(".vega-bindings input, .vega-bindings select", place)) {
      if (!input.closest("label")) input.setAttribute("aria-label", input.name);
    }
  }

  for (const button of all(".legend button")) {
    button.addEventListener("click", () => {
      const figure = button.closest("figure");
      button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
      const names = all('.legend button[aria-pressed="true"]', figure).map((each) => each.dataset.method);
      drawn.get(figure.querySelector(".chart"))?.signal("picked", names).runAsync();
    });
  }

  async function charts() {
    const places = all(".chart");
    if (!document.getElementById("specs") || !places.length) return;
    if (typeof DecompressionStream === "undefined") {
      places.forEach((place) => place.replaceChildren("Charts need a browser of 2023 or later."));
      return;
    }
    const [library, text] = await Promise.all(["library", "specs"].map(unpacked));
    document.head.append(made("script", { textContent: `(() => {${library}\n})();` }));
    const specs = JSON.parse(text);
    const near = new IntersectionObserver((entries) => {
      for (const entry of entries) if (entry.isIntersecting) draw(entry.target, specs);
    }, { rootMargin: "300px" });
    places.forEach((place) => near.observe(place));
    const later = window.requestIdleCallback ?? ((next) => setTimeout(next, 50));
    const next = () => {
      const place = places.find((each) => !drawn.has(each));
      if (place) draw(place, specs).finally(() => later(next));
    };
    later(next);
  }

  addEventListener("beforeprint", () => all("details.task").forEach((part) => (part.open = true)));
  arrive();
  charts();
})();
