"""One head laid over another: poses, affine, splines."""
