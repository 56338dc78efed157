"""Studies from an archive (PACS) by DICOMweb, and results back into it: Orthanc, and an archive that misbehaves."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
import requests
from blobs import BUNDLE, REPOSITORY
from refusal import refused
from stand_in import StandIn, serving
from studies import RULES, files_of

from scripts.dicom.address import parse_address
from scripts.dicom.web import Archive, _value
from scripts.inference.inputs import find_input
from scripts.maps.scan import MAPS

PATH = f"{os.environ.get('PATH', '')}:/usr/sbin"
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
USER, PASSWORD = "reader", "not-a-secret"


@pytest.fixture
def archive(template: Path) -> Iterator[StandIn]:
    with serving(files_of(template)) as running:
        yield running


def study_uid(archive: StandIn) -> str:
    return str(archive.images[0].StudyInstanceUID)


def found(archive: StandIn, folder: Path, query: str = "") -> list:
    asked = query or f"StudyInstanceUID={study_uid(archive)}"
    return find_input(f"dicomweb:{archive.url}?{asked}", dicom_rules=RULES, fetched_dir=folder)


def kept(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_an_attribute_without_value_is_empty_however_json_says_it():
    for said in ({}, {"00100020": {"vr": "LO"}}, {"00100020": {"vr": "LO", "Value": [None]}}):
        assert _value(said, "PatientID") == ""
    assert _value({"00100020": {"vr": "LO", "Value": ["p 1"]}}, "PatientID") == "p 1"


# --- fetched ----------------------------------------------------------------------------------------------------------


def test_a_study_is_fetched_when_its_turn_comes_and_once(archive, template, tmp_path):
    (scan,) = found(archive, tmp_path)
    assert kept(tmp_path) == []
    assert {name: len(files) for name, files in scan.files().items()} == dict.fromkeys(MAPS, 8)
    (same,) = find_input(template, dicom_rules=RULES)
    assert scan.scan_id == same.scan_id
    assert (scan.image().load().numpy() == same.image().load().numpy()).all()
    before = sum("series" in path and "instances" not in path for path in archive.asked)
    (again,) = found(archive, tmp_path)
    assert again.files() == scan.files()
    assert (
        sum("series" in path and "instances" not in path for path in archive.asked) == before + 2
    )  # listed, two pages


@pytest.mark.parametrize("body", ["cut", "short", "fewer"])
def test_half_a_body_is_one_line_and_nothing_is_kept(archive, tmp_path, body):
    archive.body = body
    (scan,) = found(archive, tmp_path)
    with refused(scan.scan_id, "127.0.0.1", "give the same command again"):
        scan.files()
    assert kept(tmp_path) == []
    archive.body = "whole"
    (scan,) = found(archive, tmp_path)
    assert len(scan.files()["T1w"]) == 8


@pytest.mark.parametrize(("status", "said"), [(401, ".netrc"), (500, "answers 500"), (404, "dicom-web")])
def test_an_archive_that_refuses_says_so_before_any_work(archive, tmp_path, status, said):
    archive.status = status
    with refused("input", said):
        found(archive, tmp_path)
    archive.where = "/series"
    (scan,) = found(archive, tmp_path)
    with refused(scan.scan_id, said):
        scan.files()
    with refused(scan.scan_id, said):  # not tried a second time in one run
        scan.files()
    assert sum("/series" in path for path in archive.asked) == 1


def test_of_several_studies_the_one_that_is_not_there_fails_alone(archive, tmp_path):
    with refused("input", "no study that was asked for"):
        found(archive, tmp_path, "StudyInstanceUID=1.2.3")
    there, missing = found(archive, tmp_path, f"StudyInstanceUID={study_uid(archive)},1.2.3")
    assert len(there.files()["T1w"]) == 8
    with refused(missing.scan_id, "no such study"):
        missing.files()


def test_an_archive_that_is_not_there_is_one_line(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with refused("input", "cannot be reached"):
        find_input(f"dicomweb:http://127.0.0.1:{port}/dicom-web?PatientID=1", dicom_rules=RULES, fetched_dir=tmp_path)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("dicomweb:", "https://HOST"),
        ("dicomweb:ftp://host/x?PatientID=1", "https://HOST"),
        ("dicomweb:http://host:port/x?PatientID=1", "https://HOST"),
        ("dicomweb:http://me:secret@host/x?PatientID=1", ".netrc"),
        ("dicomweb:http://host/x?studyinstanceuid=1.2", "StudyInstanceUID"),
        ("dicomweb:http://host/x?SeriesDescription=qsm", "StudyInstanceUID"),
        ("dicomweb:http://host/x?PatientID=", "PatientID"),
        ("dicomweb:http://host/x?PatientID=*", "all of the archive"),
        ("dicomweb:http://host/x?AccessionNumber=12#3", "%23"),
    ],
)
def test_an_address_that_is_none_is_refused(address, said):
    with refused("input", said) as _:
        parse_address(address, "input")


def test_an_archive_without_a_question_is_not_fetched_as_a_whole(archive, tmp_path):
    with refused("input", "not all of it is fetched"):
        find_input(f"dicomweb:{archive.url}", dicom_rules=RULES, fetched_dir=tmp_path)
    assert archive.asked == []


# --- stored -----------------------------------------------------------------------------------------------------------


def result_of(image: pydicom.Dataset, path: Path, **changed: str) -> Path:
    """An object of the image's study and patient."""
    result = pydicom.dcmread(image.filename)
    result.SOPInstanceUID = result.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    for keyword, value in changed.items():
        setattr(result, keyword, value)
    result.save_as(path)
    return path


def test_a_result_goes_only_into_the_study_that_it_came_from(archive, tmp_path):
    image, keeper = archive.images[0], Archive(archive.url)
    uid, patient = str(image.StudyInstanceUID), str(image.PatientID)
    for changed in ({"StudyInstanceUID": "1.2.9"}, {"PatientID": "somebody else"}):
        with refused("study-x", "names another study or patient"):
            keeper.store([result_of(image, tmp_path / "r.dcm", **changed)], patient, uid, "study-x")
    elsewhere = result_of(image, tmp_path / "r.dcm", StudyInstanceUID="1.2.9")
    with refused("study-x", "has no such study"):
        keeper.store([elsewhere], patient, "1.2.9", "study-x")
    other = result_of(image, tmp_path / "r.dcm", PatientID="somebody else")
    with refused("study-x", "of another patient"):
        keeper.store([other], "somebody else", uid, "study-x")
    assert archive.taken == []
    assert keeper.store([result_of(image, tmp_path / "r.dcm")], patient, uid, "study-x") == 1
    assert len(archive.taken) == 1 and b"1.2.3.4" in archive.taken[0]
    assert [path for path in archive.asked if path.endswith(f"/studies/{uid}")] != []


def test_a_result_that_is_there_is_not_sent_again_and_one_that_is_refused_is_said(archive, tmp_path):
    image = archive.images[0]
    uid, patient = str(image.StudyInstanceUID), str(image.PatientID)
    assert Archive(archive.url).store([Path(image.filename)], patient, uid, "study-x") == 0
    archive.status, archive.where = 409, f"/studies/{uid}"
    result = result_of(image, tmp_path / "r.dcm")
    with refused("study-x", "answers 409"):
        Archive(archive.url).store([result], patient, uid, "study-x")


# --- Orthanc ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an Orthanc on the loopback address that asks for a password."""
    program = shutil.which("Orthanc", path=PATH)
    if program is None or not PLUGIN.exists():
        pytest.skip("needs Orthanc and its DICOMweb plugin: apt-get install orthanc orthanc-dicomweb")
    folder = tmp_path_factory.mktemp("orthanc")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "StorageDirectory": str(folder), "IndexDirectory": str(folder), "Plugins": [str(PLUGIN)],
        "HttpPort": port, "RemoteAccessAllowed": False, "DicomServerEnabled": False,
        "AuthenticationEnabled": True, "RegisteredUsers": {USER: PASSWORD},
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen([program, folder / "orthanc.json"], stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                if requests.get(f"{url}/dicom-web/studies", timeout=5).status_code == 401:
                    break
            except requests.ConnectionError:
                time.sleep(0.1)
            assert process.poll() is None, (folder / "log.txt").read_text()
        yield url
    finally:
        process.terminate()
        process.wait()


@pytest.mark.other_programs
def test_a_study_in_orthanc_is_found_inferred_and_gets_its_results(orthanc, template, tmp_path):
    session = requests.Session()
    session.auth = (USER, PASSWORD)
    for path in files_of(template):
        session.post(f"{orthanc}/instances", data=path.read_bytes()).raise_for_status()
    uid = str(pydicom.dcmread(files_of(template)[0]).StudyInstanceUID)
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login {USER} password {PASSWORD}\n")
    (tmp_path / "netrc").chmod(0o600)
    out = tmp_path / "out"

    def infer(**environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "monai.bundle", "run", "--config_file", BUNDLE / "configs" / "inference.yaml",
             "--bundle_root", BUNDLE, "--input", f"dicomweb:{orthanc}/dicom-web?StudyInstanceUID={uid}",
             "--send", f"dicomweb:{orthanc}/dicom-web", "--output_dir", out, "--localise", "whole", "--nuclei", "known",
             "--evidence_method", "input_x_gradient"],
            cwd=REPOSITORY, env={**os.environ, **environment}, capture_output=True, text=True, check=False,
        )  # fmt: skip

    stopped = infer()
    assert stopped.returncode == 1 and ".netrc" in stopped.stderr.splitlines()[-1]
    done = infer(NETRC=str(tmp_path / "netrc"))
    assert done.returncode == 0, done.stderr
    assert "1 scans are in the archive" in done.stdout and "2 objects sent now" in done.stdout
    study = {"Level": "Instance", "Expand": True, "Query": {"StudyInstanceUID": uid}}

    def held() -> dict[str, str]:
        instances = session.post(f"{orthanc}/tools/find", json=study).json()
        modality = {i["ID"]: session.get(f"{orthanc}/instances/{i['ID']}/simplified-tags").json() for i in instances}
        return {name: tags["SOPClassUID"] for name, tags in modality.items()}

    classes = held()
    assert len(classes) == len(files_of(template)) + 2
    sr = [name for name, kind in classes.items() if kind == "1.2.840.10008.5.1.4.1.1.88.34"]
    maps = [name for name, kind in classes.items() if kind == "1.2.840.10008.5.1.4.1.1.30"]
    assert len(sr) == len(maps) == 1
    back = tmp_path / "sr.dcm"
    back.write_bytes(session.get(f"{orthanc}/instances/{sr[0]}/file").content)
    (prediction,) = out.rglob("*_prediction.json")
    if shutil.which("dsrdump"):
        said = subprocess.run(["dsrdump", "+Pl", back], capture_output=True, text=True, check=True).stdout
        assert "Probability of hereditary hemochromatosis" in said
    assert pydicom.dcmread(back).StudyInstanceUID == uid
    # nothing that names the study is left in the results, and what was fetched is gone
    said = prediction.read_text() + (out / "predictions.csv").read_text() + (out / "run.json").read_text()
    assert uid not in said and "127.0.0.1" not in said
    assert not any(path.name.startswith(".part") for path in out.rglob("*"))
    # the same command again: the study has results now, nothing is made or sent anew
    before = prediction.stat().st_mtime_ns
    again = infer(NETRC=str(tmp_path / "netrc"))
    assert again.returncode == 0, again.stderr
    assert "0 objects sent now" in again.stdout
    assert prediction.stat().st_mtime_ns == before
    assert held() == classes
