import torch


def load_into(network, card, path):
    network.load_state_dict(torch.load(path, weights_only=True, mmap=True))
