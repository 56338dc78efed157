"""Makes what is published: `python -m release` from the repository root."""

import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
BUNDLE = REPOSITORY / "bundle"
#: The bundle's name for every client. MONAI Label takes a name with "classification" in it for another kind of app.
NAME = "qnet_hemochromatosis"

sys.path.insert(0, str(BUNDLE))
