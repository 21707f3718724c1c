// A picture on which a pixel is chosen, a box is drawn, or the view is moved; by mouse and by keys.
const SVG = "http://www.w3.org/2000/svg";

function make(tag, name, parent) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  parent?.append(node);
  return node;
}

function shape(tag, attributes, parent) {
  const node = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  parent.append(node);
}

const clip = (value) => Math.min(1, Math.max(0, value));

function legend(model, node) {
  node.replaceChildren();
  for (const item of model.get("legend")) {
    const part = make("span", "", node);
    if (item.colours) {
      part.append(`${item.low} `);
      const bar = make("span", "geowb-bar", part);
      bar.style.background = `linear-gradient(to right, ${item.colours.join(",")})`;
      part.append(`${item.high} ${item.unit}`);
    } else {
      const box = make("i", "", part);
      const turn = item.hatch === "/" ? "135deg" : "45deg";
      box.style.background = item.hatch
        ? `repeating-linear-gradient(${turn}, ${item.colour} 0 2px, #fff 2px 5px)` : item.colour;
      part.append(item.name);
    }
  }
}

function render({ model, el }) {
  el.classList.add("geowb-picture");
  const figure = make("figure", "geowb-picture", el);
  const stage = make("div", "geowb-stage", figure);
  const still = !model.get("hint"); // a picture to look at, with nothing to do on it
  if (!still) stage.tabIndex = 0;
  stage.setAttribute("role", still ? "img" : "application");
  if (!still) stage.setAttribute("aria-roledescription", "picture");
  stage.style.cursor = still ? "default" : "";
  stage.setAttribute("data-lm-suppress-shortcuts", "true");
  const canvas = make("canvas", "", stage);
  const told = make("span", "geowb-unseen", figure); // what a reader of screens says of the cross
  told.setAttribute("aria-live", "polite");
  const over = document.createElementNS(SVG, "svg");
  over.setAttribute("viewBox", "0 0 1 1");
  over.setAttribute("preserveAspectRatio", "none");
  stage.append(over);
  const caption = make("figcaption", "", figure);
  const key = make("div", "geowb-legend", figure);
  const keys = make("div", "geowb-keys", figure);
  keys.id = `geowb-keys-${Math.random().toString(36).slice(2)}`;
  stage.setAttribute("aria-describedby", keys.id);
  let latest = 0, cursor = [0.5, 0.5], corner = null, drag = null, focused = false, saying = 0;

  async function draw() {
    const mine = ++latest, bytes = model.get("png"), serial = model.get("serial");
    stage.style.visibility = bytes?.byteLength ? "" : "hidden";
    if (!bytes?.byteLength) return;
    const image = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
    if (mine !== latest) return; // a newer one has come meanwhile
    canvas.width = image.width;
    canvas.height = image.height;
    canvas.getContext("2d").drawImage(image, 0, 0);
    stage.style.width = `${model.get("shown_width")}px`;
    stage.dataset.serial = serial;
    stage.dataset.drawnAt = performance.now();
  }

  function marks() {
    over.replaceChildren();
    const line = { "vector-effect": "non-scaling-stroke", fill: "none" };
    const both = (tag, where) => {
      shape(tag, { ...line, ...where, stroke: "#000", "stroke-width": 4 }, over);
      shape(tag, { ...line, ...where, stroke: "#fff", "stroke-width": 2 }, over);
    };
    const cross = ([x, y], size) => {
      both("path", { d: `M${x - size},${y}H${x + size}M${x},${y - size}V${y + size}` });
    };
    const box = drag?.box ?? (corner ? [...corner, ...cursor] : model.get("box"));
    if (box.length) {
      const [x0, y0, x1, y1] = box;
      both("rect", { x: Math.min(x0, x1), y: Math.min(y0, y1),
        width: Math.abs(x1 - x0), height: Math.abs(y1 - y0) });
    }
    if (model.get("mark").length) cross(model.get("mark"), 0.025);
    if (focused) cross(cursor, 0.05);
  }

  function texts() {
    stage.setAttribute("aria-label", model.get("alt"));
    stage.dataset.tool = model.get("tool");
    caption.textContent = model.get("caption");
    keys.textContent = model.get("hint");
    legend(model, key);
    marks();
  }

  const at = (event) => {
    const frame = canvas.getBoundingClientRect();
    return [clip((event.clientX - frame.left) / frame.width),
      clip((event.clientY - frame.top) / frame.height)];
  };
  const send = (kind, values) => model.send({ kind, at: values });

  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || still) return;
    stage.setPointerCapture(event.pointerId);
    drag = { from: at(event), to: at(event) };
  });
  stage.addEventListener("pointermove", (event) => {
    if (!drag) return;
    drag.to = at(event);
    if (model.get("tool") === "box") drag.box = [...drag.from, ...drag.to];
    marks();
  });
  stage.addEventListener("pointerup", (event) => {
    if (!drag) return;
    const { from, to } = drag, tool = model.get("tool");
    drag = null;
    corner = null;
    const moved = Math.hypot(to[0] - from[0], to[1] - from[1]) > 0.008;
    cursor = to;
    if (tool === "box" && moved) send("box", [...from, ...to]);
    else if (tool === "move" && moved) send("move", [from[0] - to[0], from[1] - to[1]]);
    else if (tool !== "box") send("point", to);
    marks();
  });
  stage.addEventListener("pointercancel", () => { drag = null; marks(); });
  stage.addEventListener("focus", () => { focused = stage.matches(":focus-visible"); marks(); });
  stage.addEventListener("blur", () => { focused = false; corner = null; marks(); });

  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  stage.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = arrows[event.key], far = event.shiftKey ? 10 : 1, tool = model.get("tool");
    if (step && tool === "move") send("move", [step[0] * 0.1, step[1] * 0.1]);
    else if (step) {
      const [columns, rows] = model.get("pixels"), [top, left] = model.get("origin");
      focused = true;
      const pixel = (share, count, move) =>
        Math.min(Math.max(Math.floor(share * count) + move * far, 0), count - 1);
      const column = pixel(cursor[0], columns, step[0]), row = pixel(cursor[1], rows, step[1]);
      cursor = [(column + 0.5) / columns, (row + 0.5) / rows]; // the middle of a pixel
      clearTimeout(saying);
      saying = setTimeout(() => {
        told.textContent = `row ${row + top}, column ${column + left}`;
      }, 300);
    } else if (event.key === "Enter" || event.key === " ") {
      if (tool === "box" && !corner) corner = [...cursor];
      else if (tool === "box") { send("box", [...corner, ...cursor]); corner = null; }
      else send("point", cursor);
    } else if (event.key === "Escape") {
      if (corner) corner = null;
      else send("clear", []);
    } else if (event.key === "+" || event.key === "=") send("zoom", [...cursor, 0.5]);
    else if (event.key === "-") send("zoom", [...cursor, 2]);
    else if (event.key === "0") send("whole", []);
    else return;
    event.preventDefault();
    event.stopPropagation();
    marks();
  });

  model.on("change:serial", draw);
  model.on("change", texts);
  texts();
  draw();
  return () => { model.off("change:serial", draw); model.off("change", texts); };
}
export default { render };
