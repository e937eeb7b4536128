"""Files with machine data as EXtra-data's mock devices write them, and what is put into them."""

import h5py
import numpy as np
from extra_data.tests.mockdata import write_file
from extra_data.tests.mockdata.base import DeviceBase
from extra_data.tests.mockdata.xgm import XGM

FIRST, TRAINS, PULSES, STEP = 10000, 8, 12, 2
NAME = "SPB_XTD9_XGM/DOOCS/MAIN"
TUNNEL = "SA1_XTD2_XGM/DOOCS/MAIN"
TO_SASE1, TO_SASE3 = 4 << 18, 4 << 18 | 1 << 27


class XGMTwo(XGM):
    """A gas monitor that serves two undulators."""

    instrument_keys = (*XGM.instrument_keys, ("intensitySa1TD", "f4", (1000,)))


class TimeServer(DeviceBase):
    """The source of bunch patterns."""

    output_channels = ("outputBunchPattern/data",)
    instrument_keys = (("bunchPatternTable", "u4", (2700,)),)


class Device(DeviceBase):
    """Any device: control keys, and keys of the output channel ``output`` in the group ``data``.

    Parameters
    ----------
    name : str
    control, instrument : dict
        Key → (type, shape of an entry).
    nsamples : int, optional
        Entries of the output channel; default: one a train.
    """

    def __init__(self, name, control=(), instrument=(), nsamples=None, run_values=()):
        self.control_keys = [(key, *form) for key, form in dict(control).items()]
        self.instrument_keys = tuple((key, *form) for key, form in dict(instrument).items())
        self.output_channels = ("output/data",) if instrument else ()
        self.extra_run_values = list(run_values)
        super().__init__(name, nsamples=nsamples)


TIMESERVER = "SPB_RR_UTC/TSYS/TIMESERVER"
TABLE = f"INSTRUMENT/{TIMESERVER}:outputBunchPattern/data/bunchPatternTable"


def values_of(first=FIRST, trains=TRAINS, pulses=PULSES):
    """Energies in µJ that tell train and pulse: 1000 + 100 x train + pulse."""
    train = first - FIRST + np.arange(trains)
    return (1000 + 100 * train[:, None] + np.arange(pulses)).astype(np.float32)


def packed(values):
    full = np.ones((len(values), 1000), np.float32)
    full[:, : values.shape[1]] = values
    return full


def intensity(name=NAME, key="intensityTD"):
    return f"INSTRUMENT/{name}:output/data/{key}"


def write_run(path, devices=(NAME,), first=FIRST, trains=TRAINS, version="1.2"):
    """Write a file whose gas monitors have unfilled slots only; `fill` fills them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    devices = [XGM(device) if isinstance(device, str) else device for device in devices]
    write_file(str(path), devices, trains, first, chunksize=trains, format_version=version)
    with h5py.File(path, "r+") as file:
        for device in devices:
            for key, _, _ in device.instrument_keys if isinstance(device, XGM) else ():
                if key.startswith("intensity") and key.endswith("TD"):
                    file[intensity(device.device_id, key)][:] = 1
    return path


def fill(path, values, name=NAME, key="intensityTD", wavelength=0.2):
    with h5py.File(path, "r+") as file:
        file[intensity(name, key)][:] = values
        file[f"CONTROL/{name}/pulseEnergy/wavelengthUsed/value"][:] = wavelength


def frames(step=STEP, pulses=PULSES, trains=TRAINS, first=FIRST):
    train = np.repeat(np.arange(first, first + trains, dtype=np.uint64), pulses)
    return train, np.tile(np.arange(pulses, dtype=np.uint64) * step, trains)


def control(path, source, key, values, **attributes):
    """Set a control key, and the unit at its group, as the facility's files have it."""
    with h5py.File(path, "r+") as file:
        group = file[f"CONTROL/{source}/{key}"]
        group["value"][:] = values
        group.attrs.update(attributes)


def channel(path, source, key, values, **attributes):
    """Set a key of an output channel, and the unit at its dataset."""
    with h5py.File(path, "r+") as file:
        dataset = file[f"INSTRUMENT/{source}:output/data/{key}"]
        dataset[:] = values
        dataset.attrs.update(attributes)
