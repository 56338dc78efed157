#!/bin/sh
# Installs what the BIDS App needs, in the tested versions, into a virtual environment: install.sh REPOSITORY ENVIRONMENT
# Both recipes (Dockerfile, qnet.def) call it, as an ordinary user.
set -eu
repository=$1
environment=$2
python3 -m venv "$environment"
"$environment/bin/pip" install --no-cache-dir --progress-bar off -c "$repository/constraints.txt" torch
"$environment/bin/pip" install --no-cache-dir --progress-bar off -c "$repository/constraints.txt" \
    "$repository[simulate,dicom,reconstruct]"
