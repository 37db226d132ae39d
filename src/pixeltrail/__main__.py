"""``python -m pixeltrail``, which is also how ``torchrun -m pixeltrail`` starts each process."""

import sys

from pixeltrail.cli import main

sys.exit(main())
