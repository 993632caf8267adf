"""Verify models on the kernels of other processors, which qemu imitates: answers, not times."""
