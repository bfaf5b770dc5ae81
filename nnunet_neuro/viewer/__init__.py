"""Looking at a prediction in a browser: the voxels as Zarr over HTTP, and neuroglancer on them."""
