"""Values per hit from sparse lists and a geometry, against a sum by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from xfelmpi.analysis.hit_analysis import hit_analyses
from xfelmpi.core.errors import UsageError
from xfelmpi.core.sparse_frames import SparseFrames

GEOMETRY = SimpleNamespace(xyz=np.array([[3e-3, 0, 6e-3], [4e-3, 1e-3, 8e-3], [0.7, 0.7, 0.7]]))


def test_mean_radius():
    """Two photons at 5 mm and one at 10 mm; a pixel that is bad in the frame has none."""
    hits = SparseFrames(
        np.array([0, 3, 4, 4]),
        np.array([0, 1, 2, 1], np.uint32),
        np.array([2, 0, 1, 0], np.uint16),
    )
    run = SimpleNamespace(geometry=GEOMETRY)
    (analysis,) = (cls(run) for cls in hit_analyses(("radius",)).values())
    (radius,) = analysis.process(SimpleNamespace(frames=hits))
    np.testing.assert_allclose(radius, [(2 * 5e-3 + 10e-3) / 3, np.nan, np.nan])


def test_unknown_name():
    with pytest.raises(UsageError, match=r"mass: unknown, there are: .*radius"):
        hit_analyses(("mass",))
