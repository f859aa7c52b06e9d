"""`python -m RegistrationNetLib.worker [FOLDER]` is the background process that Slicer talks to."""

import sys

from .slicer_bridge.worker import main

if __name__ == "__main__":
    main(sys.argv[1:])
