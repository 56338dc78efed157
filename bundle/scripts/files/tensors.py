"""Files of plain tensors, as torch writes them. Nothing in a file is executed."""

import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scripts.errors import InputError, reason
from scripts.files.limits import check_size
from scripts.files.pointers import check_fetched


def read_tensors(path: str | os.PathLike, cure: str) -> Any:
    """What `torch.save` wrote, on the CPU: tensors and plain values, of which the whole size was checked first.

    Args:
        path: the file.
        cure: what to do about a file that is refused.

    Raises:
        InputError: no such file, not a plain file of tensors, or more bytes than `largest_file` or than the file has.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; {cure}")
    check_fetched(path)
    size = path.stat().st_size
    check_size(path, size, "has")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
            unpacked = sum(member.file_size for member in members)
            # torch stores members as they are, so that whatever unpacks to more was made by others
            if unpacked > size or any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise InputError(
                    f"{path}: has {size} bytes that unpack to {unpacked}, which torch does not write; {cure}"
                )
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()  # torch does not look at the checksums
            if damaged is not None:
                raise InputError(
                    f"{path}: its bytes are not those that were written (checksum); copy it again, or {cure}"
                )
        content = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # a damaged or foreign file makes torch raise many kinds
        raise InputError(
            f"{path}: not a plain file of tensors, so it is not opened ({reason(error):.80}); {cure}"
        ) from error
    for tensor in tensors_of(content):
        if tensor.numel() * tensor.element_size() > max(size, 1 << 20) or tensor.layout != torch.strided:
            raise InputError(f"{path}: a tensor of shape {list(tensor.shape)} is more than the file holds; {cure}")
    return content


def tensors_of(content: Any) -> list[Tensor]:
    """All tensors in nested dictionaries and lists."""
    if isinstance(content, Tensor):
        return [content]
    inner = content.values() if isinstance(content, dict) else content if isinstance(content, (list, tuple)) else ()
    return [tensor for value in inner for tensor in tensors_of(value)]
