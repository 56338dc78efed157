"""Ways to damage a file, or to write it in another way that means the same, by its format.

Every function changes one file in place with a given random generator and says what it did. None of them changes a
value to another good one: a reader that takes the file must read of it what it read before.
"""

import contextlib
import gzip
import json
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

Generator = np.random.Generator
#: Begins the words of a change after which the file means the same and must be read.
SAME = "= "
Change = Callable[[Path, Generator], str]


def one_of(rng: Generator, *choices: Any) -> Any:
    """One of some things, by chance."""
    return choices[int(rng.integers(len(choices)))]


# --- any file -------------------------------------------------------------------------------------------------------


def cut(path: Path, rng: Generator) -> str:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * rng.uniform(0, 0.95))])
    return "cut off"


def emptied(path: Path, rng: Generator) -> str:
    path.write_bytes(b"")
    return "empty"


def noise(path: Path, rng: Generator) -> str:
    path.write_bytes(rng.bytes(int(rng.integers(1, 5000))))
    return "random bytes"


def zeros(path: Path, rng: Generator) -> str:
    path.write_bytes(bytes(path.stat().st_size))
    return "zeros"


def a_folder(path: Path, rng: Generator) -> str:
    path.unlink()
    path.mkdir()
    return "a folder of that name"


def dangling(path: Path, rng: Generator) -> str:
    path.unlink()
    path.symlink_to(path.parent / "annexed")
    return "a link to nothing"


def another_format(path: Path, rng: Generator) -> str:
    path.write_bytes(
        one_of(rng, b"PK\x03\x04" + rng.bytes(400), b"%PDF-1.7\n%\xe2\xe3\n", b"<!doctype html><html>404</html>")
    )
    return "another format"


def no_file(path: Path, rng: Generator) -> str:
    """What a reader would wait for, or read without an end."""
    path.unlink()
    what = one_of(rng, "pipe", "socket", "/dev/zero", "/dev/null", "loop")
    if what == "pipe":
        os.mkfifo(path)
    elif what == "socket":
        with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as listening:  # its path must be short
            listening.bind(path.name)
    else:
        path.symlink_to(path.name if what == "loop" else what)
    return f"a {what} of that name" if what in ("pipe", "socket") else f"a link to {what}"


ANY: tuple[Change, ...] = (cut, emptied, noise, zeros, a_folder, dangling, another_format, no_file, no_file)


# --- text -----------------------------------------------------------------------------------------------------------


def marked(path: Path, rng: Generator) -> str:
    encoding = one_of(rng, "utf-8-sig", "utf-16", "utf-32")
    path.write_bytes(path.read_bytes().decode().encode(encoding))
    return f"{SAME}in {encoding}"


def unmarked(path: Path, rng: Generator) -> str:
    encoding = one_of(rng, "utf-16-le", "utf-16-be")
    path.write_bytes(path.read_bytes().decode().encode(encoding))
    return f"in {encoding} without a mark"


def latin(path: Path, rng: Generator) -> str:
    content = path.read_bytes()
    at = int(rng.integers(len(content)))
    path.write_bytes(content[:at] + b"\xf6" + content[at:])
    return "a Latin-1 letter"


def line_ends(path: Path, rng: Generator) -> str:
    ends = one_of(rng, b"\r\n", b"\r")
    path.write_bytes(path.read_bytes().replace(b"\n", ends))
    return f"{SAME}lines that end in {ends!r}"


TEXT: tuple[Change, ...] = (marked, unmarked, latin, line_ends)


# --- JSON -----------------------------------------------------------------------------------------------------------

#: A value of another kind than is due, whatever is due, for the kinds that the bundle's files hold.
_OTHER = {
    bool: (None, "yes", [], {}, 7.5),
    int: (None, "text", [], {}, True, 1.5),
    float: (None, "text", [], {}, True),
    str: (None, 7, [], {}, True, ["Jane"]),
    list: (None, "text", 7, {}, [], [None], [[[]]]),
    dict: (None, "text", 7, [], [{}], True),
}


def _places(content: Any, above: tuple = ()) -> list[tuple]:
    """All paths to values in a JSON content."""
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [place for key, value in inner for place in [(*above, key), *_places(value, (*above, key))]]


def other_kind(path: Path, rng: Generator) -> str:
    content = json.loads(path.read_text())
    place = one_of(rng, *_places(content))
    parent = content
    for key in place[:-1]:
        parent = parent[key]
    value = one_of(rng, *_OTHER[type(parent[place[-1]])])
    parent[place[-1]] = value
    path.write_text(json.dumps(content))
    return f"{'.'.join(map(str, place))} is {value!r}"


def no_number(path: Path, rng: Generator) -> str:
    content = json.loads(path.read_text())
    places = _places(content)

    def value(place: tuple) -> Any:
        found = content
        for key in place:
            found = found[key]
        return found

    numbers = [place for place in places if type(value(place)) in (int, float)]
    place = one_of(rng, *(numbers or places))
    parent = content
    for key in place[:-1]:
        parent = parent[key]
    parent[place[-1]] = "@@"
    word = one_of(rng, "NaN", "Infinity", "-Infinity", "1e999", "01", "1,5", "0x10", "9" * 5000)
    path.write_text(json.dumps(content).replace('"@@"', word))
    return f"{'.'.join(map(str, place))} is {word[:12]}"


def another_json(path: Path, rng: Generator) -> str:
    text = one_of(
        rng,
        "[]",
        "null",
        "7",
        '"text"',
        "[" * 50_000,
        "{}}",
        f"[{path.read_text()}]",
        path.read_text().rstrip()[:-1] + ",}",
    )
    path.write_text(text)
    return f"JSON {text[:12]!r}"


def key_twice(path: Path, rng: Generator) -> str:
    content = json.loads(path.read_text())
    key = one_of(rng, *content)
    path.write_text(json.dumps(content).replace("{", '{"' + key + '": null, ', 1))
    return f"two keys {key}"


def more_keys(path: Path, rng: Generator) -> str:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({"Zusatz": {"a": [None, 1]}, **content}, ensure_ascii=False, indent=3))
    return f"{SAME}a further key"


JSON: tuple[Change, ...] = (other_kind, other_kind, no_number, another_json, key_twice, more_keys)


# --- tables ---------------------------------------------------------------------------------------------------------


def table(needed: Mapping[str, bool]) -> tuple[Change, ...]:
    """Changes of a table.

    Args:
        needed: columns that are read; whether they hold numbers.
    """

    def rows_of(path: Path) -> tuple[str, list[list[str]]]:
        mark = "\t" if path.suffix == ".tsv" else ","
        return mark, [line.split(mark) for line in path.read_text().splitlines()]

    def save(path: Path, mark: str, rows: list[list[str]]) -> None:
        path.write_text("".join(mark.join(row) + "\n" for row in rows))

    def at(rows: list[list[str]], rng: Generator) -> tuple[int, int]:
        names = [name for name in needed if name in rows[0]]
        return int(rng.integers(1, len(rows))), rows[0].index(one_of(rng, *names))

    def bad_cell(path: Path, rng: Generator) -> str:
        mark, rows = rows_of(path)
        row, column = at(rows, rng)
        words = ["???", "1e999", "-1e9", "NULL", "\u221e"]
        word = one_of(rng, *words, *(["1,5", "inf", "1 2"] if needed[rows[0][column]] else ["", "n/a"]))
        if mark == "," and "," in word:
            word = f'"{word}"'
        rows[row][column] = word
        save(path, mark, rows)
        return f"{rows[0][column]} is {word!r}"

    def cells(path: Path, rng: Generator) -> str:
        mark, rows = rows_of(path)
        row = int(rng.integers(1, len(rows)))
        if rng.random() < 0.5:
            del rows[row][int(rng.integers(len(rows[row])))]
        else:
            rows[row].insert(int(rng.integers(len(rows[row]) + 1)), "7")
        save(path, mark, rows)
        return "a cell too few or too many"

    def columns(path: Path, rng: Generator) -> str:
        mark, rows = rows_of(path)
        column = at(rows, rng)[1]
        name, how = rows[0][column], one_of(rng, "gone", "twice", "renamed")
        if how == "gone" and name == "age":  # nobody needs to know it, so a table without is whole
            how = "twice"
        for index, row in enumerate(rows):
            if how == "gone":
                del row[column]
            elif how == "twice":
                row.append(name if index == 0 else one_of(rng, *(r[column] for r in rows[1:])))
        if how == "renamed":
            rows[0][column] = one_of(rng, name.upper() + "?", name.title(), f"{name} (x)", f" {name}_", name[:-1])
        save(path, mark, rows)
        return f"column {name} {how}"

    def row_twice(path: Path, rng: Generator) -> str:
        mark, rows = rows_of(path)
        rows.insert(int(rng.integers(1, len(rows))), list(one_of(rng, *rows[1:])))
        save(path, mark, rows)
        return "a row twice"

    def other_mark(path: Path, rng: Generator) -> str:
        mark, rows = rows_of(path)
        save(path, one_of(rng, ";", ",", "\t", "  ") if mark == "\t" else one_of(rng, ";", "\t"), rows)
        return "another separator" if path.read_text().count(mark) < len(rows) else "the same"

    def only_a_head(path: Path, rng: Generator) -> str:
        mark, rows = rows_of(path)
        save(path, mark, rows[:1])
        return "no rows"

    def meant_the_same(path: Path, rng: Generator) -> str:
        mark, rows = rows_of(path)
        how = one_of(rng, "empty lines", "spaces", "column more", "order of columns")
        if how == "empty lines":
            rows = [part for row in rows for part in (row, [""])]
        elif how == "spaces":
            rows = [[f" {cell} " for cell in row] for row in rows]
        elif how == "column more":
            note = '"left\u2028 arm' if mark == "\t" else '"left, ""arm"""'
            rows = [[*row, "note" if index == 0 else note] for index, row in enumerate(rows)]
        else:
            order = rng.permutation(len(rows[0]))
            rows = [[row[index] for index in order] for row in rows]
        save(path, mark, rows)
        return f"{SAME}{how}"

    return (bad_cell, bad_cell, cells, columns, row_twice, other_mark, only_a_head, meant_the_same, meant_the_same)


# --- NIfTI ----------------------------------------------------------------------------------------------------------


def _saved(path: Path, array: np.ndarray, affine: np.ndarray | None, kind: type = nib.Nifti1Image) -> None:
    kind(array, affine).to_filename(path)


def flipped(path: Path, rng: Generator) -> str:
    content = bytearray(path.read_bytes())
    bit = int(rng.integers(8 * len(content)))
    content[bit // 8] ^= 1 << (bit % 8)
    path.write_bytes(content)
    return f"bit {bit} flipped"


def header_field(path: Path, rng: Generator) -> str:
    content = bytearray(gzip.decompress(path.read_bytes()))
    where, kind, values = one_of(
        rng,
        (40, "<i2", [0, 9, -3, 7]),  # number of axes
        (42, "<i2", [0, -5, 32767, 3]),  # first axis
        (70, "<i2", [0, 1, 32, 128, 1792, 2304, 9999]),  # type of the voxels
        (108, "<f4", [0, 16, 336, 368, 1e9, np.nan, -1]),  # where the voxels begin
        (252, "<i4", [0]),  # codes of both orientations
        (280, "<f4", [np.nan, np.inf, 0, 1e30, -777]),  # the affine
        (0, "<i4", [0, 540, 1]),  # size of the header
        (344, "<i4", [0, 1]),  # magic
    )
    value = one_of(rng, *values)
    data = np.array([value], kind).tobytes()
    content[where : where + len(data)] = data
    path.write_bytes(gzip.compress(bytes(content), mtime=0))
    return f"header at {where} is {value}"


def other_voxels(path: Path, rng: Generator) -> str:
    image = nib.load(path)
    array = image.get_fdata(dtype=np.float32)
    cropped = ("cropped",) if array.ndim == 3 else ()  # of all maps alike it is a smaller image, and none the worse
    how = one_of(rng, "NaN", "inf", "complex", "colours", *cropped, "five axes", "four volumes", "flat", "none")
    if how in ("NaN", "inf"):
        array[tuple(int(rng.integers(n)) for n in array.shape)] = np.nan if how == "NaN" else -np.inf
    elif how == "complex":
        array = array.astype(np.complex64)
    elif how == "colours":
        array = np.zeros(array.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    elif how == "cropped":
        array = array[:, :-1]
    elif how == "five axes":
        array = np.stack([array] * 2, -1)[:, :, :, None]
    elif how == "four volumes":
        array = np.stack([array] * 4, -1)
    elif how == "flat":
        array = array[:, :, 0]
    else:
        array = array[:0]
    _saved(path, array, image.affine)
    return f"voxels: {how}"


def other_place(path: Path, rng: Generator) -> str:
    image = nib.load(path)
    affine = image.affine.copy()
    alone = len(image.shape) == 4  # nothing else says where it lies
    how = one_of(rng, "sheared", "unknown", "in m", "flat", *(() if alone else ("shifted", "mirrored")))
    if how == "shifted":
        affine[:3, 3] += rng.uniform(1, 30, 3)
    elif how == "sheared":
        affine[0, 1] += 0.7 * affine[0, 0]
    elif how == "mirrored":
        affine[0] *= -1
    elif how == "in m":
        affine[:3] /= 1000
    elif how == "flat":
        affine[:, 1] = 0
    if how in ("unknown", "flat"):
        content = bytearray(nib.Nifti1Image(image.get_fdata(dtype=np.float32), image.affine).to_bytes())
        if how == "unknown":
            content[252:256] = bytes(4)
        else:
            content[280:328] = bytes(48)
        path.write_bytes(gzip.compress(bytes(content), mtime=0))
    else:
        _saved(path, image.get_fdata(dtype=np.float32), affine)
    return f"place: {how}"


def bomb(path: Path, rng: Generator) -> str:
    content = bytearray(gzip.decompress(path.read_bytes()))
    if rng.random() < 0.5:
        content[42:48] = np.array([20_000, 20_000, 4_000], "<i2").tobytes()
        path.write_bytes(gzip.compress(bytes(content), mtime=0))
        return "claims 1.6 TB"
    path.write_bytes(gzip.compress(bytes(content) + bytes(40_000_000), 1, mtime=0))
    return "40 MB of zeros behind the voxels"


def tail(path: Path, rng: Generator) -> str:
    path.write_bytes(path.read_bytes() + one_of(rng, b"\0" * 700, b"text", gzip.compress(b"more"), rng.bytes(30)))
    return "bytes behind the stream"


def not_packed(path: Path, rng: Generator) -> str:
    path.write_bytes(gzip.decompress(path.read_bytes()))
    return ".nii.gz that is not compressed"


def as_others_write(path: Path, rng: Generator) -> str:
    image = nib.load(path)
    array = image.get_fdata(dtype=np.float32)
    how = one_of(rng, "axis of 1", "float64", "int16", "NIfTI-2", "big-endian", "members", "qform alone")
    if how == "axis of 1":
        _saved(path, array[..., None] if rng.random() < 0.5 else array[..., None, None], image.affine)
    elif how == "float64":
        _saved(path, array.astype(np.float64), image.affine)
    elif how == "NIfTI-2":
        _saved(path, array, image.affine, nib.Nifti2Image)
    elif how == "int16" and array.ndim > 3:  # one step for maps of several units is no other way to write the same
        _saved(path, array.astype(np.float64), image.affine)
    elif how == "int16":
        step = float(np.abs(array).max()) / 32000
        stored = nib.Nifti1Image(np.rint(array / step).astype(np.int16), image.affine)
        stored.header.set_slope_inter(step, 0)
        stored.to_filename(path)
    elif how == "big-endian":
        header = nib.Nifti1Header(endianness=">")
        header.set_data_dtype(np.dtype(">f4"))
        nib.Nifti1Image(array, image.affine, header).to_filename(path)
    elif how == "members":
        content = gzip.decompress(path.read_bytes())
        path.write_bytes(b"".join(gzip.compress(content[n : n + 4096]) for n in range(0, len(content), 4096)))
    else:
        stored = nib.Nifti1Image(array, image.affine)
        stored.set_qform(image.affine, 1)
        stored.set_sform(None, 0)
        stored.to_filename(path)
    return f"{SAME}{how}"


NIFTI: tuple[Change, ...] = (
    *(flipped, flipped, header_field, header_field, other_voxels, other_place, bomb, tail),
    *(not_packed, as_others_write, as_others_write),
)


# --- folders --------------------------------------------------------------------------------------------------------


def hidden_files(folder: Path, rng: Generator) -> str:
    """What macOS, Windows and editors leave beside each file."""
    for path in [p for p in folder.rglob("*") if p.is_file()]:
        path.with_name(f"._{path.name}").write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X" + bytes(100))
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (folder / name).write_bytes(rng.bytes(200))
    return f"{SAME}hidden files"


def any_of(path: Path, rng: Generator, *groups: tuple[Change, ...]) -> str:
    """One of some changes, a group first: `sub-01_T1w.nii.gz: cut off`."""
    words = one_of(rng, *one_of(rng, *groups))(path, rng)
    mark = SAME if words.startswith(SAME) else ""
    return f"{mark}{path.name}: {words.removeprefix(SAME)}"


def renamed(path: Path, old: str, new: str) -> str:
    """Another name for a file."""
    target = path.with_name(path.name.replace(old, new, 1))
    os.rename(path, target)
    return f"{path.name} is called {target.name}"
