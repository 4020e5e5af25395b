// Applies the server's event stream to this tab; live-worker.js holds the stream.
(() => {
  const { account, worker, last } = document.currentScript.dataset;
  const tab = { account, last };
  let port;
  if (window.SharedWorker) {
    port = new SharedWorker(worker, 'live').port;
  } else { // the same script in the page: one stream for this tab alone
    const pipe = new MessageChannel();
    const script = Object.assign(document.createElement('script'), { src: worker });
    script.onload = () => self.onconnect({ ports: [pipe.port2] });
    document.head.append(script);
    port = pipe.port1;
  }
  port.onmessage = ({ data: m }) => {
    if ('live' in m) document.documentElement.dataset.live = m.live ? 'on' : 'off';
    if (m.id) tab.last = m.id;
    if (m.reset) htmx.trigger(document.body, 'live:reset');
    if (m.html) htmx.swap({ sourceElement: document.body, target: document.body, swap: 'none', text: m.html });
  };
  const hello = () => port.postMessage({ ...tab, visible: !document.hidden });
  document.addEventListener('visibilitychange', hello);
  addEventListener('pagehide', () => port.postMessage({ gone: true }));
  addEventListener('pageshow', (e) => { if (e.persisted) hello(); });
  setInterval(() => { if (!document.hidden) hello(); }, 20000);
  hello();
})();
