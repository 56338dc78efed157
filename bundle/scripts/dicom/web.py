"""An archive (PACS) that speaks DICOMweb: its studies fetched as files, results stored into the study that they are of.

Names, ids and UIDs of patients and studies stay out of messages; an archive is called by its host.
"""

import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydicom import dcmread
from pydicom.datadict import tag_for_keyword

from scripts.dicom.address import ADDRESS, ASKED_BY
from scripts.dicom.identity import allowed
from scripts.errors import InputError, chain
from scripts.files.parts import part_folder

if TYPE_CHECKING:
    from dicomweb_client.api import DICOMwebClient

#: Environment variable with a token (OAuth) for archives that want one; user and password stand in ~/.netrc.
TOKEN = "DICOMWEB_TOKEN"
#: Seconds that an archive may be silent.
TIMEOUT = 60.0
#: How often a request is made that a busy archive or the network fails, a second or less apart.
TRIES = 3
#: Studies, series or instances asked for at a time.
PAGE = 500
#: What an archive says of a study, series or instance: tag -> `vr` and `Value` (DICOM JSON).
Said = Mapping[str, Mapping[str, Any]]

_UID = re.compile(r"(?=.{1,64}$)[0-9]+(\.[0-9]+)*")

for _name in ("dicomweb_client", "retrying"):  # they name studies and patients
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)


class Archive:
    """An archive at a URL.

    Args:
        url: of its DICOMweb service, without query.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        #: How messages call it.
        self.host = urlsplit(url).netloc

    def client(self) -> "DICOMwebClient":
        """A client of one thread, with the user's password from ~/.netrc or the token from `DICOMWEB_TOKEN`.

        Raises:
            InputError: the package is not installed.
        """
        try:
            from dicomweb_client.api import DICOMwebClient
        except ImportError as error:
            raise InputError(
                "an archive needs the package dicomweb-client; type pip install '.[dicom]' in the repository"
            ) from error
        token = os.environ.get(TOKEN)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        client = DICOMwebClient(self.url, headers=headers, timeout=TIMEOUT, callback=_to_the_end, permissive_uid=True)
        client.set_http_retry_params(max_attempts=TRIES, wait_exponential_multiplier=250)
        return client

    @contextmanager
    def asked(self, about: str) -> Iterator["DICOMwebClient"]:
        """A client for a `with` block, in which whatever goes wrong between us and the archive is one line.

        Args:
            about: begins the message.

        Raises:
            InputError: the archive is not there, lets nobody in, fails, or breaks off.
        """
        try:
            yield self.client()
        except InputError:
            raise
        except Exception as error:  # of requests, urllib3, retrying, pydicom, and of the client itself
            raise InputError(f"{about}: the archive at {self.host} {_said(error)}") from error

    def check(self, key: str) -> None:
        """Refuse an archive that does not answer.

        Raises:
            InputError: the reason, see `asked`.
        """
        with self.asked(key) as client:
            client.search_for_studies(limit=1)

    def find(self, key: str, query: Mapping[str, str]) -> dict[str, str]:
        """The studies that meet a query (QIDO-RS).

        Args:
            key: begins messages.
            query: one of ASKED_BY -> value; several Study Instance UIDs have commas between.

        Returns:
            Study Instance UID -> Patient ID. A study that was asked for by its UID and is not there is among them,
            without Patient ID, unless none of them is there.

        Raises:
            InputError: nothing is asked for or found, a UID is none, or see `asked`.
        """
        if not query:
            raise InputError(
                f"{key}: names an archive and no study, and not all of it is fetched; ask for some, as in"
                f" {ADDRESS}https://HOST/dicom-web?StudyInstanceUID=1.2.3 (or {', '.join(ASKED_BY[1:5])})"
            )
        others = {keyword: value for keyword, value in query.items() if keyword != "StudyInstanceUID"}
        uids = [uid.strip() for uid in query.get("StudyInstanceUID", "").split(",") if uid.strip()]
        if not all(map(_UID.fullmatch, uids)):
            raise InputError(f"{key}: a StudyInstanceUID is made of digits and dots, and one given is not; correct it")
        asked = [{"StudyInstanceUID": uid, **others} for uid in uids] or [others]
        found: dict[str, str] = {}
        there = False
        with self.asked(key) as client:
            for filters in asked:
                studies = _all(client.search_for_studies, "StudyInstanceUID", search_filters=filters)
                there = there or bool(studies)
                found |= dict.fromkeys((filters[k] for k in ("StudyInstanceUID",) if k in filters), "")
                found |= {uid: _value(said, "PatientID") for uid, said in studies.items()}
        if not there:
            raise InputError(f"{key}: the archive at {self.host} has no study that was asked for; check what is asked")
        return found

    def fetch(self, study_uid: str, name: str, folder: Path, most: int) -> list[str]:
        """The MR images of a study as files (WADO-RS), in the form in which the archive keeps them.

        What the archive lists and `folder` holds already is not fetched again. A series comes whole or not at all.

        Args:
            study_uid: of the study.
            name: what messages call it.
            folder: gets a folder a series.
            most: files that a study may have.

        Returns:
            paths of exactly the images that the archive lists.

        Raises:
            InputError: the archive lacks the study, it holds no MR images or too many, or see `asked`.
        """
        with self.asked(name) as client:
            series = _all(
                client.search_for_series, "SeriesInstanceUID", study_instance_uid=study_uid,
                search_filters={"Modality": "MR"},
            )  # fmt: skip
            listed = {
                uid: list(_all(client.search_for_instances, "SOPInstanceUID", study_uid, series_instance_uid=uid))
                for uid in series
            }
            count = sum(map(len, listed.values()))
            if not count:
                lacks = not _all(
                    client.search_for_studies, "StudyInstanceUID", search_filters={"StudyInstanceUID": study_uid}
                )
                raise InputError(
                    f"{name}: the archive at {self.host} has {'no such study' if lacks else 'no MR images of it'};"
                    " check the Study Instance UID"
                )
            if count > most:
                raise InputError(
                    f"{name}: {count} images where {most} are allowed; raise limits: files in the DICOM rules"
                )
            files = []
            for uid, instances in listed.items():
                places = {instance: folder / _short(uid) / f"{_short(instance)}.dcm" for instance in instances}
                if not all(place.is_file() for place in places.values()):
                    self._fetch_series(client, study_uid, uid, name, places)
                files += [str(place) for place in places.values()]
        return files

    def _fetch_series(
        self, client: "DICOMwebClient", study_uid: str, series_uid: str, name: str, places: Mapping[str, Path]
    ) -> None:
        """Put each image of a series at its place, once all are there."""
        came = set()
        folder = next(iter(places.values())).parent
        with part_folder(folder.parent) as part:
            for dataset in client.iter_series(study_uid, series_uid, media_types=(("application/dicom", "*"),)):
                instance = str(dataset.get("SOPInstanceUID", ""))
                if str(dataset.get("StudyInstanceUID", "")) != study_uid:
                    raise InputError(f"{name}: the archive at {self.host} sent another study's image; tell who runs it")
                if instance in places:
                    came.add(instance)
                    dataset.save_as(part / places[instance].name)
            if missing := len(places) - len(came):
                raise InputError(
                    f"{name}: the archive at {self.host} lists {len(places)} images of a series and sent {missing} of"
                    " them not; look at its log, and give the same command again"
                )
            folder.mkdir(parents=True, exist_ok=True)
            for place in places.values():
                os.replace(part / place.name, place)

    def store(self, paths: Sequence[str | os.PathLike], patient_id: str, study_uid: str, name: str) -> int:
        """Store results into the study that they are of (STOW-RS). What the archive has already is not sent again.

        Args:
            paths: DICOM files.
            patient_id: of the patient whose scan they were made from.
            study_uid: of the study that they were made from.
            name: what messages call it.

        Returns:
            how many were sent.

        Raises:
            InputError: a file is of another study or patient, the archive lacks the study or has it of another
                patient, or does not take every file; or see `asked`.
        """
        results = [dcmread(path) for path in paths]
        for result in results:
            if (result.StudyInstanceUID, str(result.get("PatientID") or "")) != (study_uid, patient_id):
                raise InputError(f"{name}: a result names another study or patient than its scan; make it anew")
        with self.asked(name) as client:
            known = _all(client.search_for_studies, "StudyInstanceUID", search_filters={"StudyInstanceUID": study_uid})
            if study_uid not in known:
                raise InputError(
                    f"{name}: the archive at {self.host} has no such study, and results are stored only into the study"
                    " that they are of; send the study there first"
                )
            if allowed("PatientID", _value(known[study_uid], "PatientID")) not in ("", patient_id):
                raise InputError(
                    f"{name}: the archive at {self.host} has this study of another patient; find out whose it is"
                )
            new = [result for result in results if not self._has(client, study_uid, result)]
            if new:
                answer = client.store_instances(new, study_uid)
                failed = len(answer.get("FailedSOPSequence") or ())
                taken = {item.ReferencedSOPInstanceUID for item in answer.get("ReferencedSOPSequence") or ()}
                failed = failed or (len({result.SOPInstanceUID for result in new} - taken) if len(answer) else 0)
                if failed:
                    raise InputError(
                        f"{name}: the archive at {self.host} did not take {failed} of {len(new)} results; look at its"
                        " log, and give the same command again"
                    )
        return len(new)

    @staticmethod
    def _has(client: "DICOMwebClient", study_uid: str, result: Any) -> bool:
        """Whether the archive has a result in the study."""
        wanted = {"SOPInstanceUID": result.SOPInstanceUID}
        return result.SOPInstanceUID in _all(
            client.search_for_instances, "SOPInstanceUID", study_uid, search_filters=wanted
        )


class FetchedFiles(Sequence[str]):
    """The files of a study in an archive, fetched when they are first asked for.

    Args:
        fetch: fetches them. What it raises is raised whenever the files are asked for: one try a run.
    """

    def __init__(self, fetch: Callable[[], list[str]]) -> None:
        self._fetch = fetch

    @cached_property
    def _came(self) -> list[str] | InputError:
        try:
            return self._fetch()
        except InputError as error:
            return error

    def _paths(self) -> list[str]:
        if isinstance(self._came, InputError):
            raise self._came
        return self._came

    def __len__(self) -> int:
        return len(self._paths())

    def __getitem__(self, index: Any) -> Any:
        return self._paths()[index]


def _short(uid: str) -> str:
    return hashlib.sha256(uid.encode()).hexdigest()[:20]


def _value(said: Said, keyword: str) -> str:
    """The first value of an attribute, as text; empty where there is none."""
    tag = tag_for_keyword(keyword)
    values = said.get(f"{tag:08X}", {}).get("Value") or [None]
    return "" if values[0] is None else str(values[0])  # JSON has null for an empty one


def _all(search: Callable[..., list[dict[str, Any]]], uid: str, *of: str, **filters: Any) -> dict[str, Said]:
    """Everything that a search finds, page by page, whether or not the archive has pages: UID -> what is said of it."""
    found: dict[str, Said] = {}
    skipped = 0
    while True:
        page = search(*of, limit=PAGE, offset=skipped, **filters)
        new = {_value(item, uid): item for item in page if _value(item, uid) not in found}
        found |= new
        skipped += len(page)
        if not new:
            return found


def _to_the_end(response: Any, *_: Any, **__: Any) -> Any:
    """Let an answer in parts raise where it lacks its last boundary: HTTP does not always tell that it broke off."""
    kind = response.headers.get("Content-Type", "")
    boundary = re.search(r'boundary="?([^";]+)', kind, re.IGNORECASE)
    if not response.ok or "multipart" not in kind.lower() or boundary is None:
        return response
    end, read = f"--{boundary[1]}--".encode(), response.iter_content

    def checked(*args: Any, **kwargs: Any) -> Iterator[bytes]:
        tail = b""
        for chunk in read(*args, **kwargs):
            tail = (tail + chunk)[-len(end) - 64 :]
            yield chunk
        if end not in tail:
            raise EOFError("the last boundary is missing")

    response.iter_content = checked
    return response


def _said(error: BaseException) -> str:
    """What went wrong between us and an archive, and what to do."""
    kinds = {kind.__name__ for found in chain(error) for kind in type(found).__mro__}
    response = next((r for e in chain(error) if (r := getattr(e, "response", None)) is not None), None)
    attempt = getattr(error, "last_attempt", None)  # of the package retrying
    if response is None and attempt is not None:
        response = getattr(attempt, "value", None)
    if (status := getattr(response, "status_code", None)) is not None:
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            return (
                f"does not let this user in ({status}); write user and password into the file .netrc of your home"
                f" folder, or put a token into the environment variable {TOKEN}"
            )
        if status == HTTPStatus.NOT_FOUND:
            return f"has nothing at this address ({status}); check its end, which is often dicom-web"
        return f"answers {status} {getattr(response, 'reason', '')}".rstrip() + (
            "; look at its log, and give the same command again"
        )
    if "SSLError" in kinds:
        return "has a certificate that is not trusted here; name its authority in REQUESTS_CA_BUNDLE"
    if {"NewConnectionError", "ConnectionRefusedError", "gaierror"} & kinds:
        return "cannot be reached; check the address, and that it runs"
    if {"Timeout", "ReadTimeoutError", "TimeoutError"} & kinds:
        return f"does not answer within {TIMEOUT:g} s; give the same command again"
    if {"ChunkedEncodingError", "IncompleteRead", "ProtocolError", "EOFError", "ConnectionError"} & kinds:
        return "broke off in the middle of an answer; give the same command again"
    if isinstance(error, OSError) and error.errno is not None:
        return f"answered, and the answer could not be written ({error.strerror}); free some space"
    return f"gives an answer that is no DICOMweb ({type(error).__name__}); check the address"
