"""Beamline data of simulated runs without any images, and what EXtra-redu makes of them."""

import h5py
import numpy as np
from bothways import read_machine_data

from xfelmpi.core.paths import Experiment
from xfelmpi.simulate import beamline
from xfelmpi.simulate.options import SimulationOptions
from xfelmpi.simulate.plan import plan_train

DETECTOR = "SPB_DET_AGIPD1M-1"
FILE = "RAW-R0050-DA01-S00000.h5"


class BeamlineRun:
    """A run of which only the beamline's file is there.

    Parameters
    ----------
    folder : Path
    **options
        For `SimulationOptions`.
    """

    def __init__(self, folder, **options):
        options = {"trains": 6, "cells": tuple(range(24)), "sample": "lysozyme", **options}
        self.options = SimulationOptions(prefix=folder, **options)
        self.experiment = Experiment(folder, folder / "scratch", 50)
        self.path = self.experiment.run_folder("raw") / FILE
        self.path.parent.mkdir(parents=True)
        self.plans = [plan_train(self.options, i) for i in range(self.options.trains)]
        about = {"options": self.options, "proposal": 7927, "sequence": 0}
        beamline.write_machine_file(self.path, self.plans, **about)
        (part,) = self.path.parent.glob("*.part")
        part.rename(self.path)

    def column(self, name):
        """Return a column of the frames that were recorded, in order."""
        return np.concatenate([getattr(plan, name) for plan in self.plans])

    @property
    def train_id(self):
        ids = [np.full(len(plan), plan.train_id, np.uint64) for plan in self.plans]
        return np.concatenate(ids)

    def read(self, added=()):
        """Return what the program finds."""
        ids = self.train_id, self.column("pulse_ids")
        cells = self.column("cells")
        return read_machine_data(self.experiment, *ids, tuple(added), DETECTOR, cells)

    @property
    def truth(self):
        """Energies in J, rounded as files have them; NaN where nobody knows them."""
        return self.column("frame_energy_uj").astype(np.float32).astype(float) * 1e-6

    def redu(self):
        """Return pulses and energies (J) of the frames as EXtra-redu's offline finder has them."""
        from extra_redu.litfrm import make_litframe_finder
        from extradata import RunDirectory

        with RunDirectory(self.path.parent) as run:
            finder = make_litframe_finder("SPB", run)
            # simulated runs have other ones than its defaults
            finder.xgm_id = f"{beamline.XGM}:output"
            finder.bunch_pattern_id = f"{beamline.TIMESERVER}:outputBunchPattern"
            output = finder.process().output
            trains = finder.r.meta.trainId
        row = np.searchsorted(trains, self.train_id)
        frame = self.column("cells").astype(int)
        pulse_ids = output.detectorPulseId[row, frame]
        np.testing.assert_array_equal(pulse_ids, self.column("pulse_ids"))
        n, energy = (
            values[row, frame] for values in (output.nPulsePerFrame, output.energyPerFrame)
        )
        return n, energy.astype(float) * 1e-6

    def change(self, **datasets):
        """Put values into datasets, by the end of their path with ``__`` for slashes."""
        with h5py.File(self.path, "r+") as file:
            for name, values in datasets.items():
                found = []
                end = name.replace("__", "/")
                file.visit(
                    lambda path, end=end, found=found: (
                        found.append(path) if path.endswith(end) else None
                    )
                )
                assert found, end
                for path in found:
                    file[path][...] = values

    def remove(self, *paths):
        with h5py.File(self.path, "r+") as file:
            for path in paths:
                del file[path]


def said(data, text):
    """Return how many lines of the log have a text."""
    return sum(text in line for line in (*data.notes, *data.warnings))
