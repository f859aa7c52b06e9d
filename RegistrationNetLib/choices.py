"""What a registration takes: every closed list of values and the smallest image, for the library, the command line and the panel."""

from __future__ import annotations

MODALITIES = ("ct", "mr", "other")
REFINEMENTS = ("none", "field", "network")
# Beside these, "auto" takes what the model's card says for the pair of modalities.
SIMILARITIES = ("lncc", "lncc2", "ncc", "ssd", "mind", "mi")
# In the order in which they are done.
ALIGNMENT_STAGES = ("centre", "pose", "rigid", "similarity", "affine")
# Landmarks measure the result, or guide it, too.
LANDMARK_USES = ("judge", "pull")
DEVICES = ("auto", "cpu", "cuda", "mps")
# How an image is read between its voxels when it is warped: the first two of images, the last two of labels.
INTERPOLATIONS = ("linear", "bspline", "nearest", "label-gaussian")
# Whose transforms are read from files; "auto" goes by what the file says.
TRANSFORM_FORMATS = ("auto", "itk", "fsl", "freesurfer", "elastix", "niftyreg")
# What can be required of a registration, the best first.
VERDICTS = ("fits", "look-closely")

# Of every image, along each axis.
SMALLEST_SIDE_VOX = 8

# The options of `register` that are values, not images, points or transforms.
OPTIONS = (
    "model",
    "refine",
    "steps",
    "similarity",
    "fixed_modality",
    "moving_modality",
    "landmarks",
    "tolerance",
    "align",
    "device",
    "weights",
    "smoothness",
    "mirrored",
    "conserve_mass",
    "repeats",
    "seed",
    "resolution",
)
