"""Python package of the Q-Net bundle: every name that the configs call lives here."""
