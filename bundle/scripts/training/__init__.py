"""Data, augmentation and handlers of both stages."""
