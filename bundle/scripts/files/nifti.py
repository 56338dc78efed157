"""NIfTI: the header checked before voxels are read, and a compressed stream read to its end and its checksum."""

import json
import logging
import os
import zlib
from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy

from scripts.errors import InputError, reason
from scripts.files.limits import check_plain, check_size, words
from scripts.files.pointers import check_fetched

ENDINGS = (".nii", ".nii.gz")
#: Endings of other images: Analyze, paired NIfTI, FreeSurfer, NRRD, MetaImage, MINC, Philips, DICOM; and of packed ones
OTHER_ENDINGS = (
    *(".hdr", ".img", ".hdr.gz", ".img.gz", ".mgh", ".mgz", ".nrrd", ".nhdr", ".mha", ".mhd", ".mnc", ".par", ".rec"),
    *(".dcm", ".nii.bz2", ".nii.xz", ".nii.zst", ".zip"),
)
#: Kinds of numbers that are real: signed, unsigned and floating.
REAL = "iuf"
_GZIP = b"\x1f\x8b"
#: What the header of a simulated map says of itself, so that it is known for one wherever it is copied to.
SIMULATED = "simulated"
#: Zeros that a file may hold after its voxels, bytes, and never as many as a slice has. Programs pad, but what goes on
#: for long, or with other values, are slices that the header does not know of.
_LONGEST_TAIL = 1 << 20
#: Share by which voxel sizes and sform may differ: what rounding tools leave.
_ROUNDING = 0.02
#: Codes of a header's unit of length (NIfTI-1, xyzt_units) -> mm: none said, m, mm, micrometre.
_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
_CHUNK = 1 << 18
#: What the world's axes part.
_SIDES = ("left and right", "front and back", "top and bottom")

# nibabel would write its remarks on odd headers beside our one line, and again through its own handler.
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL + 1)


def read_header(path: str | os.PathLike, kinds: str = REAL) -> nib.Nifti1Image:
    """An image whose voxels are not read yet, with trailing axes of length 1 taken away: `[x, y, z, 1]` is 3D.

    Args:
        path: of the file.
        kinds: kinds of voxels that may be there (numpy's letters): REAL, or with "c" complex ones too.

    Returns:
        shape, affine (voxel to world, mm) and header are those of the file, but for such axes, and for its unit of
        length, which becomes mm. For voxels: `read`.

    Raises:
        InputError: no such file, no NIfTI, more bytes than `largest_file`, voxels of another kind, or a header that
            knows no orientation or an unknown unit.
    """
    path = Path(path)
    check_ending(path)
    check_plain(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder where a NIfTI file must be; move it away, or give the file within it")
    check_fetched(path)
    try:
        image = nib.load(path)
        if not isinstance(image, nib.Nifti1Image):  # CIFTI has the same ending
            raise InputError(f"{path}: is {type(image).__name__}, not an image of a volume; export it again")
        shape, dtype, affine = image.shape, image.get_data_dtype(), image.affine
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; correct the path or fetch the file it links to") from error
    except Exception as error:  # nibabel raises many kinds for a damaged file
        raise InputError(f"{path}: cannot be read as NIfTI ({reason(error)}); export it again") from error
    return _checked(path, image, shape, dtype, affine, kinds)


def check_ending(path: str | os.PathLike) -> None:
    """Refuse a file whose name is not that of a NIfTI file.

    Raises:
        InputError: it does not end in one of ENDINGS.
    """
    name = os.fspath(path)
    if not name.endswith(ENDINGS) and name.lower().endswith(ENDINGS):
        ending = next(ending for ending in reversed(ENDINGS) if name.lower().endswith(ending))
        raise InputError(f"{path}: its ending has capitals, which programs do not know; rename it to end in {ending}")
    if not name.endswith(ENDINGS):
        raise InputError(f"{path}: not a .nii or .nii.gz file; convert it to NIfTI")


def _checked(
    path: Path, image: nib.Nifti1Image, shape: tuple[int, ...], dtype: np.dtype, affine: np.ndarray, kinds: str
) -> nib.Nifti1Image:
    """The image, once its header was found to be sound."""
    if len(shape) < 3 or min(shape) < 1:
        raise InputError(f"{path}: has shape {shape} where a volume is due; export it again")
    if dtype.kind not in kinds:
        what = "complex numbers" if dtype.kind == "c" else "colours"
        raise InputError(
            f"{path}: holds {what}, not real ones; save real maps (raw echoes may be complex where their names call"
            " them neither magnitude nor phase)"
        )
    claimed = " x ".join(str(n) for n in shape)
    # as float32 in memory, or as the file has it, whichever is more
    needed = float(np.prod([float(n) for n in shape])) * max(dtype.itemsize, 4)
    check_size(path, needed, f"its header claims {claimed} voxels of {dtype.name},")
    header = image.header
    if int(header["sform_code"]) == 0 and int(header["qform_code"]) == 0:
        raise InputError(
            f"{path}: its header knows no orientation (sform_code and qform_code are 0), so left and right cannot be"
            " told apart; export it with its orientation, or copy the header of the image it was made from"
        )
    if int(header["sform_code"]) > 0 and int(header["qform_code"]) > 0:
        _check_agree(path, header)
    if int(header["sform_code"]) > 0:
        _check_sizes(path, header)
    unit = int(header["xyzt_units"])
    if unit & 7 not in _MM:
        raise InputError(
            f"{path}: its header names an unknown unit of length (xyzt_units {unit}); set it to mm if its voxel sizes"
            " are in mm, or export it again"
        )
    factor = _MM[unit & 7]
    if int(header["sform_code"]) == 0 and not _has_voxel_sizes(path, image):
        raise InputError(f"{path}: its header gives voxels a size of 0 mm; export it again")
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if shape == image.shape and factor == 1:
        return image
    header = header.copy()
    header.set_data_shape(shape)
    header["xyzt_units"] = unit - (unit & 7) + 2
    stored = cast(ArrayProxy, image.dataobj)
    return type(image)(
        stored if shape == image.shape else _Shaped(stored, shape),
        np.diag([factor, factor, factor, 1]) @ affine,
        header,
    )


def _check_agree(path: Path, header: nib.Nifti1Header) -> None:
    """Refuse a header whose two orientations say that left is right, front is back or top is bottom to each other.

    Raises:
        InputError: that.
    """
    try:
        of_sform, of_qform = (form[:3, :3] for form in (header.get_sform(), header.get_qform()))
        unit = [form / np.linalg.norm(form, axis=0) for form in (of_sform, of_qform)]
        turn = unit[0] @ np.linalg.inv(unit[1])
    except (ValueError, np.linalg.LinAlgError, nib.spatialimages.HeaderDataError):
        return  # the one that counts is checked where it is used
    swapped = [name for name, cosine in zip(_SIDES, np.diag(turn), strict=True) if cosine < 0]
    if swapped or np.linalg.det(turn) < 0:
        raise InputError(
            f"{path}: its sform and qform contradict each other (they swap {(swapped or _SIDES)[0]}); find out"
            " which is right and copy it over the other (fslorient -copyqform2sform or -copysform2qform), or convert it"
            " again"
        )


def _check_sizes(path: Path, header: nib.Nifti1Header) -> None:
    """Refuse a header whose voxel sizes are not those of its sform, beyond rounding: tools differ in which they take.

    Raises:
        InputError: that.
    """
    sizes = np.abs(np.asarray(header["pixdim"][1:4], float))
    of_sform = np.linalg.norm(header.get_sform()[:3, :3], axis=0)
    if not np.isfinite(sizes).all() or not sizes.min() > 0 or not np.isfinite(of_sform).all():
        return  # told where it is used
    if np.any(np.abs(of_sform / sizes - 1) > _ROUNDING):
        told, placed = (" x ".join(f"{size:.3g}" for size in three) for three in (sizes, of_sform))
        raise InputError(
            f"{path}: its header says voxels of {told} mm (pixdim), and its sform places them {placed} mm apart; find"
            " out which is right and set the other alike, or convert it again"
        )


def _has_voxel_sizes(path: Path, image: nib.Nifti1Image) -> bool:
    """Whether the header as it lies on the disk has them: nibabel reads 1 mm where it says 0."""
    with nib.openers.ImageOpener(str(path)) as file:
        raw = type(image).header_class.from_fileobj(file, check=False)
    sizes = np.abs(raw["pixdim"][1:4])
    return bool(np.isfinite(sizes).all() and sizes.min() > 0)


class _Shaped:
    """An array proxy without its trailing axes of length 1."""

    ndim: int

    def __init__(self, proxy: ArrayProxy, shape: tuple[int, ...]) -> None:
        self.proxy, self.shape, self.ndim = proxy, shape, len(shape)

    @property
    def dtype(self) -> np.dtype:
        return self.proxy.dtype

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.proxy, dtype=dtype).reshape(self.shape)

    def __getitem__(self, index: Any) -> np.ndarray:
        return np.asarray(self)[index]


def read(path: str | os.PathLike, kinds: str = REAL) -> nib.Nifti1Image:
    """An image with its voxels in memory, as the file stores them; see `read_header`.

    Raises:
        InputError: as `read_header`; the file is cut off, goes on after its voxels, or its bytes are not those that
            were written (the checksum of .nii.gz).
    """
    path = Path(path)
    image = read_header(path, kinds)
    proxy = cast(ArrayProxy, getattr(image.dataobj, "proxy", image.dataobj))
    size = int(proxy.offset) + int(np.prod(proxy.shape, dtype=np.int64)) * proxy.dtype.itemsize
    if proxy.offset < image.header.single_vox_offset:
        raise InputError(f"{path}: its header says that voxels begin within the header; export it again")
    check_size(path, size, "its header claims voxels far inside the file,")
    slice_bytes = int(np.prod(proxy.shape[:2], dtype=np.int64)) * proxy.dtype.itemsize
    tail = _Tail(path, " x ".join(map(str, image.shape)), min(_LONGEST_TAIL, slice_bytes))
    try:
        content = _unpacked(path, size, tail) if path.name.endswith(".gz") else _plain(path, size, tail)
        image = type(image).from_bytes(content)
        return _checked(path, image, image.shape, image.get_data_dtype(), image.affine, kinds)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path}: cannot be read ({reason(error)}); export or copy it again") from error


class _Tail:
    """What a file holds after its voxels: refused unless it is a short padding of zeros."""

    def __init__(self, path: Path, shape: str, least: int) -> None:
        """`shape` is what the header claims; so many bytes as `least` are no padding."""
        self.path, self.shape, self.least, self.length = path, shape, least, 0

    def add(self, part: bytes) -> None:
        self.length += len(part)
        if self.length >= self.least or part.strip(b"\0"):
            raise InputError(
                f"{self.path}: goes on after the {self.shape} voxels that its header claims ({words(self.length)} and"
                " more), as where the header claims too few slices; export it again"
            )


def _plain(path: Path, size: int, tail: _Tail) -> bytes:
    """The first `size` bytes of a file without compression."""
    with path.open("rb") as file:
        content = file.read(size)
        tail.add(file.read(tail.least))
    if len(content) < size:
        raise InputError(f"{path}: has {len(content)} bytes of {size}, so it is cut off; export or copy it again")
    return content


def _unpacked(path: Path, size: int, tail: _Tail) -> bytes:
    """The first `size` bytes of a gzip file, read to its end, where zlib compares checksum and length."""
    parts: list[bytes] = []
    length = 0
    with path.open("rb") as file:
        stream, packed = zlib.decompressobj(wbits=31), file.read(_CHUNK)
        while True:
            part = stream.decompress(packed, 1 << 24)
            room = max(0, size - length)
            length += len(part)
            parts.append(part[:room])
            if len(part) > room:
                tail.add(part[room:])
            packed = stream.unconsumed_tail
            if stream.eof:  # one member is done; gzip files may hold several, and zeros at the end
                packed = (stream.unused_data or file.read(_CHUNK)).lstrip(b"\0")
                while not packed and (more := file.read(_CHUNK)):
                    packed = more.lstrip(b"\0")
                if not packed:
                    break
                if not (packed + b"\x8b").startswith(_GZIP):
                    raise InputError(f"{path}: holds other data after its compressed ones; export or copy it again")
                stream = zlib.decompressobj(wbits=31)
            elif not packed:
                packed = file.read(_CHUNK)
                if not packed and not part:
                    raise InputError(f"{path}: ends before its data do, so it is cut off; export or copy it again")
    if length < size:
        raise InputError(f"{path}: has {length} bytes of {size} once unpacked; export or copy it again")
    return b"".join(parts)


def says_simulated(path: str | os.PathLike) -> bool:
    """Whether a map's header (`descrip`) or its sidecar (`Simulated`) says that nobody was scanned; no error if neither
    can be read, which is for those to say who need the map."""
    path = Path(path)
    sidecar = path.with_name(path.name.removesuffix(".gz").removesuffix(".nii") + ".json")
    try:
        if path.is_file() and SIMULATED in str(cast(nib.Nifti1Image, nib.load(path)).header["descrip"]).lower():
            return True
        return sidecar.is_file() and json.loads(sidecar.read_text(encoding="utf-8-sig")).get("Simulated") is True
    except Exception:  # nibabel raises many kinds
        return False


def first_values(path: str | os.PathLike, count: int) -> bytes:
    """The first voxels that are not zero, `count` of them or fewer, as float32 in the order of the file: they tell maps
    apart without reading all of them.

    Raises:
        InputError: as `read_header`, or the file cannot be read so far.
    """
    image = read_header(path)
    try:
        voxels = cast(
            nib.Nifti1Image, nib.load(path, keep_file_open=True)
        ).dataobj  # a compressed stream is gone through once
        found, step = np.empty(0, np.float32), max(1, image.shape[2] // 16)
        for start in range(0, image.shape[2], step):
            part = np.asarray(voxels[:, :, start : start + step], np.float32).ravel(order="F")
            found = np.append(found, part[part != 0])[:count]
            if len(found) == count:
                break
    except Exception as error:  # nibabel raises many kinds for a damaged file
        raise InputError(f"{path}: cannot be read ({reason(error)}); export or copy it again") from error
    return found.tobytes()


def read_voxels(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
    """Voxels as float32 (`[X, Y, Z]` or `[X, Y, Z, N]`), scaled as the header says, and the affine `[4, 4]`, mm.

    Raises:
        InputError: as `read`.
    """
    image = read(path)
    return np.asanyarray(image.dataobj).astype(np.float32), image.affine
