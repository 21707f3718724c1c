// A Bokeh plot. BokehJS comes from the kernel, once a page: no network, nothing in the notebook.
const shelf = (window.geowbBokeh ??= {}); // by version: a promise of the library

function library(model) {
  const version = model.get("version");
  shelf[version] ??= new Promise((resolve, reject) => {
    const take = (message, buffers) => {
      if (message.kind !== "bokeh") return;
      model.off("msg:custom", take);
      clearTimeout(timer);
      const root = {}; // its own, so that another BokehJS of the page is left alone
      new Function(new TextDecoder().decode(buffers[0])).call(root);
      resolve(root.Bokeh);
    };
    const timer = setTimeout(() => {
      model.off("msg:custom", take);
      delete shelf[version];
      reject(new Error("the kernel did not send BokehJS within 30 s: is it busy or gone?"));
    }, 30000);
    model.on("msg:custom", take);
    model.send({ kind: "bokeh" });
  });
  return shelf[version];
}

function follow(model, doc) {
  for (const root of doc.roots()) {
    for (const source of [...root.references()]) {
      if (source.name !== "rows" || !source.selected) continue;
      source.selected.change.connect(() => {
        model.set("selected", [...source.selected.indices]);
        model.save_changes();
      });
    }
  }
}

function render({ model, el }) {
  el.classList.add("geowb-plot");
  el.setAttribute("role", "img");
  el.setAttribute("data-lm-suppress-shortcuts", "true");
  let latest = 0, views = null, docs = [], drawn = null;
  const clear = () => { // BokehJS itself keeps each document for ever
    for (const view of views ?? []) view.remove();
    for (const doc of docs) {
      doc.clear();
      const at = drawn?.documents?.indexOf(doc) ?? -1;
      if (at >= 0) drawn.documents.splice(at, 1);
    }
    views = null;
    docs = [];
  };

  async function attached() { // Bokeh draws only what is in the page
    for (let tries = 0; !el.isConnected && tries < 400; tries++) {
      await new Promise((resolve) => setTimeout(resolve, 25));
    }
    return el.isConnected;
  }

  async function draw() {
    const mine = ++latest, item = model.get("item");
    el.setAttribute("aria-label", model.get("alt"));
    if (!item.doc) { clear(); el.replaceChildren(); return; }
    try {
      const Bokeh = await library(model);
      if (!(await attached()) || mine !== latest) return;
      clear();
      const place = document.createElement("div");
      el.replaceChildren(place);
      const found = await Bokeh.embed.embed_item(JSON.parse(JSON.stringify(item)), place);
      views = found.roots ?? found;
      drawn = Bokeh;
      docs = [...new Set([...views].map((view) => view.model.document))];
      el.setAttribute("role", "img");
      for (const doc of docs) follow(model, doc);
      el.dataset.serial = model.get("serial");
    } catch (error) {
      el.textContent = `The plot cannot be drawn: ${error.message}`;
      el.setAttribute("role", "alert");
      console.error(error);
    }
  }

  model.on("change:item", draw);
  draw();
  return () => { latest++; model.off("change:item", draw); clear(); };
}
export default { render };
