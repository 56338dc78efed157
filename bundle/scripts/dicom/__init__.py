"""DICOM studies in, DICOM results out."""
