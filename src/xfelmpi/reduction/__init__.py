"""The pass over the frames: photons, powder, the frame buffer, checkpoints."""
