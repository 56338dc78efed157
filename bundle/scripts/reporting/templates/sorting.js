for (const table of document.querySelectorAll('table.sortable')) {
  table.querySelectorAll('th').forEach((head, column) => head.addEventListener('click', () => {
    const rising = head.dataset.rising !== 'yes', body = table.tBodies[0];
    head.dataset.rising = rising ? 'yes' : 'no';
    const value = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const order = (a, b) => (a - b) || String(a).localeCompare(String(b), undefined, {numeric: true});
    const rows = [...body.rows].sort((a, b) => order(value(a), value(b)));
    body.append(...(rising ? rows : rows.reverse()));
  }));
}
