"""What the record beside weights must say at least."""

#: As `configs/train.yaml` has it.
RECORDED = {
    "region": "cropped",
    "num_slices": 16,
    "spatial_size": [128, 128],
    "stretch_percentiles": [0.5, 99.5],
    "hidden_size": 128,
}
