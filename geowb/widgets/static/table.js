// A table whose rows are chosen and sorted; by mouse and by keys, links open in the same page.
function make(tag, name, parent) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  parent?.append(node);
  return node;
}

// Where JupyterLab shows a file of this machine: inside the page where it lets us, else in a tab.
function place(path, home) {
  const told = document.getElementById("jupyter-config-data");
  const config = told ? JSON.parse(told.textContent) : {};
  const root = (config.serverRoot ?? "").replace(/\/+$/, "");
  const whole = root.startsWith("~") ? home + root.slice(1) : root;
  if (!whole || !path.startsWith(`${whole}/`)) return null;
  return { path: path.slice(whole.length + 1), base: config.baseUrl ?? "/" };
}

function open(event, where) {
  const app = window.jupyterapp;
  if (!app) return; // the link opens in a new tab of the browser
  event.preventDefault();
  const html = where.path.endsWith(".html");
  app.commands.execute("docmanager:open", { path: where.path,
    ...(html ? { factory: "HTML Viewer" } : {}) });
}

function fill(cell, column, value, home) {
  const text = value && typeof value === "object" ? value.text : value;
  cell.textContent = text ?? "";
  if (column.kind) cell.classList.add(column.kind);
  if (!value || typeof value !== "object") return;
  if (value.tone) cell.classList.add(value.tone);
  if (value.title) cell.title = value.title;
  if (!value.file) return;
  const where = place(value.file, home); // JupyterLab writes the home folder as ~
  if (!where) { cell.title = value.file; return; }
  cell.textContent = "";
  const link = make("a", "", cell);
  link.textContent = text;
  link.href = `${where.base}lab/tree/${where.path.split("/").map(encodeURIComponent).join("/")}`;
  link.target = "_blank";
  link.addEventListener("click", (event) => { event.stopPropagation(); open(event, where); });
}

const rank = (value) => (value && typeof value === "object" ? value.sort ?? value.text : value);

function compare(a, b) {
  const none = (value) => value === null || value === undefined || value === "";
  if (none(a) || none(b)) return none(a) - none(b);
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), undefined, { numeric: true });
}

function render({ model, el }) {
  el.classList.add("geowb-table");
  const scroll = make("div", "geowb-scroll", el);
  scroll.setAttribute("data-lm-suppress-shortcuts", "true");
  const table = make("table", "", scroll);
  table.setAttribute("role", "grid");
  const head = make("tr", "", make("thead", "", table));
  const body = make("tbody", "", table);
  const none = make("div", "geowb-none", scroll);
  let order = null, anchor = null, showing = [];

  function rows() {
    const all = model.get("rows");
    if (!order) return all;
    const { key, down } = order;
    const sorted = [...all].sort((a, b) => compare(rank(a.cells[key]), rank(b.cells[key])));
    const empty = (row) => [null, undefined, ""].includes(rank(row.cells[key]));
    return down ? [...sorted.filter((r) => !empty(r)).reverse(), ...sorted.filter(empty)] : sorted;
  }

  function choose(key, event) {
    const multiple = model.get("multiple"), before = model.get("selected");
    let after = [key];
    if (multiple && event.shiftKey && anchor !== null) {
      const keys = showing.map((row) => row.key);
      const [from, to] = [keys.indexOf(anchor), keys.indexOf(key)].sort((a, b) => a - b);
      after = keys.slice(Math.max(from, 0), to + 1);
    } else if (multiple) {
      after = before.includes(key) ? before.filter((k) => k !== key) : [...before, key];
    }
    if (!event.shiftKey) anchor = key;
    model.set("selected", after);
    model.save_changes();
  }

  function mark() {
    const selected = new Set(model.get("selected"));
    for (const row of body.children) row.setAttribute("aria-selected", selected.has(row.dataset.key));
    const first = [...body.children].find((row) => row.tabIndex === 0) ?? body.children[0];
    const chosen = [...body.children].find((row) => selected.has(row.dataset.key));
    for (const row of body.children) row.tabIndex = -1;
    const focus = body.contains(document.activeElement) ? document.activeElement.closest("tr") : null;
    const stop = focus ?? chosen ?? first;
    if (stop) stop.tabIndex = 0;
  }

  function columns() {
    head.replaceChildren();
    for (const column of model.get("columns")) {
      const cell = make("th", column.kind ?? "", head);
      cell.scope = "col";
      const button = make("button", "", cell);
      button.append(column.label);
      if (column.unit) make("small", "", button).textContent = ` ${column.unit}`;
      button.title = column.help ? `${column.help} Press to sort.` : "Press to sort";
      const mine = order?.key === column.key;
      cell.setAttribute("aria-sort", mine ? (order.down ? "descending" : "ascending") : "none");
      if (mine) button.append(order.down ? " ▼" : " ▲");
      button.addEventListener("click", () => {
        order = mine ? (order.down ? null : { key: column.key, down: true }) : { key: column.key };
        columns();
        lines();
        [...head.querySelectorAll("button")][model.get("columns").indexOf(column)]?.focus();
      });
    }
  }

  function lines() {
    const focus = document.activeElement?.closest?.("tr")?.dataset.key;
    const had = body.contains(document.activeElement);
    showing = rows();
    body.replaceChildren();
    for (const row of showing) {
      const line = make("tr", "", body);
      line.dataset.key = row.key;
      line.tabIndex = -1;
      for (const column of model.get("columns")) {
        fill(make("td", "", line), column, row.cells[column.key], model.get("home"));
      }
      line.addEventListener("click", (event) => { line.focus(); choose(row.key, event); });
    }
    none.textContent = showing.length ? "" : model.get("nothing");
    none.hidden = showing.length > 0;
    scroll.style.maxHeight = `${model.get("max_height")}px`;
    table.setAttribute("aria-label", model.get("label"));
    table.setAttribute("aria-multiselectable", model.get("multiple"));
    mark();
    if (had) [...body.children].find((row) => row.dataset.key === focus)?.focus();
  }

  body.addEventListener("keydown", (event) => {
    const line = event.target.closest("tr"), list = [...body.children];
    const number = list.indexOf(line);
    const moves = { ArrowDown: number + 1, ArrowUp: number - 1, Home: 0, End: list.length - 1,
      PageDown: Math.min(number + 10, list.length - 1), PageUp: Math.max(number - 10, 0) };
    if (event.key in moves) {
      const next = list[moves[event.key]];
      if (next) {
        line.tabIndex = -1;
        next.tabIndex = 0;
        next.focus();
        if (event.shiftKey && model.get("multiple")) choose(next.dataset.key, event);
        else if (!model.get("multiple")) choose(next.dataset.key, event);
      }
    } else if ((event.key === "Enter" || event.key === " ") && event.target === line) {
      choose(line.dataset.key, event);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  });

  const all = () => { columns(); lines(); };
  model.on("change:columns", all);
  model.on("change:rows change:nothing change:max_height", lines);
  model.on("change:selected", mark);
  all();
  return () => {
    model.off("change:columns", all);
    model.off("change:rows change:nothing change:max_height", lines);
    model.off("change:selected", mark);
  };
}
export default { render };
