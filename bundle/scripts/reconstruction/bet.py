"""Brain extraction by a surface that grows inside the head (BET).

After Smith, Hum Brain Mapp 2002, 17:143, with the constants of that paper. Positions are in mm, so thick slices need no
resampling, and what lies beyond the image counts as dark, so slabs work.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from scripts.reconstruction.progress import Progress, ignore_progress

#: How far the surface looks inwards for the darkest and the brightest voxel, mm.
_DARKEST_MM, _BRIGHTEST_MM = 20.0, 10.0
#: Radii of curvature between which smoothing sets in, mm.
_LEAST_RADIUS_MM, _MOST_RADIUS_MM = 3.33, 10.0
#: The surface first finds the brain with few triangles, then its edge with many.
_SUBDIVISIONS, _ITERATIONS = (3, 4), (400, 150)
#: Slices at the ends of a slab are repeated this far, so that the surface passes straight through them.
_BEYOND_MM = 10.0


def icosphere(subdivisions: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit sphere of triangles: vertices `[V, 3]` and faces `[F, 3]`, all seen counter-clockwise from outside."""
    golden = (1 + 5**0.5) / 2
    corners = [(-1, golden), (1, golden), (-1, -golden), (1, -golden)]
    places = [(a, b, 0) for a, b in corners] + [(0, a, b) for a, b in corners] + [(b, 0, a) for a, b in corners]
    vertices = np.array(places, dtype=float)
    side = 2.0
    triangles = [
        (i, j, k)
        for i in range(12)
        for j in range(i + 1, 12)
        for k in range(j + 1, 12)
        if all(abs(np.linalg.norm(vertices[a] - vertices[b]) - side) < 1e-6 for a, b in ((i, j), (j, k), (i, k)))
    ]
    faces = np.array(triangles)
    for _ in range(subdivisions):
        vertices, faces = subdivided(vertices, faces)
    vertices /= np.linalg.norm(vertices, axis=1, keepdims=True)
    normals = np.cross(vertices[faces[:, 1]] - vertices[faces[:, 0]], vertices[faces[:, 2]] - vertices[faces[:, 0]])
    inwards = (normals * vertices[faces[:, 0]]).sum(1) < 0
    faces[inwards] = faces[inwards][:, ::-1]
    return vertices, faces


def subdivided(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every triangle cut into four at the middles of its edges."""
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    unique, index = np.unique(edges, axis=0, return_inverse=True)
    ab, bc, ca = index.reshape(3, -1) + len(vertices)
    a, b, c = faces.T
    faces = np.concatenate([np.stack(t, 1) for t in ((a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca))])
    return np.concatenate([vertices, vertices[unique].mean(1)]), faces


class Surface:
    """A closed mesh that can tell its normals and its neighbours' means fast.

    Args:
        vertices: `[V, 3]` mm.
        faces: `[F, 3]`.
    """

    def __init__(self, vertices: np.ndarray, faces: np.ndarray) -> None:
        self.vertices, self.faces = vertices, faces
        pairs = np.unique(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=0)
        pairs = np.unique(np.concatenate([pairs, pairs[:, ::-1]]), axis=0)
        count = np.bincount(pairs[:, 0], minlength=len(vertices))
        # Five or six neighbours each; the sixth of five is the vertex itself with weight 0.
        self.neighbours = np.repeat(np.arange(len(vertices))[:, None], 6, axis=1)
        slot = np.arange(len(pairs)) - np.repeat(np.cumsum(count) - count, count)
        self.neighbours[pairs[:, 0], slot] = pairs[:, 1]
        self.weight = (np.arange(6) < count[:, None])[..., None] / count[:, None, None]

    def neighbour_mean(self) -> np.ndarray:
        """Mean of each vertex' neighbours, `[V, 3]`."""
        return (self.vertices[self.neighbours] * self.weight).sum(1)

    def normals(self) -> np.ndarray:
        """Outward unit normals, `[V, 3]`, of the faces around each vertex by area."""
        a, b, c = (self.vertices[self.faces[:, i]] for i in range(3))
        of_faces = np.cross(b - a, c - a)
        total = np.stack(
            [
                np.bincount(self.faces.ravel(), np.repeat(of_faces[:, axis], 3), minlength=len(self.vertices))
                for axis in range(3)
            ],
            1,
        )
        return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)

    def refined(self) -> "Surface":
        """The same surface with four times as many triangles."""
        return Surface(*subdivided(self.vertices, self.faces))

    def edge_length(self) -> float:
        """Mean distance of neighbours, mm."""
        difference = self.vertices[self.faces] - self.vertices[np.roll(self.faces, 1, axis=1)]
        return float(np.linalg.norm(difference, axis=2).mean())

    def filled(self, shape: Sequence[int], spacing_mm: np.ndarray) -> np.ndarray:
        """Bool `[X, Y, Z]`: voxels on or inside the surface."""
        corners = self.vertices[self.faces] / spacing_mm
        longest = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max()
        steps = int(np.ceil(longest * 2)) + 1
        u, v = np.meshgrid(np.linspace(0, 1, steps), np.linspace(0, 1, steps), indexing="ij")
        u, v = u[u + v <= 1], v[u + v <= 1]
        shell = np.zeros(np.array(shape) + 2, bool)
        for first, second in zip(u, v, strict=True):
            points = corners[:, 0] + first * (corners[:, 1] - corners[:, 0]) + second * (corners[:, 2] - corners[:, 0])
            index = np.clip(np.rint(points).astype(int), -1, shape) + 1
            shell[tuple(index.T)] = True
        return ndimage.binary_fill_holes(shell)[1:-1, 1:-1, 1:-1]


def extract_brain(
    image: np.ndarray, spacing_mm: Sequence[float], threshold: float, progress: Progress = ignore_progress
) -> np.ndarray:
    """Find the brain.

    Args:
        image: magnitude `[X, Y, Z]`, any unit.
        spacing_mm: voxel size.
        threshold: 0..1; smaller values give a larger brain (BET's fractional intensity threshold).
        progress: told how far the work is.

    Returns:
        Bool `[X, Y, Z]`.
    """
    spacing = np.asarray(spacing_mm, dtype=float)
    beyond = np.rint(_BEYOND_MM / spacing).astype(int)
    image = np.pad(image, [(n, n) for n in beyond], mode="edge").astype(np.float32)
    dark, bright = np.percentile(image[::2, ::2, ::2], (2, 98))
    level = dark + 0.1 * (bright - dark)
    head = image > level
    weights = np.where(head, np.clip(image, dark, bright), 0.0)
    total = weights.sum()
    centre = np.array(
        [
            (weights.sum(tuple(a for a in range(3) if a != axis)) * np.arange(n)).sum() / total * spacing[axis]
            for axis, n in enumerate(image.shape)
        ]
    )
    radius = (0.75 / np.pi * head.sum() * spacing.prod()) ** (1 / 3)
    axes = [(np.arange(n) * d - c) ** 2 for n, d, c in zip(image.shape, spacing, centre, strict=True)]
    median = float(np.median(image[sum(np.ix_(*axes)) < radius**2]))

    look = Look(image, spacing, dark, level, median, threshold)
    vertices, faces = icosphere(_SUBDIVISIONS[0])
    surface = Surface(centre + 0.5 * radius * vertices, faces)
    done = 0
    for subdivisions, iterations in zip(_SUBDIVISIONS, _ITERATIONS, strict=True):
        if subdivisions > _SUBDIVISIONS[0]:
            surface = surface.refined()
        for iteration in range(iterations):
            if iteration % 20 == 0:
                length = surface.edge_length()
                progress(done / sum(_ITERATIONS))
            step = displacement(surface, look, length)
            surface.vertices += step
            done += 1
    progress(1.0)
    inside = surface.filled(image.shape, spacing)
    return inside[tuple(slice(n, -n) for n in beyond)]


class BET:
    """See `extract_brain`.

    Args:
        threshold: BET's fractional intensity threshold (paper, Dataset: 0.2).
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def __call__(
        self, image: np.ndarray, spacing_mm: Sequence[float], progress: Progress = ignore_progress
    ) -> np.ndarray:
        """Find the brain; arguments as for `extract_brain`."""
        return extract_brain(image, spacing_mm, self.threshold, progress)


class Look:
    """What a vertex sees along its inward normal.

    Args:
        image: `[X, Y, Z]`.
        spacing: voxel size, mm, `[3]`.
        dark, level, median: robust minimum, brain/background level, and median of the head.
        threshold: BET's fractional intensity threshold.
    """

    def __init__(
        self, image: np.ndarray, spacing: np.ndarray, dark: float, level: float, median: float, threshold: float
    ) -> None:
        self.dark, self.level, self.median, self.threshold = dark, level, median, threshold
        padded = np.pad(image, 1)  # dark voxels around the image catch every position beyond it
        self.flat, self.shape = padded.ravel(), padded.shape
        self.spacing = spacing.astype(np.float32)
        self.depth = np.arange(0.0, _DARKEST_MM + 0.5, max(1.0, float(spacing.min())), dtype=np.float32)
        self.near = int((self.depth <= _BRIGHTEST_MM).sum())

    def force(self, vertices: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """Between -2 and 2 for each vertex: positive where it still lies inside the brain."""
        start, direction = (vertices / self.spacing).astype(np.float32), (normals / self.spacing).astype(np.float32)
        index = np.zeros((len(vertices), len(self.depth)), np.int32)
        for axis, size in enumerate(self.shape):
            along = start[:, axis, None] - self.depth * direction[:, axis, None]
            along += 1.5  # the padding, and half a voxel for rounding
            np.clip(along, 0, size - 1, out=along)
            index *= size
            index += along.astype(np.int32)
        seen = self.flat[index]
        darkest = np.maximum(self.dark, np.minimum(self.median, seen.min(1)))
        brightest = np.minimum(self.median, np.maximum(self.level, seen[:, : self.near].max(1)))
        local = (brightest - self.dark) * self.threshold + self.dark
        return 2 * (darkest - local) / np.maximum(brightest - self.dark, 1e-12)


def displacement(surface: Surface, look: Look, length: float) -> np.ndarray:
    """One step of every vertex, mm: evenly spaced, smooth, and towards the edge of the brain."""
    normals = surface.normals()
    step = surface.neighbour_mean() - surface.vertices
    inwards = (step * normals).sum(1, keepdims=True)
    tangent = step - inwards * normals
    least, most = 1 / _MOST_RADIUS_MM, 1 / _LEAST_RADIUS_MM
    curvature = 2 * np.abs(inwards) / length**2
    smooth = 0.5 * (1 + np.tanh(6 / (most - least) * (curvature - (most + least) / 2)))
    push = 0.05 * length * look.force(surface.vertices, normals)[:, None]
    return 0.5 * tangent + (smooth * inwards + push) * normals
