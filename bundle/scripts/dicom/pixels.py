"""The pixel data of a DICOM file: what it claims is compared with what is there before anything is unpacked."""

from collections.abc import Iterator

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels import get_decoder, pixel_array
from pydicom.tag import Tag
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from scripts.dicom.identity import text
from scripts.errors import InputError, reason

_NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
_LOSSLESS = (RLELossless, JPEGLSLossless, JPEG2000Lossless, JPEGLossless, JPEGLosslessSV1)
_PIXELS = {"PixelData": (8, 16, 32), "FloatPixelData": (32,), "DoubleFloatPixelData": (64,)}
#: A compressed frame larger than this share of the unpacked one is no image, whatever it would unpack to.
_MOST_SHARE = 1.5
_SLACK_BYTES = 4096
_OVERLAY_POSITION = Tag(0x6000, 0x0102)  # Overlay Bit Position


def check_pixels(dataset: Dataset, name: str) -> int:
    """Compare size, depth and compression with the pixel data, without unpacking it.

    Args:
        dataset: the file with its pixel data.
        name: how messages call its series.

    Returns:
        the number of frames.

    Raises:
        InputError: a tag is missing, a kind of image that holds no map, too little or too much data, compression
            that loses something or that no installed package unpacks.
    """
    held = [keyword for keyword in _PIXELS if keyword in dataset]
    if len(held) != 1:
        raise InputError(f"{name}: has {'no' if not held else 'several kinds of'} pixel data; export it again")
    whole = {tag: _whole_number(dataset, tag, name) for tag in ("Rows", "Columns", "BitsAllocated", "SamplesPerPixel")}
    frames = _whole_number(dataset, "NumberOfFrames", name) if dataset.get("NumberOfFrames") is not None else 1
    if whole["SamplesPerPixel"] != 1 or dataset.get("PhotometricInterpretation") != "MONOCHROME2":
        raise InputError(f"{name}: is no gray image (MONOCHROME2) but a picture of one; export the map itself")
    if text(dataset.get("LossyImageCompression")) == "01":  # it stays in the header when the image is unpacked
        raise InputError(f"{name}: was compressed with loss; export the map itself")
    bits = whole["BitsAllocated"]
    if bits not in _PIXELS[held[0]]:
        due = " or ".join(map(str, _PIXELS[held[0]]))
        raise InputError(
            f"{name}: BitsAllocated {Tag('BitsAllocated')} is {bits}, where {due} are due; export it again"
        )
    if held[0] == "PixelData":
        stored = _whole_number(dataset, "BitsStored", name)
        if stored > bits:
            raise InputError(
                f"{name}: BitsStored {Tag('BitsStored')} is {stored}, more than the {bits} of BitsAllocated"
                f" {Tag('BitsAllocated')}; export it again"
            )
        high = dataset.get("HighBit")
        if high is not None and high != "" and _whole_number(dataset, "HighBit", name, least=0) != stored - 1:
            raise InputError(
                f"{name}: HighBit {Tag('HighBit')} is {high} where BitsStored {Tag('BitsStored')} {stored} makes it"
                f" {stored - 1}, so it is not known which bits hold the number; export it again"
            )
        if (signed := _whole_number(dataset, "PixelRepresentation", name, least=0)) > 1:
            raise InputError(
                f"{name}: PixelRepresentation {Tag('PixelRepresentation')} is {signed}, neither 0 nor 1; export it"
                " again"
            )
    expected = whole["Rows"] * whole["Columns"] * frames * bits // 8
    syntax = dataset.file_meta.TransferSyntaxUID
    data = dataset[held[0]].value
    if not isinstance(data, bytes):
        raise InputError(f"{name}: its pixel data cannot be read; export it again")
    if syntax in _NATIVE:
        if not expected <= len(data) <= expected + expected % 2:
            raise InputError(f"{name}: holds {len(data)} bytes of pixels where {expected} are due; send it again")
        if held[0] == "PixelData" and bits == 16:
            _check_bits(dataset, name, data[:expected])
    else:
        _check_compressed(dataset, name, data, frames, (whole["Rows"], whole["Columns"]), expected // frames)
    return frames


def _check_bits(dataset: Dataset, name: str, data: bytes) -> None:
    """Refuse values that need more bits than BitsStored says: readers drop them, and the map wraps round.

    Raises:
        InputError: that.
    """
    stored, order = int(dataset.BitsStored), ">" if dataset.file_meta.TransferSyntaxUID == ExplicitVRBigEndian else "<"
    if (
        stored == 16 or _OVERLAY_POSITION in dataset and dataset[_OVERLAY_POSITION].value
    ):  # an overlay of old lies in the bits above
        return
    if dataset.PixelRepresentation:
        values = np.frombuffer(data, f"{order}i2")
        low, high = -(1 << (stored - 1)), (1 << (stored - 1)) - 1
        unsigned = np.frombuffer(data, f"{order}u2")  # not every writer carries the sign to the bits above
        wrong = ((values < low) | (values > high)) & (unsigned >> stored != 0)
    else:
        wrong = np.frombuffer(data, f"{order}u2") >> stored != 0
    if wrong.any():
        raise InputError(
            f"{name}: BitsStored {Tag('BitsStored')} is {stored}, and {int(wrong.sum())} pixels hold more; export it"
            " again"
        )


def _whole_number(dataset: Dataset, keyword: str, name: str, least: int = 1) -> int:
    """A header's whole number. Raises InputError if it is missing, no number or below `least`."""
    value = dataset.get(keyword)
    if value is None or value == "":
        raise InputError(f"{name}: has no {keyword} {Tag(keyword)}; export it again")
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = least - 1
    if number < least:
        raise InputError(f"{name}: {keyword} {Tag(keyword)} is no whole number from {least} on; export it again")
    return number


def _check_compressed(
    dataset: Dataset, name: str, data: bytes, frames: int, size: tuple[int, int], frame_bytes: int
) -> None:
    """Compression that loses nothing, that can be undone here, and whose frames are as large as the header says."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax not in _LOSSLESS:
        raise InputError(f"{name}: its compression ({syntax.name}) loses information or is not read; export it"
                         " uncompressed")  # fmt: skip
    decoder = get_decoder(syntax)
    if not decoder.is_available:
        need = " or ".join(word.split(" - ")[0] for word in decoder.missing_dependencies)
        raise InputError(f"{name}: no installed package unpacks {syntax.name} ({need} would); export it uncompressed")
    count = 0
    for frame in generate_frames(data, number_of_frames=frames):
        count += 1
        if len(frame) > frame_bytes * _MOST_SHARE + _SLACK_BYTES:
            raise InputError(f"{name}: a compressed image is larger than the image itself; send it again")
        if syntax != RLELossless and coded_size(frame) != size:
            raise InputError(f"{name}: a compressed image is not {size[0]} x {size[1]} as its header says; send it"
                             " again")  # fmt: skip
    if count != frames:
        raise InputError(f"{name}: holds {count} compressed images where {frames} are due; send it again")


def coded_size(code: bytes) -> tuple[int, int] | None:
    """Rows and columns that a JPEG, JPEG-LS or JPEG 2000 codestream claims; None if it has no such header.

    Decoders reserve memory by these two numbers, so they are compared with the DICOM header's first.
    """
    if code[:4] == b"\xff\x4f\xff\x51":  # JPEG 2000: SOC, SIZ (ISO 15444-1, A.5.1)
        right, bottom, left, top = (int.from_bytes(code[at : at + 4], "big") for at in (8, 12, 16, 20))
        return bottom - top, right - left
    for marker, body in _segments(code):
        if marker in (0xC0, 0xC1, 0xC2, 0xC3, 0xF7) and len(body) >= 5:  # SOF0-3, SOF55 (ISO 10918-1, ISO 14495-1)
            return int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
    return None


def _segments(code: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and body of each segment of a JPEG or JPEG-LS codestream up to its first scan."""
    at = 2
    while code[:2] == b"\xff\xd8" and at + 4 <= len(code) and code[at] == 0xFF:
        length = int.from_bytes(code[at + 2 : at + 4], "big")
        if code[at + 1] == 0xDA or length < 2:
            return
        yield code[at + 1], code[at + 4 : at + 2 + length]
        at += 2 + length


def decode(dataset: Dataset, name: str, index: int | None = None) -> np.ndarray:
    """The stored numbers `[frames, rows, columns]` of a file that passed `check_pixels`, or those of one frame."""
    try:
        array = pixel_array(dataset, raw=True, index=index)
    except Exception as error:  # decoders raise many kinds for damaged data
        raise InputError(f"{name}: its pixels cannot be unpacked ({reason(error)[:80]}); send it again") from error
    return array.reshape(-1, *array.shape[-2:])
