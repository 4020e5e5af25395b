// One event stream for all tabs of this browser. It runs as a SharedWorker, or
// in the page itself where there is none, and knows nothing of HTML.
//
// A tab says {account, last, visible} or {gone}; it hears {live}, {id, html} or
// {reset, id}. Ids are RUN-NUMBER: the run changes when the server starts.
{
  const KEEP = 500;           // events kept for tabs that open a moment later
  const FORGET = 60000;       // ms after which a tab that says nothing is gone
  const SETTLE = 150;         // ms before a stream opens: a page left at once opens none
  const PATIENCE = [1000, 60000]; // ms between attempts, the first and the most

  const tabs = new Map();     // port -> {account, last, visible, heard}
  const recent = [];          // the newest events, at most KEEP
  let from = '', seen = '';   // recent holds everything after from, up to seen
  let source = null, open = '', timer = 0, wait = PATIENCE[0];

  const run = (id) => id.split('-')[0];
  const seq = (id) => Number(id.split('-')[1]);
  const tell = (m) => { for (const [port, t] of tabs) if (!m.account || m.account === t.account) port.postMessage(m); };
  const later = (ms, f) => { clearTimeout(timer); timer = setTimeout(f, ms); };

  function got(account, e) {
    if (seen && run(seen) === run(e.lastEventId) && seq(e.lastEventId) <= seq(seen)) return;
    const m = { account, id: seen = e.lastEventId, html: e.data };
    recent.push(m);
    if (recent.length > KEEP) from = recent.shift().id;
    tell(m);
  }

  function missed(e) {
    recent.length = 0;
    from = seen = e.lastEventId;
    tell({ reset: true, id: seen });
  }

  function connect(accounts) {
    source?.close();
    const query = new URLSearchParams(accounts.map((a) => ['account', a]));
    query.set('last', seen);
    source = new EventSource(`/events?${query}`); // a broken one reconnects with Last-Event-ID
    for (const a of accounts) source.addEventListener(a, (e) => got(a, e));
    source.addEventListener('reset', missed);
    source.onopen = () => { wait = PATIENCE[0]; tell({ live: true }); };
    source.onerror = () => {
      tell({ live: false });
      if (source.readyState !== EventSource.CLOSED) return;
      later(wait, () => { open = ''; update(); }); // an HTTP error: it gave up, we do not
      wait = Math.min(wait * 2, PATIENCE[1]);
    };
  }

  function update() {
    const now = [...tabs.values()];
    const accounts = [...new Set(now.map((t) => t.account))].sort();
    if (!now.some((t) => t.visible)) {
      clearTimeout(timer);
      source?.close();
      source = null;
      open = '';
      tell({ live: false });
      return;
    }
    if (open === accounts.join()) return;
    open = accounts.join();
    later(SETTLE, () => connect(accounts));
  }

  self.onconnect = ({ ports: [port] }) => {
    port.onmessage = ({ data: tab }) => {
      if (tab.gone) {
        tabs.delete(port);
        update();
        return;
      }
      const known = [...tabs.values()].some((t) => t.account === tab.account);
      tabs.set(port, { ...tab, heard: Date.now() });
      if (!seen) from = seen = tab.last;
      else if (run(seen) !== run(tab.last) || seq(tab.last) < seq(known ? from : seen)) {
        port.postMessage({ reset: true, id: seen }); // what it missed is not known here: fetch again
      } else {
        for (const m of recent) if (m.account === tab.account && seq(m.id) > seq(tab.last)) port.postMessage(m);
      }
      update();
      if (source?.readyState === EventSource.OPEN) port.postMessage({ live: true });
    };
  };

  setInterval(() => { // a tab that died without a word
    for (const [port, t] of tabs) if (t.visible && Date.now() - t.heard > FORGET) tabs.delete(port);
    update();
  }, 20000);
}
