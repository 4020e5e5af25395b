// Draws each [data-chart] from the table inside it. Without this file the table is
// what there is.
(() => {
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const probe = document.createElement('i'); // resolves light-dark() to a colour
  document.body.append(probe);
  const colour = (name) => { probe.style.color = css(name); return getComputedStyle(probe).color; };
  const scales = { 'bit/s': ['', 'k', 'M', 'G', 'T'] };
  const word = (unit) => (v) => {
    if (v === null || v === undefined) return '–';
    const steps = scales[unit];
    if (!steps) return `${+v.toFixed(2)}${unit}`;
    let i = 0;
    for (; Math.abs(v) >= 1000 && i < steps.length - 1; i++) v /= 1000;
    return `${+v.toFixed(1)} ${steps[i]}${unit}`;
  };
  for (const figure of document.querySelectorAll('[data-chart]')) {
    const unit = figure.dataset.chart;
    const names = [...figure.querySelectorAll('th')].slice(1).map((th) => th.textContent.trim());
    const rows = [...figure.querySelectorAll('tbody tr')];
    const data = [rows.map((r) => +r.cells[0].dataset.at), ...names.map((_, i) => rows.map((r) => +r.cells[i + 1].dataset.value))];
    const ink = colour('--text-2'), grid = { stroke: colour('--border'), width: 1 };
    const colours = ['--accent', '--cons', '--prov', '--warn-fill'].map(colour);
    const box = document.createElement('div');
    box.setAttribute('role', 'img');
    box.setAttribute('aria-label', `Chart of ${names.join(', ')}; the table below has its figures`);
    figure.prepend(box);
    const plot = new uPlot({
      width: box.clientWidth || 600, height: 180,
      cursor: { sync: { key: 'metrics' } },
      axes: [{ stroke: ink, grid, ticks: grid }, { stroke: ink, grid, ticks: grid, size: 84, values: (_, vs) => vs.map(word(unit)) }],
      scales: { y: { range: (_, __, most) => [0, most > 0 ? most * 1.1 : 1] } },
      series: [{}, ...names.map((label, i) => ({ label, stroke: colours[i % 4], width: 1.5, value: (_, v) => word(unit)(v) }))],
    }, data, box);
    new ResizeObserver(() => plot.setSize({ width: box.clientWidth, height: 180 })).observe(box);
  }
  probe.remove();
})();
