"""How far a model's output for one scan is to be believed, by the calibration that lies beside its weights.

`model_calibration.json` beside `model.pt` holds what calibrates its probability, the scores that an answer is given by,
and what the training scans were like. `scripts.training.calibrate` writes it. It is of the weights whose hash it names:
beside others it is refused, and so is one that was changed since it was written.
"""

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from scripts.errors import InputError
from scripts.files.json_file import read_json
from scripts.files.nifti import ENDINGS
from scripts.files.seal import check_seal, sealed
from scripts.files.writing import write_json
from scripts.maps.appearance import in_words
from scripts.maps.identity import known_as, met_before
from scripts.model.calibration import METHODS, WITH_PREVALENCE, Calibrator, check_prevalence, logits
from scripts.model.conformal import USUAL_ERROR, check_error, decisions, p_values
from scripts.model.familiarity import REFUSE_BEYOND, WORDS, check_known, strangeness
from scripts.provenance import check_of_weights, record_beside
from scripts.runs.finished import content_of_file

#: How the flag of a strange scan begins.
STRANGE = "unlike the training scans"
#: The flags of a scan that the weights know; they say nothing of the scan's maps.
SEEN = "this scan trained or calibrated the weights: the result is no test of them"
CALIBRATED = "this scan calibrated the weights, and did not train them: the result is no test of the calibration"
CURE = "delete it to go on without calibration, or make it again with configs/calibrate.yaml"


def calibration_path(weights: str | os.PathLike) -> Path:
    """Where the calibration of weights lies: beside them, `model_calibration.json` of `model.pt`."""
    path = Path(weights)
    return path.with_name(f"{path.stem}_calibration.json")


def files_of(weights: str | os.PathLike) -> list[str]:
    """The weights and, where it is there, their calibration: what a result was made of."""
    path = calibration_path(weights)
    return [os.fspath(weights), *([str(path)] if os.path.lexists(path) else [])]


def calibration_sha256(weights: str | os.PathLike) -> str | None:
    """SHA-256 of the calibration beside weights; None where there is none."""
    return content_of_file(calibration_path(weights))


def read_calibration(weights: str | os.PathLike) -> tuple[Mapping[str, Any] | None, str]:
    """The calibration beside weights, or None and the reason, in words for a result.

    Raises:
        InputError: the file is damaged, or is not of these weights.
    """
    path = calibration_path(weights)
    digest = content_of_file(path)
    if digest is None:
        if os.path.lexists(path):  # a link that leads nowhere, say
            read_json(path, "calibration", CURE)
        return None, "these weights have no calibration; configs/calibrate.yaml makes one"
    found = _parsed(str(path), digest)
    if content_of_file(weights) not in found["weights"].values():
        check_of_weights(found, path, weights, CURE)
    return found, ""


@lru_cache(maxsize=4)
def _parsed(path: str, digest: str) -> Mapping[str, Any]:
    """A calibration's content; `digest` is that of the file, so that a changed one is read again."""
    found = read_json(path, "calibration", CURE)
    if found["calibration"]["method"] not in METHODS:
        raise InputError(f"{path}: calibration.method is none of {', '.join(METHODS)}; {CURE}")
    if not found["scores"]["HC"] or not found["scores"]["HH"]:
        raise InputError(f"{path}: scores lacks a group; {CURE}")
    for nucleus, usual in (found.get("nucleus_evidence") or {}).items():
        if usual["low"] > usual["high"]:
            raise InputError(f"{path}: the range of {nucleus} in nucleus_evidence is upside down; {CURE}")
    if known := found.get("familiarity"):
        try:  # whether its numbers fit together is found out before work, not by the first scan
            check_known(known)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise InputError(f"{path}: the parts of familiarity do not fit together; {CURE}") from error
    check_seal(found, path, CURE)
    return found


def write_calibration(weights: str | os.PathLike, content: Mapping[str, Any]) -> Path:
    """Write a calibration beside its weights, whose SHA-256 it holds, and its own; returns its path."""
    path = calibration_path(weights)
    write_json(path, sealed({"weights": {Path(weights).name: content_of_file(weights)}, **content}))
    return path


def set_aside_former(weights: str | os.PathLike) -> None:
    """Rename the calibration of former weights, which new ones have replaced: nothing of theirs holds any more."""
    path = calibration_path(weights)
    if not path.is_file():
        return
    try:
        read_calibration(weights)
    except InputError:
        kept = path.with_name(f"{path.stem}_of_former_weights.json")
        os.replace(path, kept)
        print(f"{path.name}: was of the former weights and is {kept.name} now; configs/calibrate.yaml makes a new one")


class Trust:
    """What a result says of its own worth.

    Args:
        weights: the weights file; their calibration lies beside it.
        prevalence: share of HH among those who are scanned; None: that of the scans that calibrated. Not of a
            calibration by temperature, whose probabilities hold for no known share.
        conformal_error: share of each group's scans that may be denied their group.
        refuse_beyond: a scan that is so many times the limit strange is refused; None: it is flagged only;
            `calibrated`: as the calibration says.

    Raises:
        InputError: a number that cannot be.
    """

    def __init__(
        self,
        weights: str | os.PathLike,
        prevalence: float | None = None,
        conformal_error: float = USUAL_ERROR,
        refuse_beyond: float | str | None = "calibrated",
    ) -> None:
        check_prevalence(prevalence)
        check_error(conformal_error)
        if isinstance(refuse_beyond, int | float) and not refuse_beyond >= 1:
            raise InputError(
                f"refuse_beyond is {refuse_beyond:g}; give at least 1 (times the limit), null, or calibrated"
            )
        if isinstance(refuse_beyond, str) and refuse_beyond != "calibrated":
            raise InputError(f"refuse_beyond is {refuse_beyond}; give a number from 1, null, or calibrated")
        self.weights = weights
        self.prevalence = prevalence
        self.conformal_error = conformal_error
        self.refuse_beyond = refuse_beyond

    def check(self) -> None:
        """Before work, where there is a before: refuse a damaged calibration, an error at which nothing could ever be
        said, and a prevalence that would count for nothing.

        Raises:
            InputError: see `read_calibration` and `scripts.model.conformal.check_error`.
        """
        known, _ = read_calibration(self.weights)
        if known is None and self.prevalence is not None:
            raise InputError(
                f"prevalence is {self.prevalence:g}, but {Path(self.weights).name} has no calibration beside it, which"
                " it would shift; make one with configs/calibrate.yaml, or leave prevalence out"
            )
        if known is not None:
            if self.prevalence is not None and known["calibration"]["method"] not in WITH_PREVALENCE:
                raise InputError(
                    f"prevalence is {self.prevalence:g}, but the calibration of {Path(self.weights).name} is by"
                    f" {known['calibration']['method']}, whose probabilities hold for no known share of HH, so none can"
                    " be moved to another; calibrate with --calibration_method platt, or leave prevalence out"
                )
            check_error(self.conformal_error, known["scores"], f"the calibration of {Path(self.weights).name}")

    def __call__(
        self, probability: float, embedding: np.ndarray | None = None, appearance: Mapping[str, float] | None = None
    ) -> dict[str, Any]:
        """What a scan's result gets.

        Args:
            probability: of HH, as the network gives it.
            embedding: `[d]`, what the network makes of the scan.
            appearance: from `scripts.maps.appearance.appearance`.

        Returns:
            `calibrated_probability_HH`, `answer` (`HH`, `HC` or `cannot say`), `trust` (how both came about) and
            `familiarity` (`scripts.model.familiarity.strangeness`, `flagged`); or `calibration_missing`, the reason.

        Raises:
            InputError: the scan is refused, because it is too unlike the training scans; see `check`, too.
        """
        self.check()  # a server builds this from the config and asks for nothing before its first scan
        known, reason = read_calibration(self.weights)
        if known is None:
            return {"calibration_missing": reason}
        fitted = known["calibration"]
        calibrator = Calibrator(fitted["method"], fitted["slope"], fitted["intercept"], fitted["prevalence"])
        score = float(logits(probability))
        p = p_values(score, known["scores"])
        said: dict[str, Any] = {
            "calibrated_probability_HH": float(calibrator(score, self.prevalence)),
            "answer": str(decisions(p, self.conformal_error)),
            "trust": {
                "method": fitted["method"],
                **self.share_of_hh(fitted),
                "conformal_error": self.conformal_error,
                "p_HC": float(p[0]),
                "p_HH": float(p[1]),
                "calibrated_on": {group: len(scores) for group, scores in known["scores"].items()},
                "scores_from": known["scores_from"],
            },
        }
        if known.get("familiarity") and embedding is not None:
            said["familiarity"] = self.familiarity(known["familiarity"], embedding, appearance or {})
        return said

    def known_scan(self, path: str) -> list[str]:
        """The line that says that a result is no test, as the weights or their calibration know the scan; none where
        they do not, or where neither their record nor a calibration says whom they know.

        Args:
            path: NIfTI of the first map or of all, as the image's metadata name it; of a DICOM study its name, by which
                no scan is known.

        Raises:
            InputError: see `scripts.maps.identity.known_as`.
        """
        known = read_calibration(self.weights)[0] or {}
        trained = {*record_beside(self.weights).get("trained_by", ())}
        seen = trained.union(known.get("seen", ()))
        if not seen or not path.endswith(ENDINGS) or not os.path.isfile(path):
            return []
        met = met_before(known_as(path), seen, {*known.get("calibrated_by", ())} - trained)
        return [] if met is None else [CALIBRATED if met == "calibrated" else SEEN]

    def share_of_hh(self, fitted: Mapping[str, Any]) -> dict[str, Any]:
        """What the calibrated probability holds for: `prevalence`, None where no share is known, and `prevalence_from`.

        Args:
            fitted: `calibration` of the file.
        """
        if fitted["method"] not in WITH_PREVALENCE:
            return {"prevalence": None, "prevalence_from": f"unknown: {fitted['method']} scaling fits none"}
        if self.prevalence is not None:
            return {"prevalence": self.prevalence, "prevalence_from": "the key prevalence"}
        return {"prevalence": fitted["prevalence"], "prevalence_from": "the scans that calibrated"}

    def healthy_nuclei(self) -> Mapping[str, Mapping[str, float]] | None:
        """What each nucleus says for HH in healthy controls (`scripts.model.nucleus_evidence.healthy_range`)."""
        known, _ = read_calibration(self.weights)
        return None if known is None else known.get("nucleus_evidence")

    def familiarity(
        self, known: Mapping[str, Any], embedding: np.ndarray, appearance: Mapping[str, float]
    ) -> dict[str, Any]:
        """How strange the scan is, and whether that is flagged.

        Raises:
            InputError: it is refused.
        """
        path, due = calibration_path(self.weights), len(known["references"]["embedding"]["along"]["centre"])
        if len(embedding) != due:
            raise InputError(
                f"{path}: familiarity is of a network with {due} features, not of {len(embedding)}; {CURE}"
            )
        found = strangeness(known, embedding, appearance)
        if not np.isfinite(found["strangeness"]):  # which no limit would catch
            raise InputError(f"{path}: the numbers of familiarity make none of this scan; {CURE}")
        beyond = self.refuse_beyond
        if isinstance(beyond, str):
            beyond = known.get("refuse_beyond", REFUSE_BEYOND)
        if beyond is not None and found["strangeness"] > beyond:
            raise InputError(
                f"the scan is unlike the training scans ({unlike(found)}), {found['strangeness']:.1f} times the limit,"
                f" and is refused from {beyond:g} on; check its maps, use a model trained on such scans, or look at it"
                " all the same with refuse_beyond null"
            )
        return {**found, "flagged": found["strangeness"] > 1}


def unlike(found: Mapping[str, Any]) -> str:
    """By what a scan is strange, in a few words.

    Args:
        found: from `scripts.model.familiarity.strangeness`.
    """
    name = max(found["by"], key=lambda key: found["by"][key])
    if name != "appearance":
        return WORDS[name]
    return f"{WORDS[name]}: {', '.join(f'{in_words(what)} {off:+.1f} SD' for what, off in found['most'])}"


def flag_of(familiarity: Mapping[str, Any]) -> list[str]:
    """The line that flags a strange scan; none for a familiar one."""
    if not familiarity.get("flagged"):
        return []
    return [f"{STRANGE}, {familiarity['strangeness']:.1f} times the limit ({unlike(familiarity)})"]


def flags_and_notes(flags: Sequence[str]) -> tuple[list[str], list[str]]:
    """A scan's flags, without those that are no doubt about its maps or its answer; and these."""
    known = (SEEN, CALIBRATED)
    return [flag for flag in flags if flag not in known], [flag for flag in flags if flag in known]
