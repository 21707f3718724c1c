"""What tests of widgets in the browser share: a notebook, its panels, what Python says of them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from harness import Chromium, Lab, NotebookPage
from playwright.sync_api import Locator

IMPORTS = """import geowb
from geowb.widgets import CatalogBrowser, LivePlot, RunsExplorer, SceneExplorer, StudyRunner
catalog = geowb.open_catalog()"""


def opened(lab: Lab, browser: Chromium, name: str, *cells: str, **where: Any) -> NotebookPage:
    """Open a notebook with these cells after the imports, and run all of it."""
    page = browser.notebook(lab, lab.write(f"{name}.ipynb", [IMPORTS, *cells]), **where)
    page.run_all()
    return page


def panel(page: NotebookPage, title: str) -> Locator:
    """The panel with this title, brought into view."""
    head = page.page.locator(".geowb-title", has_text=title)
    found = page.page.locator(".geowb-panel").filter(has=head).first
    found.wait_for()
    found.evaluate("one => one.scrollIntoView({block: 'start'})")
    return found


def until(page: NotebookPage, code: str, wanted: str, seconds: float = 20) -> None:
    """Wait until Python says this of a piece of code."""
    end = time.monotonic() + seconds
    while (found := page.ask(code)) != wanted:
        assert time.monotonic() < end, f"{code} is {found}, not {wanted}"
        page.page.wait_for_timeout(100)


def keep(inside: Locator, file: Path) -> None:
    """Store a panel alone in place of the whole page, for the pictures of the docs."""
    inside.screenshot(path=file)


def serial(page: NotebookPage, inside: Locator) -> int:
    """Number of the picture that a panel shows."""
    stage = inside.locator(".geowb-stage").first
    stage.and_(page.page.locator("[data-serial]")).wait_for()
    return int(stage.get_attribute("data-serial"))


def labelled(inside: Locator, label: str) -> Locator:
    """Control of a panel by the text beside it."""
    row = inside.locator(".widget-inline-hbox").filter(has_text=label)
    return row.locator("input, select, .noUi-handle").first


#: What of a panel's texts has too little contrast to what is behind it (WCAG 2.2, 1.4.3: AA).
CONTRAST = """root => {
  const parse = text => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const over = ([r, g, b, a = 1], under) => [r, g, b].map((v, i) => v * a + under[i] * (1 - a));
  const behind = node => {
    const own = parse(getComputedStyle(node).backgroundColor);
    if (own.length === 3 || own[3] === 1 || !node.parentElement) return over(own, [255, 255, 255]);
    return over(own, behind(node.parentElement));
  };
  const light = colour => {
    const [r, g, b] = colour.map(v => v / 255)
      .map(v => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = new Set();
  const walk = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode.parentElement, text = walk.currentNode.textContent.trim();
    const other = 'option, svg, .geowb-plot, .leaflet-container';
    if (!text || !node.checkVisibility() || node.closest(other)) continue;
    const back = behind(node), fore = over(parse(getComputedStyle(node).color), back);
    const [high, low] = [light(fore), light(back)].sort((a, b) => b - a);
    const ratio = (high + 0.05) / (low + 0.05), size = parseFloat(getComputedStyle(node).fontSize);
    if (ratio < (size >= 24 ? 3 : 4.5)) found.add(`${ratio.toFixed(2)}: ${text.slice(0, 60)}`);
  }
  return [...found];
}"""

#: Names of what can be reached by Tab in a panel but shows no focus, or has no name.
FOCUS = """root => {
  const found = [];
  const kinds = 'button, select, input, textarea, a[href], summary, [tabindex="0"], .noUi-handle';
  for (const node of root.querySelectorAll(kinds)) {
    if (!node.checkVisibility() || node.disabled || node.closest('.geowb-plot, .leaflet-container'))
      continue;
    const name = node.getAttribute('aria-label') || node.title || node.textContent.trim()
      || node.labels?.[0]?.textContent.trim() || node.placeholder;
    if (!name) found.push(`no name: ${node.outerHTML.slice(0, 120)}`);
    node.focus({ focusVisible: true });
    const style = getComputedStyle(node);
    const ring = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2;
    if (document.activeElement === node && !ring)
      found.push(`no ring: ${node.outerHTML.slice(0, 120)}`);
  }
  document.activeElement.blur();
  return found;
}"""

#: Pixels of a plot in a strong orange; Bokeh draws on canvases below shadow roots.
INKED = """root => {
  let count = 0;
  const look = node => {
    if (node.tagName === 'CANVAS') {
      const { data } = node.getContext('2d').getImageData(0, 0, node.width, node.height);
      for (let i = 0; i < data.length; i += 4)
        if (data[i] > 180 && data[i + 1] < 140 && data[i + 2] < 60 && data[i + 3] > 200) count++;
    }
    for (const inner of node.shadowRoot?.querySelectorAll('*') ?? []) look(inner);
  };
  for (const node of root.querySelectorAll('*')) look(node);
  return count;
}"""
