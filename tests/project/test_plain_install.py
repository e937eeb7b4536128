"""The program as ``pip install xfelmpi`` gives it: from the archive of the sources, wheels of PyPI.

No MPI and no parallel HDF5 are used: h5py and mpi4py are the wheels that anybody gets.
"""

import os
import resource
import subprocess
import sys

import launch
import pytest
from compare import assert_same_outputs
from docpages import ROOT
from optional import unavailable

pytestmark = pytest.mark.slow

ONLINE = "XFELMPI_TEST_PIP"


def run(*command, **options):
    command = list(map(str, command))
    return subprocess.run(command, capture_output=True, text=True, **options)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel made from an archive of the sources, quickly: without optimising."""
    folder = tmp_path_factory.mktemp("dist")
    made = run(
        sys.executable, "-c", f"import mesonpy; mesonpy.build_sdist({str(folder)!r})", cwd=ROOT
    )
    assert made.returncode == 0, made.stdout + made.stderr
    (archive,) = folder.glob("xfelmpi-*.tar.gz")
    pip = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "-w", folder]
    made = run(*pip, "--config-settings=setup-args=-Doptimization=0", archive)
    assert made.returncode == 0, made.stdout + made.stderr
    (wheel,) = folder.glob("xfelmpi-*.whl")
    return wheel


@pytest.fixture(scope="module")
def plain(wheel, tmp_path_factory):
    """The Python of an environment with nothing but the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp("plain") / "venv"
    assert run(sys.executable, "-m", "venv", "--without-pip", folder).returncode == 0
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-compile"]
    # what setup.sh has built with MPI must not be taken for a wheel of PyPI
    only_wheels = ["--only-binary=:all:", "--retries=1", "--timeout=20"]
    done = run(*pip, *only_wheels, wheel, env={**os.environ, "PIP_CONSTRAINT": ""})
    if done.returncode and "No matching distribution" in done.stderr:
        unavailable("no package index can be reached", ONLINE)
    assert done.returncode == 0, done.stderr
    config = run(python, "-c", "import h5py; print(h5py.get_config().mpi)")
    assert config.stdout == "False\n", config.stderr
    return python


def test_archive_has_version_and_commit(plain):
    """Without git, the program knows the same as where the archive was made."""
    words = [[], ["commit"]]
    here, commit = (run(ROOT / "jobs" / "version.sh", *more).stdout.strip() for more in words)
    told = run(plain, "-m", "xfelmpi", "--version").stdout
    assert told == f"xfelmpi {here} (commit {commit.removesuffix('-dirty')})\n"


@pytest.fixture(scope="module")
def experiment(plain, tmp_path_factory):
    """A run simulated, and processed, in the plain environment."""
    prefix = tmp_path_factory.mktemp("experiment")
    options = ["--trains", 2, "--cells", 8, "--hit-rate", 0.3, "--prefix", prefix]
    options += ["--detector", "AGIPD-500K"]
    done = xfelmpi(plain, "simulate", 50, *options)
    assert done.returncode == 0, done.stderr
    done = xfelmpi(plain, 50, "--prefix", prefix, "--output", prefix / "plain")
    assert done.returncode == 0, done.stderr
    return prefix


def xfelmpi(python, *words, **env):
    return launch.run_program([python, "-m", "xfelmpi", *words], **env)


def test_everything_works_on_one_process(plain, experiment):
    where = ["--prefix", experiment, "--output", experiment / "plain"]
    for command in (["verify", 50], ["show", 50], ["report", 50], ["merge", 50], ["vds", 50]):
        done = xfelmpi(plain, *command, *where)
        assert done.returncode == 0, (command, done.stdout + done.stderr)
    again = xfelmpi(plain, 50, "--from-events", "--sigma", 5, *where)
    assert again.returncode == 0, again.stderr


def test_same_outputs_as_with_mpi(experiment):
    output = experiment / "with_mpi"
    first = experiment / "again"
    for folder, ranks in ((output, 2), (first, 0)):
        args = [50, "--prefix", experiment, "--output", folder, "--no-report"]
        assert launch.run_xfelmpi(args, ranks).returncode == 0
    assert_same_outputs(first, output)
    # room that was kept for the data is given back; attributes have other words
    for name in ("events/r0050_events.h5", "powder/r0050_powder.h5"):
        assert abs((first / name).stat().st_size - (output / name).stat().st_size) < 1000


def test_ranks_with_a_serial_hdf5_are_refused_before_the_pass(plain, experiment):
    output = experiment / "refused"
    words = [plain, "-m", "xfelmpi", 50, "--prefix", experiment, "--output", output]
    done = launch.run_program(["mpirun", "-n", 2, *words])
    assert done.returncode == 2, done.stderr
    assert done.stdout.strip() == ""
    told = [line for line in done.stderr.splitlines() if line.startswith("xfelmpi")]
    assert len(told) == 1, done.stderr
    assert "2 ranks, but this h5py" in told[0]
    assert "Traceback" not in done.stderr
    assert not output.exists()


def test_mpi_that_is_not_there(plain):
    """A launcher's variables, and no MPI library: one line, status 2."""
    done = xfelmpi(plain, "show", 50, OMPI_COMM_WORLD_SIZE=4, MPI4PY_LIBMPI="/no/libmpi.so")
    assert done.returncode == 2
    assert done.stderr.startswith("xfelmpi: error: ")
    assert len(done.stderr.splitlines()) == 1


def test_package_is_imported_quickly(plain):
    program = "import sys; import xfelmpi; print('mpi4py' in sys.modules, 'h5py' in sys.modules)"
    times = {program: [], "print()": []}
    for words, seconds in times.items():
        for _ in range(5):
            before = time_of_children()
            done = run(plain, "-c", words)
            seconds.append(time_of_children() - before)
            assert done.stdout == ("False False\n" if words == program else "\n"), done.stderr
    assert min(times[program]) - min(times["print()"]) < 0.1


def time_of_children() -> float:
    """Return the processors' time, in s, of all processes started here that have ended."""
    about = resource.getrusage(resource.RUSAGE_CHILDREN)
    return about.ru_utime + about.ru_stime
