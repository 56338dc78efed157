"""The simulated cohort: heads with iron in the deep nuclei, and the scanner that images them.

Read top to bottom:

- ``poses``: one random head per subject, of the templates in ``scripts.anatomy``;
- ``iron``: how much iron each nucleus holds at which age, and where hemochromatosis (HH) puts it;
- ``acquisition``: from tissue and iron to QSM, R2* and T1-weighted maps with the scanner's faults;
- ``subject``: one participant, from random numbers to files;
- ``cohort``: participants, folders, processes. ``configs/simulate.yaml`` calls ``cohort.simulate``;
- ``dicom``: the scans as DICOM studies, with the habits of ``vendors`` and the headers of ``dicom_headers``;
- ``difficulty``: how hard the cohort is, measured three ways.

Raw data come from a digital scanner, which shares no code with the reconstruction (``configs/simulate_raw.yaml``):

- ``head``: susceptibility, R2*, T1 and proton density of a whole head on a fine grid, oblique or not;
- ``field``: the field that it makes, and the shim;
- ``gre``: complex echoes at each flip angle;
- ``raw`` and ``raw_dicom``: BIDS with the truth, and DICOM;
- ``raw_cohort``: settings, subjects, processes;
- ``from_raw``: the cohort's scans through scanner and reconstruction.

Nothing here is patient data and nothing here is meant to teach a model about patients: it exists so that
every other part of the bundle can be run, tested and timed by anybody.
"""
