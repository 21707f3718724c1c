// Title, state, progress and stop button of a panel; hides the picture that is stored beside it.
function make(tag, name, parent) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  parent?.append(node);
  return node;
}

// The output after ours holds the PNG for readers without a kernel; beside the living view it goes.
function hideStored(el) {
  const own = el.closest(".jp-OutputArea-child");
  const area = own?.parentElement;
  if (!area) return undefined;
  own.querySelector(".geowb-panel")?.setAttribute("data-lm-suppress-shortcuts", "true");
  const hide = () => {
    const next = own.nextElementSibling;
    if (next?.querySelector(".jp-RenderedImage")) next.classList.add("geowb-stored");
  };
  hide();
  const watch = new MutationObserver(hide);
  watch.observe(area, { childList: true, subtree: true });
  return () => {
    watch.disconnect();
    own.nextElementSibling?.classList.remove("geowb-stored");
  };
}

function render({ model, el }) {
  el.classList.add("geowb-head");
  const title = make("h3", "geowb-title", el);
  const row = make("div", "geowb-row", el);
  const status = make("div", "geowb-status", row);
  status.setAttribute("role", "status");
  status.setAttribute("aria-live", "polite");
  const bar = make("progress", "", row);
  bar.max = 1;
  const stop = make("button", "", row);
  stop.textContent = "Stop";
  stop.addEventListener("click", () => model.send({ kind: "stop" }));
  const details = make("details", "", el);
  make("summary", "", details).textContent = "Details of the error";
  const trace = make("pre", "", details);

  const update = () => {
    const fraction = model.get("fraction");
    el.dataset.state = model.get("state");
    title.textContent = model.get("title");
    title.hidden = !model.get("title");
    // Progress changes too often to be read out.
    status.setAttribute("aria-live", model.get("state") === "loading" ? "off" : "polite");
    status.textContent = model.get("text");
    bar.hidden = fraction === null;
    bar.setAttribute("aria-label", "progress");
    if (fraction === null || fraction < 0) bar.removeAttribute("value");
    else bar.value = fraction;
    stop.hidden = !model.get("stoppable");
    details.hidden = !model.get("detail");
    trace.textContent = model.get("detail");
    row.style.display = model.get("text") || fraction !== null ? "" : "none";
  };
  model.on("change", update);
  update();

  let undo, tries = 0;
  const settle = () => {
    if (el.isConnected) undo = hideStored(el);
    if (!undo && tries++ < 200) timer = setTimeout(settle, 50);
  };
  let timer = setTimeout(settle, 0);
  return () => {
    clearTimeout(timer);
    model.off("change", update);
    undo?.();
  };
}
export default { render };
