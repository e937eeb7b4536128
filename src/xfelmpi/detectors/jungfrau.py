"""The JUNGFRAU-4M of SPB/SFX."""

from xfelmpi.detectors.base import Detector, FrameDatasets

JUNGFRAU_4M = Detector(
    name="JUNGFRAU-4M",
    module_name="JNGFR",
    file_name="JNGFR",
    device=r"[^/]+_JF4M[^/]*",
    # raw and corrected data alike, and in older runs other names
    source=r"/(?:CORR|DET)/(?:JNGFR|MODULE_|RECEIVER-)(\d+):(?:daqOutput|output)",
    sources=("CORR/JNGFR{:02d}:output", "DET/JNGFR{:02d}:daqOutput"),
    geometry="JUNGFRAUGeometry",
    n_modules=8,
    first_module=1,
    module_shape=(512, 1024),
    asic_shape=(256, 256),
    # pixels between ASICs are wider; the correction marks them (NON_STANDARD_SIZE)
    pixel_size=(75e-6, 75e-6),
    max_cells=16,
    datasets=FrameDatasets(
        data="data/adc",
        mask="data/mask",
        cell_id="data/memoryCell",
        train_id="data/trainId",
        pulse_id=None,
        by_train=True,
    ),
)
"""Names and axes as EXtra-data's ``JUNGFRAU`` has them."""
