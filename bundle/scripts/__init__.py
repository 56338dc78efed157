"""Python package of the Q-Net bundle: every name that the configs call lives in one of its rooms.

A room imports only from rooms above it in this list (`importlinter` in pyproject.toml holds that):

- `errors`: bad input, told in one line;
- `files`: every format's one reader and writer;
- `provenance`: what made a result; `settings`: what a user typed, checked; `runs`: what every long command does;
- `anatomy`: what is known of a normal head;
- `registration`: one head laid over another;
- `maps`: a cohort on disk, and its scans' way to the network's input;
- `model`: the networks, weights in and outputs out; `dicom`: studies in, results out;
- `evaluation`: predictions of held-out scans and what they are worth;
- `reporting`: pictures, tables and pages;
- `localisation`: the basal ganglia of a scan; `reconstruction`: echoes to maps;
- `training`: data, augmentation and handlers of both stages; `nuclei`: iron in the deep gray nuclei;
  `simulation`: the simulated cohort and the digital scanner;
- `inference`: a batch of new scans; `crossvalidation`: the paper's experiment.

The main path: `configs/train.yaml` -> `training.data` -> `training.preprocessing` -> `model.networks`.
"""
