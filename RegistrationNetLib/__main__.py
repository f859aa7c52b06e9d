"""`python -m RegistrationNetLib` is the command `registrationnet`."""

import sys

from .cli.main import main

sys.exit(main())
