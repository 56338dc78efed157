"""Headers as strangers' scanners write them: a list drawn from a seed, to be put into good studies."""

import random
from collections.abc import Callable

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

#: Names as hospitals write them; each holds SECRET in a form that a log would show.
NAMES = (
    "Secretname", "SECRETNAME JANE", "Secretname, Jane", "Secretname^Jane^^Dr^", "Secretname^a^b^c^d^e^f^g",
    "Public^Secretname Philips", "GE Secretname", "Siemens_Secretname", "^^^Secretname", "Secretname\\Other",
    "Secretname" + "x" * 200,
    "\x1b[31mSecretname", "Secretname\x00", "'; DROP Secretname --", "=Secretname()", "<b>Secretname</b>",
)  # fmt: skip
CHARACTER_SETS = (
    ["", "ISO 2022 IR 87"], ["", "ISO 2022 IR 149"], ["ISO 2022 IR 13", "ISO 2022 IR 87"], "ISO_IR 192", "ISO_IR 100",
    "GB18030", "GBK", "ISO 2022 IR 6", "ISO_IR 144", "ISO_IR 999", "latin1", ["", "nonsense"], "",
    "ISO_IR 192\\ISO 2022 IR 87",
)  # fmt: skip
NATIVE = {
    "ISO 2022 IR 87": b"Secretname^Taro=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
    "ISO 2022 IR 149": b"Secretname^Gildong="
    b"\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
}
DATES = ("2025-13-45", "20251301", "1.1.2025", "2025.01.01", "20250101-20250131", "", "unknown", "00000000", "202501",
         "20250101120000", "31/12/1999", "\x00")  # fmt: skip
TIMES = ("25:61", "101010.1234567890", "noon", "10:11:12", "", "246060", "1011", "-1")
UIDS = (
    "",
    "1.2.840.01.2",
    "not.a.uid",
    "1." + "2" * 80,
    "1..2",
    ".1.2",
    "1.2.3 ",
    "1.2.3\x00",
    "{12-34}",
    "1.2.3\\4.5",
)
TEXTS = ("x" * 300, "", "a\\b\\c", "\x00\x01\x1b", "\u00e4\u00f6\u00fc\u00ff", "  ", "=1+1", "line\r\nline", "%s{}$")
SEXES = ("MALE", "female", "m", "X", "", "0", "Unknown", "M\\F", "\u00ff")
AGES = ("45", "45Y", "045y", "0450Y", "", "-1", "adult", "045Y\\046Y")


def _set(keyword: str, value: object) -> Callable[[Dataset], None]:
    return lambda dataset: setattr(dataset, keyword, value)


def _delete(keyword: str) -> Callable[[Dataset], None]:
    return lambda dataset: dataset.__delattr__(keyword) if keyword in dataset else None


def _native(kind: str, others: list[str]) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        dataset.SpecificCharacterSet = others
        dataset.add_new("PatientName", "PN", NATIVE[kind])

    return change


def _private(rng: random.Random) -> Callable[[Dataset], None]:
    junk = bytes(rng.randrange(256) for _ in range(rng.randint(1, 400)))

    def change(dataset: Dataset) -> None:
        block = dataset.private_block(0x0029, "SIEMENS CSA HEADER Secretname", create=True)
        block.add_new(0x10, "OB", junk)
        block.add_new(0x11, "UN", junk[: len(junk) // 2])
        item = Dataset()
        item.PatientName = "Secretname^Deep"
        block.add_new(0x12, "SQ", Sequence([item]))
        dataset.add_new(0x00090010, "LO", "Secretname junk")

    return change


def changes(rng: random.Random) -> dict[str, Callable[[Dataset], None]]:
    """One odd thing of every kind, drawn: what it is -> how it gets into a header (the same for all its files)."""
    kind = rng.choice(list(NATIVE))
    uid = rng.choice(UIDS)
    return {
        "name": _set("PatientName", rng.choice(NAMES)),
        "no name": _delete("PatientName"),
        "character set": _set("SpecificCharacterSet", rng.choice(CHARACTER_SETS)),
        "native name": _native(kind, ["", kind]),
        "sex": _set("PatientSex", rng.choice(SEXES)),
        "age": _set("PatientAge", rng.choice(AGES)),
        "birth date": _set("PatientBirthDate", rng.choice(DATES)),
        "study date": _set("StudyDate", rng.choice(DATES)),
        "study time": _set("StudyTime", rng.choice(TIMES)),
        "series date": _set("SeriesDate", rng.choice(DATES)),
        "content time": _set("ContentTime", rng.choice(TIMES)),
        "study id": _set("StudyID", rng.choice(TEXTS)),
        "patient id": _set("PatientID", rng.choice(TEXTS)),
        "accession": _set("AccessionNumber", rng.choice(TEXTS)),
        "physician": _set("ReferringPhysicianName", rng.choice(NAMES)),
        "study description": _set("StudyDescription", rng.choice(TEXTS)),
        "comments": _set("PatientComments", rng.choice(TEXTS) + "Secretname"),
        "study uid": _set("StudyInstanceUID", uid),
        "frame uid": _set("FrameOfReferenceUID", rng.choice([value for value in UIDS if value.strip("\x00 ")])),
        "thickness": rng.choice([_delete("SliceThickness"), _set("SliceThickness", "")]),
        "series number": rng.choice([_delete("SeriesNumber"), _set("SeriesNumber", "")]),
        "instance number": rng.choice([_delete("InstanceNumber"), _set("InstanceNumber", "")]),
        "nothing of the study": lambda dataset: [
            _delete(tag)(dataset)
            for tag in ("StudyID", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName",
                        "PatientSex", "PatientBirthDate", "PatientID")
        ] and None,
        "private": _private(rng),
        "laterality": _set("Laterality", rng.choice(TEXTS)),
        "modality": _set("Modality", rng.choice(["MR", "mr", "", "MRI"])),
        "body part": _set("BodyPartExamined", rng.choice(TEXTS)),
        "ethnic group": _set("EthnicGroup", rng.choice(TEXTS)),
        "weight": _set("PatientWeight", rng.choice(["", "0.0", "1e3"])),
        "procedure": _set("ReferencedStudySequence", Sequence([Dataset()])),
    }  # fmt: skip
