"""What a similarity means where it is used: at the resolution of the images, and where the pair is still far from aligned."""

from __future__ import annotations

from ..losses.similarity import LNCC, MINDSSC, Measure, MutualInformation, SquaredLNCC, measure_named

# For the field: narrow windows, and an ε that keeps the noise of the background from counting.
FIELD_MEASURES: dict[str, Measure] = {
    "lncc": LNCC(sigma_vox=1.5, epsilon=1e-4, stride_vox=2, is_balanced=True),
    "lncc2": SquaredLNCC(sigma_vox=1.5, epsilon=1e-4, stride_vox=2),
    "mind": MINDSSC(radius=1, dilation=1),
    "mi": MutualInformation(bins=128, is_fitted=True),
}
# Factor on the regularity of the field. Information rises by more than correlation does, and where it is all that counts the field
# bends until any two images share it; the structure of noise is no guide either.
FIELD_STIFFNESS = {"mi": 30.0, "mind": 10.0}
# Measures that take it that bright in one image is bright in the other.
OF_ONE_CONTRAST = ("lncc", "ncc", "ssd")
# For the alignment, which comes from farther away: wide windows, or none.
ALIGNMENT_MEASURES: dict[str, Measure] = {
    "lncc": LNCC(sigma_vox=3.0, epsilon=1e-3),
    "lncc2": SquaredLNCC(sigma_vox=3.0, epsilon=1e-3),
    "mind": MutualInformation(),
}


def field_measure(name: str) -> Measure:
    """The measure `name` at the resolution of the images.

    Raises:
        InputError: there is no such measure.
    """
    return FIELD_MEASURES.get(name) or measure_named(name)


def alignment_measure(measure: Measure) -> Measure:
    """What judges the alignment of a pair whose field is judged by `measure`, and the whole before and after."""
    return ALIGNMENT_MEASURES.get(measure.name, measure)


def label_weight(measure: Measure) -> float:
    """What labels of both images count beside the similarity of the field.

    Within one contrast the images know their places better than labels, whose borders are as coarse as voxels; across contrasts it is the
    other way round.
    """
    return 0.3 if measure.name in OF_ONE_CONTRAST else 1.0
