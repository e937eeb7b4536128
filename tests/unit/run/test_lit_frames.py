"""Which X-ray pulses made a frame: the facility's answer, the detector's settings, or a guess."""

import h5py
import numpy as np
import pytest
from beamlinefiles import BeamlineRun, said

from xfelmpi.core.machine_records import UNKNOWN_PULSES
from xfelmpi.run.machine import bunch_pattern
from xfelmpi.simulate import beamline

RUNS = {
    "4.5 MHz": {"pulse_step": 1},
    "2.2 MHz": {"pulse_step": 2, "dark_cells": 1},
    "1.1 MHz": {"pulse_step": 4, "dark_cells": 1, "lit_cells": 12},
    "0.5 MHz": {"pulse_step": 8, "dark_cells": 3},
    "late first pulse": {"pulse_step": 4, "dark_cells": 2, "first_pulse": 1164},
    "at the end of the table": {"pulse_step": 8, "dark_cells": 1, "first_pulse": 2500},
    "veto": {"pulse_step": 2, "veto": 0.5, "dark_cells": 2, "first_pulse": 200},
    "double pulses": {"pulse_step": 4, "pulses_per_frame": 2, "dark_cells": 1},
    "eight pulses": {"pulse_step": 8, "pulses_per_frame": 8, "first_pulse": 333},
    "nothing from the gas monitor": {"unseen_trains": (0, 3), "dark_cells": 1},
    "decoder": {"bunch_pattern": "decoder", "dark_cells": 1, "first_pulse": 16, "pulse_step": 4},
}
MISSED = 10_000e-6


@pytest.fixture(params=RUNS)
def options(request):
    return RUNS[request.param]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lit_frames", "alignment", "generation"),
    [
        ("found", "by first pulse", 1),
        ("settings", "by first pulse", 2),
        ("settings", "by reference delay", 1),
        ("settings", "by reference delay", 2),
    ],
)
def test_as_extra_redu(tmp_path, options, lit_frames, alignment, generation):
    pytest.importorskip("extra_redu")
    run = BeamlineRun(
        tmp_path,
        lit_frames=lit_frames,
        alignment=alignment,
        detector_generation=generation,
        **options,
    )
    data = run.read()
    n_pulses, energy = run.redu()
    np.testing.assert_array_equal(data.n_pulses, n_pulses)
    np.testing.assert_array_equal(data.n_pulses, run.column("n_pulses"))
    assert data.n_pulses.dtype == np.uint8
    known = np.isfinite(data.pulse_energy)
    np.testing.assert_array_equal(data.pulse_energy[known], energy[known])
    # what the gas monitor missed is not known, and is 10 mJ for each pulse there
    np.testing.assert_allclose(energy[~known], MISSED * n_pulses[~known])
    np.testing.assert_array_equal(data.pulse_energy, run.truth)
    assert (data.pulse_energy[data.n_pulses == 0] == 0).all()
    assert not said(data, "contradict")
    where = "REDU/LITFRM:output" if lit_frames == "found" else "MDL/FPGA_COMP"
    (source,) = (s for s in data.sources if s.value == "pulse_energy")
    assert where in f"{source.source} {source.rule}"
    assert said(data, f"pulse energy from {source.source}") == 1
    assert "n_pulses" in [s.value for s in data.sources]


def test_missing_energies_are_a_problem(tmp_path):
    data = BeamlineRun(tmp_path, unseen_trains=(2,)).read()
    (problem,) = data.problems
    assert "24 of 144 frames" in problem.what


def test_settings_without_a_gas_monitor(tmp_path):
    run = BeamlineRun(tmp_path, lit_frames="settings", dark_cells=2, unseen_trains=range(6))
    data = run.read()
    np.testing.assert_array_equal(data.n_pulses, run.column("n_pulses"))
    assert np.isnan(data.pulse_energy[data.n_pulses > 0]).all()
    assert said(data, "no XGM with values")


@pytest.mark.parametrize("code", [0, 4 << 18 | 1 << 27])
def test_bunch_pattern_without_a_pulse_of_the_instrument(tmp_path, code):
    """The gas monitor has seen light: the table is empty, or of another undulator's bunches."""
    run = BeamlineRun(tmp_path, lit_frames="settings", dark_cells=1, pulse_step=4)
    with h5py.File(run.path, "r+") as file:
        path = f"INSTRUMENT/{beamline.TIMESERVER}:outputBunchPattern/data/bunchPatternTable"
        file[path][:] = np.where(file[path][:] != 0, code, 0)
    data = run.read()
    np.testing.assert_array_equal(data.pulse_energy, run.truth)
    assert said(data, "has no pulse of this instrument in the whole run, but SPB_XTD9_XGM") == 1
    assert said(data, "assumed")


def test_no_pulses_and_noise_of_the_gas_monitor(tmp_path):
    """Without a beam, a monitor shows some µJ: the pattern is right, and all frames are dark."""
    run = BeamlineRun(tmp_path, lit_frames="settings", dark_cells=1, pulse_step=4)
    with h5py.File(run.path, "r+") as file:
        file[f"INSTRUMENT/{beamline.TIMESERVER}:outputBunchPattern/data/bunchPatternTable"][:] = 0
        intensity = file[f"INSTRUMENT/{beamline.XGM}:output/data/intensityTD"]
        intensity[:] = np.where(intensity[:] == 1, 1, intensity[:] / 1000)
    data = run.read()
    assert (data.n_pulses == 0).all()
    assert not said(data, "bunch pattern is not used")


def test_default_reference_frame_is_assumed(tmp_path):
    """Settings of the detector alone: its first pulse made frame 1, as EXtra-redu has it."""
    run = BeamlineRun(tmp_path, lit_frames="settings", pulse_step=4, first_pulse=100)
    run.remove(f"RUN/{beamline.LITFRM}", f"CONTROL/{beamline.LITFRM}")
    unlist(run, beamline.LITFRM)
    data = run.read()
    n_pulses, energy = run.redu()
    assert (n_pulses.reshape(6, -1)[:, 0] == 0).all()
    np.testing.assert_array_equal(data.n_pulses, n_pulses)
    np.testing.assert_array_equal(data.pulse_energy, energy)
    assert said(data, "assumed")


@pytest.mark.parametrize("step", [1, 4])
@pytest.mark.parametrize("dark_cells", [0, 1, 3])
def test_settings_without_a_bunch_pattern(tmp_path, step, dark_cells):
    """The frame of the first pulse is known by the finder's settings, and not assumed."""
    options = {"lit_frames": "settings", "bunch_pattern": "none", "pulse_step": step}
    run = BeamlineRun(tmp_path, dark_cells=dark_cells, **options)
    data = run.read()
    np.testing.assert_array_equal(data.pulse_energy, run.truth)
    np.testing.assert_array_equal(data.n_pulses, run.column("n_pulses"))
    assert not said(data, "memory cell 1, as EXtra-redu assumes")


@pytest.mark.parametrize("pattern", ["timeserver", "none"])
def test_what_is_assumed_of_the_first_pulse_is_a_warning(tmp_path, pattern):
    """Pulse energies may be those of the pulse before: nobody must find that out in the notes."""
    run = BeamlineRun(tmp_path, lit_frames="none", bunch_pattern=pattern, dark_cells=0)
    (warning,) = (w for w in run.read().warnings if "assumed" in w)
    assert "may be off by one pulse or more" in warning
    assert "memory cell 1" in warning


def test_reference_frame_that_is_assumed_is_a_warning(tmp_path):
    run = BeamlineRun(tmp_path, lit_frames="settings", pulse_step=4, first_pulse=100)
    run.remove(f"RUN/{beamline.LITFRM}", f"CONTROL/{beamline.LITFRM}")
    unlist(run, beamline.LITFRM)
    assert any("may be off by one pulse" in w and "frame 1" in w for w in run.read().warnings)


def unlist(run, source):
    """Remove a source from the list of sources."""
    with h5py.File(run.path, "r+") as file:
        group = file["METADATA/dataSources"]
        keep = [source not in name.decode() for name in group["dataSourceId"][:]]
        for name in group:
            values = group[name][:][keep]
            del group[name]
            group[name] = values


@pytest.mark.parametrize("pattern", ["timeserver", "decoder", "none"])
@pytest.mark.parametrize("step", [1, 4])
@pytest.mark.parametrize("dark_cells", [0, 1])
def test_nothing_about_the_detector(tmp_path, pattern, step, dark_cells):
    """The first pulse made the frames of cell 1: right if it did."""
    options = {"lit_frames": "none", "bunch_pattern": pattern, "pulse_step": step}
    run = BeamlineRun(tmp_path, dark_cells=dark_cells, **options)
    data = run.read()
    energy, truth = (values.reshape(6, -1) for values in (data.pulse_energy, run.truth))
    assert (data.n_pulses.reshape(6, -1)[:, 0] == 0).all()
    np.testing.assert_array_equal(energy[:, 0], 0)
    first = 1 - dark_cells
    np.testing.assert_array_equal(energy[:, 1:], truth[:, 1 - first : truth.shape[1] - first])
    assert said(data, "assumed: the first pulse made the frames of memory cell 1")
    assert said(data, "are dark")
    assert "assumed" in next(s.rule for s in data.sources if s.value == "pulse_energy")


def test_cells_from_1_on(tmp_path):
    run = BeamlineRun(tmp_path, lit_frames="none", cells=tuple(range(1, 9)), dark_cells=1)
    data = run.read()
    np.testing.assert_array_equal(data.pulse_energy, run.truth)
    assert (data.n_pulses == 1).all()


@pytest.mark.parametrize(
    ("name", "values", "what"),
    [
        ("energyPerFrame", 1234.0, "the pulse energy of 144 frames"),
        ("nPulsePerFrame", 2, "the number of pulses of 144 frames"),
    ],
)
def test_sources_that_contradict_each_other(tmp_path, name, values, what):
    run = BeamlineRun(tmp_path)
    run.change(**{f"LITFRM:output__data__{name}": values})
    data = run.read()
    (warning,) = (w for w in data.warnings if "contradict" in w)
    assert what in warning
    assert "LITFRM" in warning
    # the facility's word counts
    if name == "energyPerFrame":
        np.testing.assert_allclose(data.pulse_energy, 1234e-6)
    else:
        assert (data.n_pulses == 2).all()


def test_energies_against_the_monitor_alone(tmp_path):
    run = BeamlineRun(tmp_path, bunch_pattern="none")
    assert not said(run.read(), "contradict")
    run.change(**{"DOOCS__MAIN:output__data__intensityTD": 777.0})
    assert said(run.read(), "the gas monitor contradict each other in the pulse energy of 144")


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        (
            "RUN__SPB_IRU_AGIPD1M1__MDL__FPGA_COMP__bunchStructure__repetitionRate__value",
            3.1,
            "3.1",
        ),
        ("RUN__SPB_IRU_AGIPD1M1__MDL__FPGA_COMP__classId__value", b"Other", "Other"),
        ("RUN__SPB_IRU_AGIPD1M1__REDU__LITFRM__alignMethod__value", b"by heart", "by heart"),
        ("RUN__SPB_EXP_SYS__TSYS__UTC_1_S3__backTrg3__event__value", 99, "event 99"),
        ("RUN__SPB_IRU_AGIPD1M1__MDL__FPGA_COMP__integrationTime__value", -22, "integrationTime"),
    ],
)
def test_settings_that_do_not_tell(tmp_path, name, value, text):
    alignment = "by reference delay" if "event" in name else "by first pulse"
    run = BeamlineRun(tmp_path, lit_frames="settings", dark_cells=1, alignment=alignment)
    run.change(**{name: value})
    data = run.read()
    assert said(data, text) == 1
    assert said(data, "the detector's settings are not used") == 1
    # the next best
    np.testing.assert_array_equal(data.pulse_energy, run.truth)


def test_frames_that_the_finder_does_not_know(tmp_path):
    run = BeamlineRun(tmp_path)
    run.change(**{"LITFRM:output__data__nFrame": 20})
    data = run.read()
    unknown = run.column("cells") >= 20
    np.testing.assert_array_equal(data.n_pulses == UNKNOWN_PULSES, unknown)
    np.testing.assert_array_equal(np.isnan(data.pulse_energy), unknown)
    assert said(data, "pulse energy unknown for 24 of 144 frames")


@pytest.mark.parametrize("per_frame", [1, 2])
def test_added_arrays_of_the_monitor_have_the_same_slots(tmp_path, per_frame):
    options = {"pulse_step": 4, "pulses_per_frame": per_frame, "dark_cells": 3}
    run = BeamlineRun(tmp_path, **options)
    (sigma,) = run.read([f"sigma={beamline.XGM}:output/data.intensitySigmaTD"]).added
    lit = run.column("n_pulses") > 0
    assert np.isnan(sigma.values[~lit]).all()
    # of several pulses, the last one
    last = np.concatenate([p.pulse_energy_uj[per_frame - 1 :: per_frame] for p in run.plans])
    np.testing.assert_allclose(sigma.values[lit], last * 1e-6 * beamline.XGM_SIGMA, rtol=1e-6)


PUMPED = {"pulse_step": 4, "dark_cells": 1, "first_pulse": 100, "veto": 0.2}


def every_second(run):
    """Return which frames the laser must have seen that has every second X-ray pulse."""
    cell = run.column("cells").astype(int) - run.options.dark_cells
    return (cell >= 0) & (cell % 2 == 0)


@pytest.mark.parametrize("lit_frames", ["found", "settings", "none"])
def test_pumped_by_the_table(tmp_path, lit_frames):
    run = BeamlineRun(tmp_path, lit_frames=lit_frames, **PUMPED)
    assert run.read().pumped is None
    with h5py.File(run.path, "r+") as file:
        table = file[f"INSTRUMENT/{beamline.TIMESERVER}:outputBunchPattern/data/bunchPatternTable"]
        values = table[:]
        # the laser of SPB; that of FXE does not matter
        values[:, 100::8] |= 1 << 10
        values[:, 104::8] |= 1 << 11
        table[:] = values
    data = run.read()
    np.testing.assert_array_equal(data.pumped, every_second(run))
    assert data.pumped.dtype == np.uint8
    (source,) = (s for s in data.sources if s.value == "pumped")
    assert beamline.TIMESERVER in source.source
    assert said(data, "pumped from") == 1


def test_pumped_by_the_decoder(tmp_path):
    run = BeamlineRun(tmp_path, bunch_pattern="decoder", **PUMPED)
    slots = np.arange(100, 100 + 4 * 23, 8)
    with h5py.File(run.path, "r+") as file:
        laser = file.create_group(f"CONTROL/{beamline.DECODER}/laser")
        laser["nPulses/value"] = np.full(6, len(slots), "i4")
        laser["pulseIds/value"] = np.pad(np.tile(slots, (6, 1)), ((0, 0), (0, 300)))
    data = run.read()
    np.testing.assert_array_equal(data.pumped, every_second(run))
    assert said(data, f"pumped from {beamline.DECODER}") == 1


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        (bunch_pattern.TIMESERVER, "SPB_EXP_SYS/TSYS/TIMESERVER:outputBunchPattern"),
        (bunch_pattern.TIMESERVER, "SPB_RR_SYS/TSYS/TIMESERVER:outputBunchPattern"),
        (bunch_pattern.TIMESERVER, "SPB_BR_SYS/TSYS/TIMESERVER"),
        (bunch_pattern.TIMESERVER, "SPB_RR_UTC/TSYS/TIMESERVER"),
        (bunch_pattern.DECODER, "SPB_RR_SYS/MDL/BUNCH_PATTERN"),
        (bunch_pattern.DECODER, "MID_RR_SYS/MDL/PULSE_PATTERN_DECODER"),
        (bunch_pattern.DECODER, "SA2_BR_UTC/MDL/BUNCHPATTERN_DECODER"),
    ],
)
def test_names_of_bunch_patterns(pattern, name):
    assert pattern.search(name)
