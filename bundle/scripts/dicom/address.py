"""The address of an archive (PACS) that speaks DICOMweb, as a user types it; needs no DICOM package."""

from urllib.parse import parse_qsl, urlsplit, urlunsplit

from scripts.errors import InputError

#: How the address of an archive begins where a path could stand too.
ADDRESS = "dicomweb:"
#: What every archive can find studies by (PS3.18, table 10.6.1-5). Asked by anything else, it may give all it has.
ASKED_BY = ("StudyInstanceUID", "AccessionNumber", "PatientID", "PatientName", "StudyDate", "StudyTime", "StudyID",
            "ModalitiesInStudy", "ReferringPhysicianName")  # fmt: skip


def is_address(source: object) -> bool:
    """Whether an input is the address of an archive."""
    return isinstance(source, str) and source.startswith(ADDRESS)


def parse_address(address: str, key: str) -> tuple[str, dict[str, str]]:
    """The URL of an archive, and what is asked for: `dicomweb:https://host/dicom-web?StudyInstanceUID=1.2.3`.

    Args:
        address: as a user typed it.
        key: the config key, for messages.

    Returns:
        the URL without query, and the query: keyword -> value.

    Raises:
        InputError: it is no such address, or holds a password.
    """
    form = f"give --{key} {ADDRESS}https://HOST/dicom-web"
    if not is_address(address):
        raise InputError(f"{key}: is no address of an archive; {form}")
    try:
        parts = urlsplit(address.removeprefix(ADDRESS))
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise InputError(f"{key}: is no address of an archive ({error}); {form}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise InputError(f"{key}: is no address of an archive; {form}")
    if parts.username or parts.password:
        raise InputError(
            f"{key}: names a user or a password, which lists of processes and histories would show; write them into"
            f" ~/.netrc (machine {host} login USER password PASSWORD)"
        )
    if "#" in address:  # an address ends there, so what is asked for would be cut
        raise InputError(f"{key}: has a #; write %23 where it is part of what is asked for, or leave it out")
    query: dict[str, str] = {}
    for keyword, value in parse_qsl(parts.query, keep_blank_values=True):
        if keyword not in ASKED_BY:
            raise InputError(f"{key}: archives find no studies by {keyword!r}; use one of {', '.join(ASKED_BY)}")
        if not value.strip():
            raise InputError(f"{key}: asks for {keyword} without a value; write it behind the =")
        if not value.strip(" *?-"):
            raise InputError(
                f"{key}: {keyword}={value} asks for all of the archive, which is not fetched; ask for some"
            )
        query[keyword] = ",".join([*filter(None, [query.get(keyword)]), value.strip()])
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", "")), query
