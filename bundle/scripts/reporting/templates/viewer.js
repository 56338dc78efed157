(async () => {
  const $ = name => document.getElementById('viewer-' + name);
  const subjects = JSON.parse($('volumes').textContent), about = $('about');
  const options = (select, pairs) => select.replaceChildren(...pairs.map(([value, label]) => new Option(label, value)));
  if (!$('canvas').getContext('webgl2')) {
    about.textContent = 'This browser offers no WebGL2, which the viewer needs; see the pictures of each subject.';
    return;
  }
  const nv = new niivue.Niivue({backColor: [0, 0, 0, 1], dragAndDropEnabled: false, isColorbar: true,
    isRadiologicalConvention: true, multiplanarShowRender: niivue.SHOW_RENDER.NEVER, loadingText: 'loading'});
  await nv.attachToCanvas($('canvas'));
  const ramp = {A: [0, 150, 220], I: [0, 40, 255]};  // alpha 0 at the low end: weaker evidence is not drawn
  nv.addColormap('speaksForHH', {R: [253, 178, 103], G: [160, 24, 0], B: [130, 43, 31], ...ramp});
  nv.addColormap('speaksForHC', {R: [146, 33, 5], G: [190, 102, 48], B: [240, 172, 97], ...ramp});
  nv.setCrosshairWidth(0.6);
  nv.onLocationChange = where => { about.dataset.where = where.string; };
  const load = (volume, look) =>
    niivue.NVImage.loadFromBase64({base64: volume.data, name: volume.name + '.nii.gz', ...look});
  async function show() {
    const subject = subjects[$('subject').value];
    about.textContent = subject.about;
    for (const volume of [...nv.volumes]) nv.removeVolume(volume);
    const map = subject.maps[$('map').value];
    nv.addVolume(await load(map, {colormap: 'gray', cal_min: map.low, cal_max: map.high}));
    const evidence = subject.evidence[$('evidence').value];
    if (evidence) {
      nv.addVolume(await load(evidence, {colormap: 'speaksForHH', colormapNegative: 'speaksForHC', cal_min: 0.15,
        cal_max: 1, cal_minNeg: -0.15, cal_maxNeg: -1, opacity: Number($('opacity').value)}));
    }
    nv.setSliceType(Number($('view').value));
    document.body.dataset.viewer = 'ready';
  }
  function choices() {
    const subject = subjects[$('subject').value], kept = $('evidence').value;
    options($('evidence'), [...Object.keys(subject.evidence).map(region => [region, region + ' input']), ['', 'none']]);
    if (kept in subject.evidence) $('evidence').value = kept;
    return show();
  }
  options($('subject'), subjects.map((subject, index) => [index, subject.title]));
  options($('map'), subjects[0].maps.map((map, index) => [index, map.name]));
  $('subject').onchange = choices;
  for (const name of ['map', 'evidence', 'view']) $(name).onchange = show;
  $('opacity').oninput = () => nv.volumes.length > 1 && nv.setOpacity(1, Number($('opacity').value));
  for (const link of document.querySelectorAll('[data-viewer]')) {
    link.addEventListener('click', () => { $('subject').value = link.dataset.viewer; choices(); });
  }
  await choices();
})();
