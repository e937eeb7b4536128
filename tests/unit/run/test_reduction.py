"""What the facility left out: REDUCTION and ERRATA as EXtra-data's mock devices have them."""

import h5py
import numpy as np
import pytest
from bothways import read_machine_data
from extra_data.tests.mockdata import write_file
from extra_data.tests.mockdata.detectors import AGIPDModule
from extra_data.tests.mockdata.xgm import XGM
from extradata import RunDirectory

auxiliary = pytest.importorskip("extra_data.tests.mockdata.auxiliary")

DETECTOR = "SPB_DET_AGIPD1M-1"
TRAINS, FRAMES, FIRST = 8, 10, 10_000


def write(folder, *, reduced=True):
    """Write one module's file and one of the beamline's."""
    folder.mkdir(parents=True)
    module = AGIPDModule(f"{DETECTOR}/DET/3CH0", raw=True, frames_per_train=FRAMES)
    devices = [module]
    if reduced:
        devices += [
            auxiliary.AgipdPulseSelection(f"PULSE_REDUCTION/{DETECTOR}/DET/3CH0"),
            auxiliary.LitFrameFinderAux("SPB_IRU_AGIPD1M1/REDU/LITFRM"),
        ]
    options = {"ntrains": TRAINS, "firsttrain": FIRST, "chunksize": TRAINS, "format_version": "1.2"}
    path = folder / "RAW-R0050-AGIPD03-S00000.h5"
    write_file(str(path), devices, **options)
    beamline = [XGM("SPB_XTD9_XGM/DOOCS/MAIN")]
    if reduced:
        beamline.append(auxiliary.TrainsOutsideBufferRange("TRAINS_OUTSIDE_BUFFER_RANGE"))
        image = f"REDUCTION/PULSE_REDUCTION/{DETECTOR}/DET/3CH0:xtdf/image"
        with h5py.File(path, "r+") as file:
            file[f"{image}/data/wasReduced"][:] = 1
            file[f"{image}/data/reductionRatio"][:] = 0.25
    write_file(str(folder / "RAW-R0050-DA01-S00000.h5"), beamline, **options)


def read(experiment):
    train = np.repeat(np.arange(FIRST, FIRST + TRAINS, dtype="u8"), FRAMES)
    pulse = np.tile(np.arange(FRAMES, dtype="u8"), TRAINS)
    cells = pulse.astype("u2")
    return read_machine_data(experiment, train, pulse, (), DETECTOR, cells)


def test_reduced_run(experiment):
    folder = experiment.run_folder("raw")
    write(folder)
    with RunDirectory(folder) as run:
        assert len(run.auxiliary.reduction_sources) == 2
    found = read(experiment).reduction
    assert (found.recorded, found.before) == (80, 320)
    assert set(found.rules) == {"PULSE_REDUCTION", "SPB_IRU_AGIPD1M1/REDU/LITFRM:daqFilter"}
    assert list(found.errata) == ["TRAINS_OUTSIDE_BUFFER_RANGE"]
    (reduced, words), (errata, events) = found.words()
    assert reduced == "reduced"
    assert words.startswith("80 of 320 frames recorded, by ")
    assert (errata, events) == ("errata", f"TRAINS_OUTSIDE_BUFFER_RANGE: {TRAINS} events")


def test_whole_run(experiment):
    write(experiment.run_folder("raw"), reduced=False)
    assert read(experiment).reduction is None
