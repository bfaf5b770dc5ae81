"""The three-view scheme: 2D networks on axial, coronal and sagittal slices of a volume, and the fusion of what they predict.

Pinheiro et al., Thalamus segmentation using deep learning with diffusion MRI data: an open benchmark, Applied Sciences 2023, 13, 5284.
There each view predicts every slice of a cube of 144 voxels and the three softmax maps are averaged. Here planning, preprocessing,
training and prediction are nnU-Net's, on volumes of any shape and voxel size, and the mean is one of three fusions.
"""
