// What a page is asked from Python; see harness.py.
window.geowbTest = {
  ended: false,
  answer: null,
  panel() { return window.jupyterapp.shell.currentWidget; },
  idle() {
    const context = this.panel()?.context?.sessionContext;
    return Boolean(context?.isReady && context.session?.kernel?.status === 'idle');
  },
  start(command) {
    this.ended = false;
    window.jupyterapp.commands.execute(command).finally(() => { this.ended = true; });
  },
  select(index) {
    const notebook = this.panel().content;
    notebook.deselectAll();
    notebook.activeCellIndex = index;
  },
  add(source) {
    const cells = this.panel().content.model.sharedModel;
    cells.insertCell(cells.cells.length, {cell_type: 'code', source, metadata: {trusted: true}});
    return cells.cells.length - 1;
  },
  ask(code) {
    this.answer = null;
    let text = '', failed = false;
    const kernel = this.panel().context.sessionContext.session.kernel;
    const future = kernel.requestExecute({code, store_history: false, stop_on_error: false});
    future.onIOPub = message => {
      const content = message.content, kind = message.header.msg_type;
      if (kind === 'stream') text += content.text;
      if (kind === 'execute_result') text += content.data['text/plain'];
      if (kind === 'error') { failed = true; text = content.traceback.join('\n'); }
    };
    future.done.finally(() => { this.answer = [failed, text]; });
  },
  async scroll() {
    const place = document.querySelector('.jp-WindowedPanel-outer') || this.panel().content.node;
    for (let top = 0; top < place.scrollHeight; top += place.clientHeight * 0.8) {
      place.scrollTop = top;
      await new Promise(done => setTimeout(done, 120));
    }
    place.scrollTop = 0;
  },
};
