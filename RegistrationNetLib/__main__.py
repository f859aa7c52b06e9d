"""`python -m RegistrationNetLib` is the command `registrationnet`."""

import sys

from .cli import main

sys.exit(main())
