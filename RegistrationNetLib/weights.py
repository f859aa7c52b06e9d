def weights_file(card):
    raise NotImplementedError
