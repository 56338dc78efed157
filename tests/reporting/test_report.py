"""A cross-validation's page: complete, self-contained, honest on what it does not know, and within its size."""

import base64
import csv
import gzip
import json
import re
import shutil
import sys
from contextlib import nullcontext
from html import unescape
from html.parser import HTMLParser

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from blobs import BOX, write_cohort
from kept_boxes import keep_found
from made_predictions import made_predictions
from refusal import refused

from scripts.maps.bids import find_scans
from scripts.maps.notes import write_notes
from scripts.maps.scan import items
from scripts.provenance import cohort_fingerprint, software
from scripts.reporting import page, sections
from scripts.reporting.checklist import ITEMS, fill, filled
from scripts.reporting.cross_validation import cross_validation_report, volume_entry
from scripts.reporting.figures import roc_models
from scripts.reporting.markup import fixed, html
from scripts.reporting.outcome import by_subject, read_outcome
from scripts.reporting.style import VECTOR, save_figure
from scripts.reporting.tables import read_tables, write_tables
from scripts.reporting.viewer import packed, slab, viewer
from scripts.training.cache import CachedScans
from scripts.training.preprocessing import preprocessing

SETTINGS = {"num_slices": 4, "hidden_size": 8, "image_epochs": 3, "seed": 0, "imagenet_weights": "none"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A cohort and what a cross-validation of six of its subjects leaves; the first has evidence in both regions."""
    folder = tmp_path_factory.mktemp("run")
    cohort, output = write_cohort(folder / "cohort", 12), folder / "output"
    output.mkdir()
    table = made_predictions(6, 4, 2, folds=3)
    table.to_csv(output / "predictions.csv", index=False)
    record = {"software": software(), "settings": SETTINGS, "input": cohort_fingerprint(cohort), "weights": {"a": "b"}}
    (output / "predictions.json").write_text(json.dumps(record))
    write_tables(output / "tables", table, simulated=True)
    save_figure(roc_models(table, [("full", "scan")], True), output / "figures" / "roc_models_scan", VECTOR)
    image = nib.load(cohort / "sub-01" / "anat" / "sub-01_Chimap.nii.gz")
    for region in ("full", "cropped"):
        path = output / "evidence" / region / "sub-01" / "sub-01_evidence.nii.gz"
        path.parent.mkdir(parents=True)
        nib.save(nib.Nifti1Image(np.linspace(-1, 2, image.get_fdata().size).reshape(image.shape), image.affine), path)
    return cohort, output


@pytest.fixture(scope="module")
def written(run):
    cohort, output = run
    return cross_validation_report(output / "report", cohort, output, viewer_subjects=1).read_text()


@pytest.fixture(scope="module")
def unannotated(run, tmp_path_factory):
    """The same, but that nobody annotated a box; the folds have not read the scans yet."""
    folder = tmp_path_factory.mktemp("unannotated")
    cohort, output = shutil.copytree(run[0], folder / "cohort"), shutil.copytree(run[1], folder / "output")
    shutil.rmtree(cohort / "derivatives" / "basalganglia")
    return cohort, output


class Elements(HTMLParser):
    """Tags with their attributes, and the text of table cells row by row."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.rows, self.cell = [], [], False
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.cell = True

    def handle_endtag(self, tag):
        self.cell = self.cell and tag not in ("td", "th")

    def handle_data(self, data):
        if self.cell:
            self.rows[-1][-1] += data


def rows_after(source, heading):
    """Rows of the tables from a section on."""
    return Elements(source[source.index(heading) :]).rows


def test_the_summary_gives_the_distance_to_the_oracle_where_the_truth_is_known(run):
    cohort, output = run
    outcome = read_outcome(output, cohort)
    measured = read_tables(output / "tables")
    assert "oracle" not in str(sections.summary(outcome, measured, True))
    truth = cohort / "derivatives" / "groundtruth" / "difficulty.json"
    truth.parent.mkdir(parents=True)
    truth.write_text('{"auc": {"oracle_cohort": 0.95}}')
    try:
        found = str(sections.summary(read_outcome(output, cohort), measured, True)["cards"])
    finally:
        truth.unlink()
    scan_level = pd.read_csv(output / "tables" / "table3_scan_level.csv").query("measure == 'auc' and model == 'Q-Net'")
    for auc in scan_level["mean"]:
        assert f"oracle, who knows the truth, on these very subjects: 0.950, {fixed(0.95 - auc, 3)} more" in found


def test_the_page_loads_nothing(written):
    for tag, attributes in Elements(written).tags:
        for name in ("src", "href", "data", "poster", "action"):
            value = attributes.get(name, "")
            assert not re.match(r"\w+:", value) or value.startswith("data:"), (tag, value)
            assert tag != "link" or value.startswith("data:") or name != "href"
    assert not re.search(r"@import|url\(\s*['\"]?https?:", written)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', written)[1]
    assert policy.startswith("default-src 'none'") and "http" not in policy


def test_the_page_has_every_section_and_a_link_to_each(written):
    names = re.findall(r'<section id="([\w-]+)">', written)
    assert names == [
        "summary", "tables", "figures", "cohort", "subjects", "viewer", "configuration", "provenance", "checklists"
    ]  # fmt: skip
    assert all(f'<a href="#{name}">' in written for name in names)


def test_the_page_says_simulated_and_research_only(written):
    assert "<h1>Q-Net cross-validation on a simulated cohort</h1>" in written
    assert "Research use only" in written and "not from patients" in written


def test_a_cohort_that_is_not_simulated_is_not_called_so(run, tmp_path):
    cohort, output = shutil.copytree(run[0], tmp_path / "cohort"), shutil.copytree(run[1], tmp_path / "output")
    record = json.loads((output / "predictions.json").read_text())
    record["input"] |= {"simulated": False, "name": "Clinic"}
    (output / "predictions.json").write_text(json.dumps(record))
    (output / "figures" / "roc_models_scan.svg").write_text("<svg/>")
    source = unescape(cross_validation_report(output / "report", cohort, output, viewer_subjects=0).read_text())
    for denial in ("Cohort not simulated", "<code>simulated</code>", '"simulated": false'):
        source = source.replace(denial, "")
    assert "imulated" not in source
    assert "Research use only" in source
    assert 'id="viewer' not in source and 'href="#viewer"' not in source


def test_found_boxes_are_drawn_as_annotated_ones_are(run, written, unannotated):
    cohort, output = unannotated
    steps = preprocessing("cropped", [32, 32], 4, [0.5, 99.5], "auto", keep_found(cohort, BOX))
    write_notes(output / "scans.tsv", CachedScans(items(find_scans(cohort)), steps, output / "cache"))
    page = cross_validation_report(output / "report", cohort, output, viewer_subjects=1).read_text()
    (output / "scans.tsv").unlink()
    for name in ("figure1_example_maps", "evidence_full", "evidence_cropped"):
        drawn, due = (folder / "figures" / f"{name}.png" for folder in (output, run[1]))
        assert drawn.read_bytes() == due.read_bytes(), name
    for part in (r'src="data:image/jpeg[^"]+"', r'id="viewer-volumes">.+?</script>', "with the box", "Only the slices"):
        assert re.findall(part, page) == re.findall(part, written) != []


def test_a_page_speaks_of_no_box_where_none_is_known(unannotated):
    cohort, output = unannotated
    page = cross_validation_report(output / "report", cohort, output, viewer_subjects=1).read_text()
    for part in ("with the box", "slice of the basal ganglia", "Only the slices around the basal ganglia"):
        assert part not in page
    assert "at the middle slice (the paper" in unescape(page)


def test_every_subject_is_listed_with_its_mean_probability(run, written):
    cohort, output = run
    groups, probabilities = by_subject(read_outcome(output, cohort).table)
    rows = {row[0]: row for row in rows_after(written, '<section id="subjects">') if row and row[0].startswith("sub-")}
    assert len(rows) == 6
    column = list(probabilities.columns).index(("cropped", "Q-Net"))
    for name, group in groups.items():
        probability = probabilities.loc[name, ("cropped", "Q-Net")]
        predicted = "HH" if probability >= 0.5 else "HC"
        row = rows[name]
        assert row[1] == group
        assert row[7 + column] == f"{probability:.2f}" + (" ✗" if predicted != group else "")
        assert row[2:4] == [predicted, "yes" if predicted == group else "no"]


def test_tables_show_the_papers_values(written):
    assert "0.866" in written[written.index('<section id="tables">') : written.index('<section id="figures">')]


def test_settings_stand_beside_what_they_do(written):
    rows = {row[0]: row for row in rows_after(written, '<section id="configuration">') if len(row) == 3}
    assert rows["num_slices"][1] == "4" and "slices a scan" in rows["num_slices"][2]


def test_what_only_the_researcher_knows_stays_blank(run, written):
    items = {(i.checklist, i.item): i for i in filled({})}
    assert len([i for i in items if i[0] == "CLAIM 2024"]) == 44
    blank = ("CLAIM 2024", "44"), ("TRIPOD+AI", "17"), ("TRIPOD+AI", "18b"), ("CLAIM 2024", "13")
    rows = {tuple(row[:1] + row[2:3]): row for row in rows_after(written, '<section id="checklists">') if len(row) == 5}
    for key in blank:
        assert items[key].known == "" and items[key].left
        assert rows[items[key].item, items[key].topic][3] == ""
    assert rows["8", items["CLAIM 2024", "8"].topic][3] == "6 subjects (3 HH, 3 HC) were analysed"
    assert "hidden_size" not in written[written.index('<section id="checklists">') :]


def test_no_field_is_half_filled():
    assert fill("{a} of {b}", {"a": 1}) == ""
    assert fill("{a} of {b}", {"a": 1, "b": None}) == ""
    assert fill("{a} of {b}", {"a": 0, "b": 2}) == "0 of 2"


def test_checklist_items_are_numbered_once():
    items = [(i.checklist, i.item) for i in filled({})]
    assert len(set(items)) == len(items)
    with ITEMS.open(newline="") as file:
        assert all(row["known"] or row["left"] for row in csv.DictReader(file))


def test_volumes_in_the_page_are_the_scans(run, written):
    cohort, output = run
    volumes = json.loads(re.search(r'id="viewer-volumes">(.+?)</script>', written)[1])
    assert {entry["title"] for entry in volumes} <= {f"sub-{n:02d} ({g})" for n in range(13) for g in ("HH", "HC")}
    assert [entry["title"][8:10] for entry in volumes] == ["HH", "HC"]
    outcome = read_outcome(output, cohort)
    scan = outcome.scans["sub-01"][0]
    pack = packed(scan, outcome.evidence(scan), 1)
    stored = nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(pack["maps"][1]["data"])))
    original = nib.load(scan.maps[1])
    values = original.get_fdata(dtype=np.float32)
    step = stored.dataobj.slope
    for voxel in [(0, 0, 0), (10, 20, 4)]:
        where = np.linalg.solve(original.affine, stored.affine @ [*voxel, 1])[:3]
        np.testing.assert_allclose(where, np.rint(where), atol=1e-4)
        i, j, k = np.rint(where).astype(int)
        assert abs(stored.get_fdata()[voxel] - values[i, j, k]) <= step
    evidence = nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(pack["evidence"]["full"]["data"])))
    assert evidence.get_fdata().max() == pytest.approx(1, abs=1e-3)


def test_a_reduced_volume_stays_in_its_place(run):
    cohort, output = run
    scan = read_outcome(output, cohort).scans["sub-02"][0]
    (fine, affine), (coarse, reduced) = (slab(scan.maps[0], scan.box, factor) for factor in (1, 2))
    assert coarse.shape == (fine.shape[0] // 2, fine.shape[1] // 2, fine.shape[2])
    np.testing.assert_allclose(coarse[3, 4, 2], fine[6:8, 8:10, 2].mean(), rtol=1e-5)
    np.testing.assert_allclose(reduced @ [3, 4, 2, 1], affine @ [6.5, 8.5, 2, 1])


def test_a_page_beyond_its_limit_is_refused_and_not_written(run, tmp_path):
    with refused("page_limit_mb"):
        cross_validation_report(tmp_path, *run, page_limit_mb=1.0)
    assert not (tmp_path / "index.html").exists()


def test_volumes_are_reduced_until_they_fit_and_refused_where_they_cannot(run):
    cohort, output = run
    entry = volume_entry(read_outcome(output, cohort), "sub-01")
    sizes = {}
    for budget in (10_000_000, 60_000, 1000):
        with refused("page_limit_mb") if budget == 1000 else nullcontext():
            found = viewer([entry], "niivue();", budget)
            sizes[budget] = len(found["script"]) + len(found["volumes"])
            assert sizes[budget] < budget
            assert (found["factor"] > 1) == (budget == 60_000)
    assert sizes[60_000] < sizes[10_000_000]


def test_without_nilearn_the_viewer_is_refused(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nilearn", None)
    with refused("nilearn", "viewer_subjects"):
        cross_validation_report(tmp_path, *run)


def test_a_cohort_without_ages_leaves_its_figure_out_and_says_why(run, tmp_path):
    cohort, output = shutil.copytree(run[0], tmp_path / "cohort"), shutil.copytree(run[1], tmp_path / "output")
    shutil.rmtree(output / "evidence")
    path = cohort / "participants.tsv"
    path.write_text(path.read_text().replace("age", "years", 1))
    (output / "figures" / "figure2_cohort.svg").unlink(missing_ok=True)
    source = unescape(cross_validation_report(output / "report", cohort, output, viewer_subjects=0).read_text())
    assert "no column 'age'" in source
    assert "The cohort folder has changed" in source
    assert "evidence/full holds no evidence map" in source.replace(str(output), "")
    assert not (output / "figures" / "figure2_cohort.svg").exists()


def test_another_cohort_is_refused(run, cohort, tmp_path):
    with refused("sub-05", cohort):
        cross_validation_report(tmp_path, cohort, run[1])


def test_a_run_without_tables_is_refused(run, tmp_path):
    output = shutil.copytree(run[1], tmp_path / "output")
    shutil.rmtree(output / "tables")
    with refused(output / "tables"):
        cross_validation_report(tmp_path, run[0], output)


@pytest.mark.parametrize("content", [None, "{}", "not json"])
def test_a_damaged_record_is_refused(run, tmp_path, content):
    output = shutil.copytree(run[1], tmp_path / "output")
    record = output / "predictions.json"
    record.unlink() if content is None else record.write_text(content)
    with refused(record):
        read_outcome(output, run[0])


BASE = """{% extends "base.html" %}{% from "parts.html" import facts, left_out, picture, settings, table %}
{% block main %}"""


def made(source, **content):
    """A page of one block."""
    values = {"title": "T", "note": "N", "beside": False, "colours": {"HH": "", "HC": ""}}
    return page.environment().from_string(BASE + source + "{% endblock %}").render(values | content)


@pytest.mark.parametrize(
    "source",
    [
        "{{ table([x], [[x]]) }}", "{{ settings([x], [(x, x, x)]) }}", "{{ facts([(x, x)]) }}", "{{ left_out(x) }}",
        "{{ picture(x, x) }}", "{{ x }}",
    ],
)  # fmt: skip
def test_names_cannot_break_out_of_the_page(source):
    name = """"><script>alert(1)</script>'a & b"""
    shown = made(source, x=name, title=name, note=name)
    assert "<script" not in shown and name in unescape(shown)
    assert html(pd.DataFrame({name: [name]})).count("&lt;script") == 2


@pytest.mark.parametrize("template", sorted(path.name for path in page.TEMPLATES.iterdir()))
def test_no_page_needs_a_network(template):
    text = (page.TEMPLATES / template).read_text()
    assert not re.search(r"https?:|//\w+\.\w|@import|url\(", text)
    assert not re.search(r"<(link|script|img|iframe)\b[^>]*\b(src|href)=\"(?!data:|{{)", text)


def test_the_papers_tables_stand_on_the_page_as_they_were_written(run, written):
    rows = rows_after(written, '<section id="tables">')
    for path in (run[1] / "tables").glob("*.md"):
        for line in path.read_text().splitlines():
            if line.startswith("|") and not line.startswith("|:-"):
                cells = re.split(r"(?<!\\)\|", line.strip("|"))
                assert [re.sub(r"\\(.)", r"\1", cell.strip()) for cell in cells] in rows


def test_a_comment_of_several_lines_is_shown_whole():
    (row,) = sections.configuration({"localise": "auto"})
    assert row[-1].endswith("scans are cut already")


def test_a_half_is_rounded_on_a_page_as_in_tables_and_figures():
    shown = made("{{ table(['auc'], [[0.7975], [0.8125], [nan], [3]]) }}", nan=float("nan"))
    assert re.findall(r">([^<>]+)</td>", shown) == ["0.798", "0.813", "n/a", "3"]
