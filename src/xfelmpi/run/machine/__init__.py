"""Beamline data: pulse energies, wavelength, motors, sample name, any added values."""
