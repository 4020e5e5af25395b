// What HTML cannot express yet. Every page works without this file.
(() => {
  const root = document.documentElement;
  root.classList.add('js');
  const byId = (id) => document.getElementById(id);
  const say = (text) => { byId('said').textContent = text; };

  // htmx 4.0.1 cancels Ctrl-, Cmd- and Shift-clicks on a link with hx-get and
  // sends nothing either. The browser shall have them.
  document.addEventListener('click', (e) => {
    if ((e.ctrlKey || e.metaKey || e.shiftKey) && e.target.closest('a[href]')) e.stopImmediatePropagation();
  }, true);

  // The dialog is open exactly while the server has put something into it.
  const closed = () => byId('dialog').replaceChildren();
  document.addEventListener('htmx:after:settle', ({ target }) => {
    if (target.id === 'dialog') {
      if (!target.childElementCount) target.close();
      else if (!target.open) target.showModal();
    }
    expire();
  });
  document.addEventListener('close', (e) => { if (e.target.id === 'dialog') closed(); }, true);
  document.addEventListener('click', (e) => {
    if (e.target.id === 'dialog') e.target.close(); // the backdrop
    const box = e.target.closest('[data-close]')?.closest('dialog, .toast');
    if (!box) return; // on the full page it is a plain link
    e.preventDefault();
    if (box.matches('dialog')) box.close(); else box.remove();
  });

  // Good news goes away after a while, unless somebody is looking at it.
  function expire() {
    for (const t of document.querySelectorAll('#toasts .toast:not(.bad, [data-timed])')) {
      t.dataset.timed = '';
      let left = t.querySelector('form') ? 10 : 6;
      const tick = setInterval(() => {
        if (!t.isConnected) clearInterval(tick);
        else if (!t.matches(':hover, :focus-within') && --left <= 0) t.remove();
      }, 1000);
    }
    for (const t of [...document.querySelectorAll('#toasts .toast')].slice(0, -3)) t.remove();
  }

  // No answer at all (server down, timeout): the server cannot send a toast.
  document.addEventListener('htmx:error', () => {
    byId('toasts').append(byId('no-answer').content.cloneNode(true));
  });

  // Copy. The clipboard needs a secure context; without one, an old way works.
  document.addEventListener('click', async (e) => {
    const b = e.target.closest('[data-copy]');
    if (!b) return;
    try {
      await navigator.clipboard.writeText(b.dataset.copy);
    } catch {
      const t = Object.assign(document.createElement('textarea'), { value: b.dataset.copy, className: 'sr' });
      b.after(t);
      t.select();
      document.execCommand('copy');
      t.remove();
      b.focus();
    }
    b.dataset.copied = '';
    say('');
    setTimeout(() => say('Copied'), 50); // a change is what is read out
    setTimeout(() => delete b.dataset.copied, 1500);
  });

  // A menu closes by Escape, by a click elsewhere, and when the focus leaves it.
  const menus = () => document.querySelectorAll('details.menu[open]');
  document.addEventListener('keydown', (e) => {
    if (e.key === 'Escape') for (const m of menus()) { m.open = false; m.querySelector('summary').focus(); }
    const typing = e.target.closest('input, textarea, select, [contenteditable]');
    if (e.key === '/' && !typing && !e.ctrlKey && !e.metaKey) {
      const f = document.querySelector('[data-filter]');
      if (f) { e.preventDefault(); f.focus(); }
    }
  });
  const outside = (e) => { for (const m of menus()) if (!m.contains(e.target)) m.open = false; };
  document.addEventListener('click', outside);
  document.addEventListener('focusin', outside);

  // Times stay right while a page is open. The server has the same rule.
  function relative(at) {
    let s = (Date.now() - at) / 1000;
    const past = s >= 0;
    s = Math.abs(s);
    if (s < 10) return past ? 'just now' : 'in a moment';
    if (s >= 30 * 86400) return '';
    const [n, unit] = s < 60 ? [s, 's'] : s < 3600 ? [s / 60, 'min'] : s < 48 * 3600 ? [s / 3600, 'h'] : [s / 86400, 'd'];
    const words = `${Math.floor(n)} ${unit}`;
    return past ? `${words} ago` : `in ${words}`;
  }
  setInterval(() => {
    for (const t of document.querySelectorAll('time[data-relative]')) {
      const words = relative(Date.parse(t.dateTime));
      if (words && words !== t.textContent) t.textContent = words;
    }
  }, 10000);

  // Leaving a form with unsaved changes asks first.
  let dirty = null;
  document.addEventListener('input', (e) => { dirty = e.target.closest('form[data-guard]') ?? dirty; });
  document.addEventListener('submit', () => { dirty = null; });
  addEventListener('beforeunload', (e) => { if (dirty?.isConnected) e.preventDefault(); });

  expire();
})();
