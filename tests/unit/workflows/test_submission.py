"""What ``xfelmpi submit`` says of runs before it asks Slurm."""

import pytest

from xfelmpi.workflows.watch.submission import submit_runs


@pytest.mark.parametrize(
    ("words", "kind", "n_bytes"),
    [
        ([], "proc", 300),
        (["--detector", "SCS_DET_DSSC1M-1"], "proc", 300),
        (["--detector=SPB_DET_AGIPD1M-1"], "raw", 7),
        (["--detector", "SPB_DET_AGIPD1M-1", "--data", "proc"], "", 0),
        (["--data=raw"], "raw", 7),
        (["--detector", "FXE_DET_LPD1M-1"], "", 0),
    ],
)
def test_data_of_the_detector_that_is_asked_for(tmp_path, words, kind, n_bytes):
    """A run may have several; the size of its files says how many nodes a job gets."""
    for name, size in (("proc/r0050/CORR-R0050-DSSC00", 300), ("raw/r0050/RAW-R0050-AGIPD00", 7)):
        path = tmp_path / f"{name}-S00000.h5"
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(size))
    # without a folder of programs there is no sbatch
    (found,) = submit_runs(
        tmp_path,
        tmp_path / "out",
        [50],
        slurm=(),
        nodes=1,
        words=words,
        environment={"PATH": str(tmp_path)},
    )
    assert (found.kind, found.n_bytes, found.job) == (kind, n_bytes, "")
    assert found.why
