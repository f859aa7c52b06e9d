"""How an MR image is weighted, by the times in its DICOM header: T1, T2, FLAIR and so on show tissues in other orders.

The limits are those of textbooks on clinical MR at 1.5 and 3 T (Westbrook, MRI in Practice, 2018; Bernstein et al., Handbook of MRI Pulse Sequences,
2004), with gaps between the weightings, where a header says nothing for sure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import SimpleITK as sitk

# By their names in pydicom; the values travel with an image under the numbers, as SimpleITK keeps them.
TAGS = {
    "ScanningSequence": "0018|0020",
    "RepetitionTime": "0018|0080",
    "EchoTime": "0018|0081",
    "InversionTime": "0018|0082",
}
# Milliseconds. Fluid vanishes at long inversion times, fat at short ones; between them lie the magnetization-prepared T1 scans.
SHORT_ECHO, LONG_ECHO = 30.0, 60.0
SHORT_REPETITION, LONG_REPETITION = 900.0, 1800.0
FAT_VANISHES, FLUID_VANISHES = (80.0, 300.0), 1500.0
# Of gradient echoes, which are repeated far sooner.
SHORT_GRADIENT_ECHO, LONG_GRADIENT_ECHO = 12.0, 18.0


def weighting_of(image: sitk.Image) -> str:
    """ "T1", "T2", "T2*", "PD", "FLAIR" or "STIR"; "" where the image brings no times, or such as belong to none for sure."""
    given = {name: image.GetMetaData(key) for name, key in TAGS.items() if image.HasMetaDataKey(key)}
    return weighting(given)


def weighting(header: Mapping[str, str]) -> str:
    """As `weighting_of`, from values by pydicom's names of their tags; times are in ms."""
    echo, repetition, inversion = (_number(header.get(name, "")) for name in ("EchoTime", "RepetitionTime", "InversionTime"))
    sequences = set(header.get("ScanningSequence", "").replace(",", "\\").upper().replace(" ", "").split("\\"))
    if "EP" in sequences or math.isnan(echo) or echo <= 0:
        return ""
    if inversion > 0 and ("IR" in sequences or inversion >= FLUID_VANISHES):
        return _inverted(echo, inversion)
    if "GR" in sequences:
        return "T1" if echo < SHORT_GRADIENT_ECHO else "T2*" if echo > LONG_GRADIENT_ECHO else ""
    return _spin_echo(echo, repetition)


def _inverted(echo: float, inversion: float) -> str:
    if inversion >= FLUID_VANISHES:
        return "FLAIR" if echo > LONG_ECHO else ""
    if FAT_VANISHES[0] <= inversion <= FAT_VANISHES[1]:
        return "STIR"
    return "T1" if echo < SHORT_ECHO and inversion > FAT_VANISHES[1] else ""


def _spin_echo(echo: float, repetition: float) -> str:
    if repetition < SHORT_REPETITION and echo < SHORT_ECHO:
        return "T1"
    if repetition > LONG_REPETITION and echo > LONG_ECHO:
        return "T2"
    return "PD" if repetition > LONG_REPETITION and echo < SHORT_ECHO else ""


def _number(text: str) -> float:
    """The first number of a value; NaN where there is none."""
    try:
        return float(text.split("\\")[0])
    except ValueError:
        return math.nan
