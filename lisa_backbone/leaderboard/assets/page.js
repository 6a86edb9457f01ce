'use strict';
(() => {
  const data = JSON.parse(document.getElementById('data').textContent);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const one = (selector, root = document) => root.querySelector(selector);
  const make = (name, text, parent) => {
    const node = document.createElement(name);
    if (text !== undefined) node.textContent = text;
    if (parent) parent.append(node);
    return node;
  };
  const collator = new Intl.Collator('en', { numeric: true });
  document.documentElement.classList.add('scripts');

  // ------------------------------------------------------------------------------------------------------------ tabs

  const tabs = all('[role=tab]');
  const panels = tabs.map((tab) => document.getElementById(tab.getAttribute('aria-controls')));

  function choose(index, focus) {
    tabs.forEach((tab, at) => {
      tab.setAttribute('aria-selected', String(at === index));
      tab.tabIndex = at === index ? 0 : -1;
      panels[at].hidden = at !== index;
    });
    if (focus) tabs[index].focus();
    measureHeads();
  }
  tabs.forEach((tab, index) => {
    tab.addEventListener('click', () => {
      choose(index);
      history.replaceState(null, '', '#' + panels[index].id);
    });
    tab.addEventListener('keydown', (event) => {
      const last = tabs.length - 1;
      const to = {
        ArrowRight: index === last ? 0 : index + 1,
        ArrowLeft: index === 0 ? last : index - 1,
        Home: 0,
        End: last,
      }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      choose(to, true);
      history.replaceState(null, '', '#' + panels[to].id);
    });
  });
  function fromAddress() {
    const named = panels.findIndex((panel) => '#' + panel.id === location.hash);
    const filled = panels.findIndex((panel) => one('table', panel));
    choose(Math.max(named >= 0 ? named : filled, 0));
  }
  window.addEventListener('hashchange', fromAddress);

  // A table that is not wider than the page scrolls with it, and its head sticks to the window; a wider one has a box.
  // The second row of a head sticks below the first, whose height depends on the width of the page.
  function measureHeads() {
    for (const table of all('main table')) {
      const box = table.parentElement;
      box.classList.remove('fits');
      box.classList.toggle('fits', box.scrollWidth <= box.clientWidth);
      const task = one('thead th.task:not([hidden])', table);
      if (task && task.offsetHeight) table.style.setProperty('--first-row', task.offsetHeight + 'px');
    }
  }
  window.addEventListener('resize', measureHeads);

  // ---------------------------------------------------------------------------------------------- tables: sort, filter

  function setUpTable(panel) {
    const table = one('table', panel);
    const body = one('tbody', table);
    const filter = one('.filter', panel);
    const task = one('.task', panel);
    const alone = one('.alone', panel);
    const state = one('.state', panel);
    const rows = all('tr', body);
    // The heads of columns in their order: some over both rows, others in the second row, below that of their task.
    const second = all('thead tr:last-child th', table);
    const heads = [...table.rows[0].cells].flatMap((head) => (head.rowSpan > 1 ? [head] : second.splice(0, head.colSpan)));
    const groups = all('th.task', table);
    const plot = setUpPlot(panel);
    let sorted = '';

    function sort(index) {
      const head = heads[index];
      const button = one('.sort', head);
      const was = head.getAttribute('aria-sort');
      const direction = was === 'none' ? button.dataset.first : was === 'ascending' ? 'descending' : 'ascending';
      heads.forEach((other) => other.setAttribute('aria-sort', other === head ? direction : 'none'));
      const sign = direction === 'ascending' ? 1 : -1;
      const key = (row) => (index ? row.cells[index].dataset.value : row.cells[0].textContent);
      body.append(
        ...rows.sort((a, b) => {
          const [x, y] = [key(a), key(b)];
          if (!index) return sign * collator.compare(x, y);
          if (x === '' || y === '') return (x === '') - (y === ''); // what is missing comes last, whatever the order
          return sign * (Number(x) - Number(y)) || collator.compare(a.cells[0].textContent, b.cells[0].textContent);
        }),
      );
      const group = groups.find((other) => other.dataset.group === head.dataset.group);
      const name = [group && group.firstChild.textContent.trim(), button.innerText.replace(/\s+/g, ' ')].filter(Boolean).join(', ');
      sorted = `; sorted by ${name}, ${direction === 'ascending' ? 'lowest' : 'highest'} first`;
      tell();
    }

    function tell() {
      const count = rows.filter((row) => !row.hidden).length;
      state.textContent = `${count} of ${rows.length} models${sorted}`;
    }

    function show() {
      const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      const open = new Set();
      for (const group of groups) {
        const chosen = task.value ? group.dataset.task === task.value : !('alone' in group.dataset);
        if (chosen || (alone && alone.checked && !task.value)) open.add(group.dataset.group);
      }
      for (const cell of all('[data-group]', table)) cell.hidden = !open.has(cell.dataset.group);
      const names = new Set();
      for (const row of rows) {
        const name = row.cells[0].textContent;
        const matches = words.every((word) => name.toLowerCase().includes(word));
        const filled = [...row.cells].some((cell) => cell.dataset.group && !cell.hidden && cell.dataset.value);
        row.hidden = !matches || !filled;
        if (matches) names.add(name);
      }
      tell();
      plot.show(names, task.value);
      measureHeads();
    }

    heads.forEach((head, index) => one('.sort', head).addEventListener('click', () => sort(index)));
    filter.addEventListener('input', show);
    task.addEventListener('change', show);
    if (alone) alone.addEventListener('change', show);
    for (const button of all('.figure', body)) button.addEventListener('click', () => open(button.dataset.id));
    show();
  }

  // ------------------------------------------------------------------------------------------------------- provenance

  const dialog = document.getElementById('provenance');

  function open(id) {
    const entry = data.details[id];
    one('h2', dialog).textContent = entry.title;
    one('.value', dialog).textContent = entry.value;
    const list = one('dl', dialog);
    list.replaceChildren();
    for (const [name, text] of entry.facts) {
      make('dt', name, list);
      make('dd', text, list).classList.toggle('code', /[0-9a-f]{40}/.test(text));
    }
    const runs = one('.runs', dialog);
    runs.replaceChildren();
    if (entry.runs.rows.length) {
      const table = make('table', undefined, runs);
      const head = make('tr', undefined, make('thead', undefined, table));
      entry.runs.names.forEach((name) => (make('th', name, head).scope = 'col'));
      const body = make('tbody', undefined, table);
      for (const row of entry.runs.rows) {
        const line = make('tr', undefined, body);
        row.forEach((text) => make('td', text, line));
      }
    }
    dialog.showModal();
    dialog.scrollTop = 0;
  }
  one('.close', dialog).addEventListener('click', () => dialog.close());
  dialog.addEventListener('click', (event) => {
    if (event.target !== dialog) return; // the backdrop counts as the dialog itself, and so does its padding
    const box = dialog.getBoundingClientRect();
    const inside =
      event.clientX >= box.left && event.clientX <= box.right && event.clientY >= box.top && event.clientY <= box.bottom;
    if (!inside) dialog.close();
  });

  // ------------------------------------------------------------------------------------------------------------ plots

  const draw = (name, attributes, parent, text) => {
    const node = document.createElementNS('http://www.w3.org/2000/svg', name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    if (parent) parent.append(node);
    return node;
  };
  const short = (value) => String(Number(value.toPrecision(3)));

  function evenTicks(low, high, count) {
    const rough = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
    const ticks = [];
    for (let at = Math.ceil(low / step); at * step <= high + step * 1e-9; at++) ticks.push(at * step);
    return ticks;
  }

  function logTicks(low, high) {
    for (const factors of [[1], [1, 2, 5], [1, 1.5, 2, 3, 4, 5, 6, 8]]) {
      const ticks = [];
      for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
        ticks.push(...factors.map((factor) => factor * 10 ** power).filter((at) => at >= low && at <= high));
      }
      if (ticks.length > 3) return ticks;
    }
    return evenTicks(low, high, 4);
  }

  function setUpPlot(panel) {
    const figure = one('.plot', panel);
    const { figures, axes } = data.plots[figure.dataset.status];
    const metric = one('.metric', panel);
    const axis = one('.axis', panel);
    const tip = make('div');
    tip.className = 'tip';
    tip.hidden = true;
    let names = new Set();
    let width = 0;

    figures.forEach((entry, index) => (make('option', entry.label, metric).value = index));

    function offerAxes() {
      const before = axis.value;
      const found = new Map();
      for (const point of figures[metric.value].points) {
        for (const at of Object.keys(point.at)) found.set(at, (found.get(at) || 0) + 1);
      }
      axis.replaceChildren();
      for (const at of [...found.keys()].sort((a, b) => a - b)) {
        make('option', `${axes[at].label} (${found.get(at)})`, axis).value = at;
      }
      if (found.has(before)) axis.value = before;
    }

    function render() {
      width = figure.clientWidth;
      if (!width) return; // not on show
      const points = figures[metric.value].points.filter((point) => axis.value in point.at);
      tip.hidden = true;
      figure.replaceChildren();
      if (points.length) chart(points, axes[axis.value], figures[metric.value].label);
      else make('p', 'No cost of these models is known.', figure);
      figure.append(tip);
    }

    function chart(points, { label, unit }, title) {
      const height = Math.round(Math.min(Math.max(width * 0.55, 300), 460));
      const area = { left: 46, right: width - 14, top: 26, bottom: height - 48 };
      const svg = draw('svg', { viewBox: `0 0 ${width} ${height}`, role: 'group', 'aria-label': `${title} against ${label}` });
      figure.append(svg);
      const xs = points.map((point) => point.at[axis.value]);
      const ys = points.flatMap((point) => [point.mean - (point.sd || 0), point.mean + (point.sd || 0)]);
      const logarithmic = Math.min(...xs) > 0 && Math.max(...xs) / Math.min(...xs) > 4;
      const map = logarithmic ? Math.log : (value) => value;
      const [x0, x1] = spread(Math.min(...xs.map(map)), Math.max(...xs.map(map)), 0.06, logarithmic ? 0.1 : 0.05 * xs[0] || 1);
      const [y0, y1] = spread(Math.min(...ys), Math.max(...ys), 0.08, 1);
      const x = (value) => area.left + ((map(value) - x0) / (x1 - x0)) * (area.right - area.left);
      const y = (value) => area.bottom - ((value - y0) / (y1 - y0)) * (area.bottom - area.top);

      for (const tick of evenTicks(y0, y1, height > 400 ? 8 : 6)) {
        draw('line', { class: 'grid', x1: area.left, x2: area.right, y1: y(tick), y2: y(tick) }, svg);
        draw('text', { x: area.left - 8, y: y(tick) + 4, 'text-anchor': 'end' }, svg, short(tick));
      }
      const ticks = logarithmic ? logTicks(Math.exp(x0), Math.exp(x1)) : evenTicks(x0, x1, width < 500 ? 4 : 7);
      for (const tick of ticks) {
        draw('line', { class: 'grid', x1: x(tick), x2: x(tick), y1: area.top, y2: area.bottom }, svg);
        draw('text', { x: x(tick), y: area.bottom + 18, 'text-anchor': 'middle' }, svg, short(tick));
      }
      draw('text', { x: 0, y: 12 }, svg, `${title}, %`);
      const below = draw('text', { x: area.right, y: height - 8, 'text-anchor': 'end' }, svg);
      below.textContent = `${label}, ${unit}${logarithmic ? ', log scale' : ''}`;
      const excess = below.getComputedTextLength() / area.right;
      if (excess > 1) below.setAttribute('font-size', 12 / excess);

      const nodes = [...points].sort((a, b) => a.at[axis.value] - b.at[axis.value] || a.mean - b.mean).map((point) => {
        const at = { x: x(point.at[axis.value]), y: y(point.mean), reach: y(0) - y(point.sd || 0) };
        const words = [point.model, `${point.text} %`, `${short(point.at[axis.value])} ${unit}`];
        const node = draw('g', { class: 'point', role: 'button', tabindex: -1, 'aria-label': words.join(', ') }, svg);
        const shown = names.has(point.model);
        if (!shown) {
          svg.prepend(node); // below the others
          node.classList.add('faint');
          node.setAttribute('aria-hidden', 'true');
        }
        if (point.sd) {
          const ends = [at.y - at.reach, at.y + at.reach];
          const path = `M${at.x} ${ends[0]}V${ends[1]}M${at.x - 4} ${ends[0]}h8M${at.x - 4} ${ends[1]}h8`;
          draw('path', { class: 'bar', d: path }, node);
        }
        draw('circle', { class: 'reach', cx: at.x, cy: at.y, r: 11 }, node);
        draw('circle', { class: 'dot', cx: at.x, cy: at.y, r: 5 }, node);
        const tell = () => hint(words, at, height);
        node.addEventListener('pointerenter', tell);
        node.addEventListener('focus', tell);
        node.addEventListener('pointerleave', () => (tip.hidden = document.activeElement !== node));
        node.addEventListener('blur', () => (tip.hidden = true));
        node.addEventListener('click', () => open(point.id));
        return { node, at, point, shown };
      });
      const reachable = nodes.filter((entry) => entry.shown);
      if (reachable.length) reachable[0].node.setAttribute('tabindex', 0);
      reachable.forEach((entry, index) => {
        entry.node.addEventListener('keydown', (event) => {
          if (event.key === 'Enter' || event.key === ' ') {
            event.preventDefault();
            open(entry.point.id);
          }
          if (event.key === 'Escape') tip.hidden = true;
          const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
          const next = step && reachable[index + step];
          if (step) event.preventDefault();
          if (!next) return;
          entry.node.setAttribute('tabindex', -1);
          next.node.setAttribute('tabindex', 0);
          next.node.focus();
        });
      });
      name(svg, nodes, area);
    }

    // Names beside the points, as many as there is room for; the rest are in the hints.
    function name(svg, nodes, area) {
      const taken = nodes.map(({ at }) => {
        const reach = Math.max(at.reach, 6);
        return { left: at.x - 6, right: at.x + 6, top: at.y - reach, bottom: at.y + reach };
      });
      const free = (box) =>
        box.left >= area.left &&
        box.right <= area.right + 12 &&
        box.top >= area.top - 8 &&
        box.bottom <= area.bottom &&
        !taken.some((b) => box.left < b.right && box.right > b.left && box.top < b.bottom && box.bottom > b.top);
      for (const { at, point, shown } of [...nodes].sort((a, b) => b.point.mean - a.point.mean)) {
        if (!shown) continue;
        const text = draw('text', { class: 'name' }, svg, point.model);
        const [w, h] = [text.getComputedTextLength(), 13];
        const spots = [
          [at.x + 8, at.y - h / 2],
          [at.x - 8 - w, at.y - h / 2],
          [at.x - w / 2, at.y - Math.max(at.reach, 6) - 2 - h],
          [at.x - w / 2, at.y + Math.max(at.reach, 6) + 2],
          [at.x + 6, at.y - 5 - h],
          [at.x + 6, at.y + 5],
          [at.x - 6 - w, at.y - 5 - h],
          [at.x - 6 - w, at.y + 5],
        ].map(([left, top]) => ({ left, right: left + w, top, bottom: top + h }));
        const spot = spots.find(free);
        if (!spot) {
          text.remove();
          continue;
        }
        taken.push(spot);
        text.setAttribute('x', spot.left);
        text.setAttribute('y', spot.bottom - 3);
      }
    }

    function hint([first, ...rest], at, height) {
      tip.replaceChildren();
      make('b', first, tip);
      rest.forEach((text) => make('div', text, tip));
      tip.hidden = false;
      const [w, h] = [tip.offsetWidth, tip.offsetHeight];
      tip.style.left = Math.max(0, Math.min(at.x + 12, width - w)) + 'px';
      tip.style.top = (at.y + 12 + h > height ? at.y - 12 - h : at.y + 12) + 'px';
    }

    function spread(low, high, share, least) {
      const margin = (high - low) * share || least;
      return [low - margin, high + margin];
    }

    metric.addEventListener('change', () => {
      offerAxes();
      render();
    });
    axis.addEventListener('change', render);
    new ResizeObserver(() => {
      if (figure.clientWidth !== width) render();
    }).observe(figure);
    offerAxes();

    return {
      show(found, task) {
        names = found;
        const first = figures.findIndex((entry) => entry.task === task);
        if (task && figures[metric.value].task !== task && first >= 0) {
          metric.value = first;
          offerAxes();
        }
        render();
      },
    };
  }

  // -------------------------------------------------------------------------------------------------------------------

  panels.filter((panel) => one('table', panel)).forEach(setUpTable);
  fromAddress();
})();
