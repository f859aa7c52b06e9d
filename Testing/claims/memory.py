"""How much memory one step of training takes: `python -m Testing.claims.memory nephi|gradicon SIZE` prints MB."""

import resource
import sys

import torch

from RegistrationNetLib.models.gradicon import GradICONLoss, gradicon_network
from RegistrationNetLib.models.nephi import NePhi
from RegistrationNetLib.models.nephi_loss import NePhiLoss
from RegistrationNetLib.training.learning import LearningOptions, learning
from RegistrationNetLib.training.state import Trainee
from RegistrationNetLib.training.synthetic import AnatomyPairs

from .setting import Unlabelled


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    name, shape = sys.argv[1], (int(sys.argv[2]),) * 3
    if name == "nephi":
        network, loss = NePhi(shape), NePhiLoss()
    else:
        network, loss = gradicon_network(3), GradICONLoss()
    pairs = Unlabelled(AnatomyPairs(shape))
    pairs.draw(torch.Generator().manual_seed(0))
    before = peak_mb()
    list(learning(Trainee(network), loss, pairs, LearningOptions(steps=1)))
    print(peak_mb() - before)


if __name__ == "__main__":
    main()
