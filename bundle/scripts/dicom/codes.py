"""Codes and words that every DICOM result shares."""

from pydicom.sr.coding import Code

MANUFACTURER = "Q-Net bundle"
HEMOCHROMATOSIS = Code("E83.110", "I10C", "Hereditary hemochromatosis")
HEALTHY = Code("HC", "99QNET", "Healthy control")
#: The series whose images the slices and the evidence refer to.
REFERENCE = "T1w"
NO_UNITS = Code("1", "UCUM", "no units")
