// Title, state, progress and stop button of a panel; hides the picture that is stored beside it.
function make(tag, name, parent) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  parent?.append(node);
  return node;
}

// What ipywidgets leaves without a name: handles of sliders, buttons of which one is pressed.
function name(panel) {
  for (const handle of panel.querySelectorAll(".noUi-handle")) {
    const label = handle.closest(".widget-inline-hbox")?.querySelector(".widget-label");
    if (label?.textContent && handle.ariaLabel !== label.textContent) handle.ariaLabel = label.textContent;
  }
  for (const button of panel.querySelectorAll(".widget-toggle-buttons button")) {
    const pressed = String(button.classList.contains("mod-active"));
    if (button.ariaPressed !== pressed) button.ariaPressed = pressed;
  }
  for (const group of panel.querySelectorAll(".geowb-picks")) {
    const label = group.closest(".geowb-field")?.querySelector(".geowb-text");
    group.setAttribute("role", "group");
    if (label && group.ariaLabel !== label.textContent) group.ariaLabel = label.textContent.trim();
  }
}

// The output after ours holds the PNG for readers without a kernel; beside the living view it goes.
function hideStored(el, model) {
  const own = el.closest(".jp-OutputArea-child");
  const area = own?.parentElement;
  if (!area) return undefined;
  own.querySelector(".geowb-panel")?.setAttribute("data-lm-suppress-shortcuts", "true");
  const hide = () => {
    const next = own.nextElementSibling;
    const ours = model.get("stored") && next?.querySelector(".jp-RenderedImage");
    if (ours) next.classList.add("geowb-stored");
  };
  hide();
  const watch = new MutationObserver(hide);
  watch.observe(area, { childList: true, subtree: true });
  model.on("change:stored", hide);
  return () => {
    watch.disconnect();
    model.off("change:stored", hide);
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

  let undo, naming, tries = 0;
  const settle = () => {
    const panel = el.isConnected ? el.closest(".geowb-panel") : null;
    if (panel) {
      undo = hideStored(el, model);
      let soon = 0;
      const again = () => { soon ||= requestAnimationFrame(() => { soon = 0; name(panel); }); };
      naming = new MutationObserver(again);
      naming.observe(panel, { childList: true, subtree: true, attributeFilter: ["class"] });
      again();
    } else if (tries++ < 200) timer = setTimeout(settle, 50);
  };
  let timer = setTimeout(settle, 0);
  return () => {
    clearTimeout(timer);
    model.off("change", update);
    undo?.();
    naming?.disconnect();
  };
}
export default { render };
