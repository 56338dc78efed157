"""Iron in the deep gray nuclei: measured, tabled, against age."""
